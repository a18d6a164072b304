"""Export a run's newest checkpoint to a folder for transformers and vLLM."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from parrot_jax.core.errors import UserError
from parrot_jax.weights.dtypes import Dtype

if TYPE_CHECKING:
    from parrot_jax.weights.model_folder import ModelFolder


@dataclass(frozen=True, kw_only=True)
class FlaxToHfConfig:
    """What to export, and how."""

    run: Annotated[str, tyro.conf.Positional]
    """A run folder, or a folder made by `convert hf-to-flax`."""

    out: Annotated[str, tyro.conf.Positional]
    """The output folder; an interrupted export of the same checkpoint is resumed."""

    dtype: Dtype | None = None
    """Dtype of the exported weights. Null = the checkpoint's (float32 by default)."""

    step: int | None = None
    """Which checkpoint. Null = the newest."""

    peft: bool = False
    """Export only the adapters of a run with `lora`, as a folder for peft. False = whole weights,
    in which adapters are merged."""

    base: str | None = None
    """With --peft: a folder or hub repository with the base in Hugging Face's format. Null = where
    the base was converted from."""

    shard_gb: float = 4.0
    """Largest size of a weights file, in 10^9 bytes."""

    license: str | None = None
    """Licence id of the hub for the model card, e.g. llama2. Null = not stated."""

    def __post_init__(self) -> None:
        if not 0 < self.shard_gb <= 4:
            raise UserError(f"--shard-gb is {self.shard_gb}; it must be above 0, at most 4.")


Config = FlaxToHfConfig


def run(config: FlaxToHfConfig) -> None:
    """Writes weights, tokenizer, chat template and model card; config.json comes last."""
    from parrot_jax.core.memory import keep_freed_memory

    keep_freed_memory()  # before jax starts its threads
    from pathlib import Path

    from parrot_jax.core.files import atomic_write
    from parrot_jax.core.logs import console
    from parrot_jax.core.paths import require_folder, require_local
    from parrot_jax.data.templates import make_template
    from parrot_jax.data.tokenizers import check_rows
    from parrot_jax.train.run_folder import RunFolder
    from parrot_jax.weights.flax_to_hf import (
        flax_to_hf,
        flax_to_peft,
        write_hf_config,
        write_peft_config,
    )
    from parrot_jax.weights.model_card import model_card

    require_local(config.out, "OUT")
    require_folder(config.out, "OUT")
    folder, out = RunFolder(config.run), Path(config.out)
    model = folder.load_model()
    trained = None if folder.is_converted() else folder.load_config()
    step = folder.latest_step() if config.step is None else config.step
    tokenizer = folder.load_tokenizer() if folder.tokenizer.exists() else None
    # With `new_tokenizer`, fewer token ids than embedding rows are intended.
    if tokenizer is not None and not (trained and trained.new_tokenizer):
        note = check_rows(tokenizer, model.vocab_size, str(folder.tokenizer))
        if note:
            console.print(note)
    fingerprint = tokenizer.fingerprint if tokenizer else None
    base = _base_of(folder, step, config.base) if config.peft else None
    if base is not None:
        dtype = flax_to_peft(
            folder, out, base=base, dtype=config.dtype, step=step, tokenizer=fingerprint
        )
    else:
        dtype = flax_to_hf(
            folder,
            out,
            dtype=config.dtype,
            step=step,
            tokenizer=fingerprint,
            max_shard_bytes=int(config.shard_gb * 10**9),
        )
    ids: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    if tokenizer is not None:
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
        if pad_token := tokenizer.roles.get("pad_token"):
            ids["pad_token_id"] = tokenizer.id_of(pad_token)
        room = model.max_position_embeddings
        if trained is None:
            tokenizer.save(out, max_tokens=room)
        else:
            template = make_template(trained.data.template, tokenizer)
            template.save(out, trained.task, max_tokens=room)
            stops = template.stop_ids
            ids["eos_token_id"] = stops[0] if len(stops) == 1 else list(stops)
    if trained is None:
        ids |= folder.source_ids()
    card = model_card(
        out.resolve().name, model, folder.training(), step=step, dtype=dtype,
        license=config.license, base=base,
    )  # fmt: skip
    with atomic_write(out / "README.md") as file:
        file.write(card)
    if base is not None:
        write_peft_config(folder, out, base, step)
        console.print(f"done: {out}. Load it with peft, or with vLLM's --enable-lora, over {base}.")
        return
    write_hf_config(out, model, dtype, ids)
    console.print(
        f"done: {out}. Serve it with `parrot serve {out} --backend vllm`; upload "
        "it with `parrot push`."
    )


def _base_of(folder: "ModelFolder", step: int, given: str | None) -> str:
    """The base of a run's adapters, in Hugging Face's format."""
    from parrot_jax.weights.adapters import OWN_BASE, recorded
    from parrot_jax.weights.hub import address_of
    from parrot_jax.weights.model_folder import ModelFolder

    adapter = recorded(folder.open_checkpoint(step)[0], step)
    if given is not None or adapter is None:  # `flax_to_peft` rejects whole weights
        return address_of(given) if given else ""
    checkpoints, base_step = folder.open_base(adapter)
    place = str(checkpoints.folder).removesuffix("/checkpoints")
    if place == str((folder.path / OWN_BASE).absolute()):
        raise UserError(_advice_for_merged(folder, checkpoints.made_of(base_step)))
    base = ModelFolder(place)
    if not base.is_converted():
        raise UserError(
            f"the base of {folder.path} is {base.path}, which was not converted from Hugging Face; "
            f"export it with `parrot convert flax-to-hf {base.path} BASE --step {base_step}` and "
            "add --base BASE."
        )
    return address_of(str(base.read_config()["converted_from"]))


def _advice_for_merged(folder: "ModelFolder", made_of: Mapping[str, Any]) -> str:
    """What to do about a base that is the sum of another run: it has no Hugging Face format."""
    from parrot_jax.weights.checkpoints import Checkpoints
    from parrot_jax.weights.model_folder import ModelFolder

    source = ModelFolder(folder.read_config()["init_from"])
    checkpoints = Checkpoints(source.checkpoints, read_only=True)
    step = checkpoints.step_of(made_of.get("merged_from", ""), first=0)
    problem = f"the base of {folder.path} is the sum of {source.path} and its adapters"
    if step is None:
        return (
            f"{problem}, but the checkpoint that it was merged from is not there any more; export "
            "without --peft."
        )
    return (
        f"{problem}; export that with `parrot convert flax-to-hf {source.path} BASE --step {step}` "
        "and add --base BASE."
    )
