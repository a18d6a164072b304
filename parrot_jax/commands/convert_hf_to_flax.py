"""Convert a model from Hugging Face to a folder for `parrot train --init-from`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from parrot_jax.distributed import DistributedConfig
from parrot_jax.model.families import num_parameters
from parrot_jax.weights.dtypes import Dtype

if TYPE_CHECKING:
    from pathlib import Path

    from parrot_jax.data.tokenizers import Tokenizer
    from parrot_jax.weights.hf_folder import HfFolder


@dataclass(frozen=True, kw_only=True)
class HfToFlaxConfig:
    """What to convert, and the output folder."""

    source: Annotated[str, tyro.conf.Positional]
    """A folder with config.json and safetensors, or a repository (org/name) of the hub."""

    out: Annotated[str, tyro.conf.Positional]
    """The output folder."""

    base: str | None = None
    """Of a folder with adapters (peft): the folder of their base, made by this command."""

    dtype: Dtype | None = None
    """Dtype of the stored weights. Null = the source's; float16 sources need an explicit float32 or
    bfloat16."""

    revision: str | None = None
    """Branch, tag or commit on the hub. Null = main."""

    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """The processes of the job; each converts its share. OUT must be on a shared disk."""


Config = HfToFlaxConfig


def run(config: HfToFlaxConfig) -> None:
    """Converts the weights, and the tokenizer if it can be read."""
    from parrot_jax.core.memory import keep_freed_memory

    keep_freed_memory()  # before jax starts its threads
    from parrot_jax.core.config import save_config
    from parrot_jax.core.logs import console
    from parrot_jax.core.paths import require_folder
    from parrot_jax.data.templates.published import native_format
    from parrot_jax.distributed import in_first_process, join_processes
    from parrot_jax.weights.hf_folder import HfFolder
    from parrot_jax.weights.hf_to_flax import hf_to_flax
    from parrot_jax.weights.hub import address_of, local_folder
    from parrot_jax.weights.model_folder import ModelFolder
    from parrot_jax.weights.peft_folder import is_peft_folder

    require_folder(config.out, "OUT")
    join_processes(config.distributed)
    place = local_folder(config.source, revision=config.revision)
    if is_peft_folder(place) or config.base is not None:
        _convert_adapters(config, place)
        return
    source = HfFolder(place)
    in_first_process(source.check_files, f"read {source.path}")
    console.print(f"{num_parameters(source.config):,} parameters in {source.path}")
    folder = ModelFolder(config.out)
    tokenizer = _load_tokenizer(source)
    converted = hf_to_flax(
        source,
        config.out,
        dtype=config.dtype,
        origin=address_of(config.source, revision=config.revision),
        tokenizer=tokenizer.fingerprint if tokenizer else None,
    )
    options = f"--init-from {config.out}"
    if tokenizer is not None:
        options += f" --data.tokenizer {folder.tokenizer}"
        if native := native_format(tokenizer):
            options += f" --data.template {native}"

    def finish() -> None:
        if tokenizer is not None:
            tokenizer.save(folder.tokenizer)
        save_config(converted, folder.config_path)

    in_first_process(finish, f"write {folder.config_path}")
    console.print(
        f"done. Copy the `model` block of {folder.config_path} into a training config, then run: "
        f"parrot train CONFIG {options}"
    )


def _convert_adapters(config: HfToFlaxConfig, source: "Path") -> None:
    """Converts a folder of peft, and copies the tokenizer of the base."""
    import jax

    from parrot_jax.core.config import save_config
    from parrot_jax.core.errors import UserError
    from parrot_jax.core.logs import console
    from parrot_jax.data.tokenizers import load_tokenizer
    from parrot_jax.model.lora_config import num_adapter_parameters
    from parrot_jax.weights.hf_to_flax import peft_to_flax
    from parrot_jax.weights.hub import address_of
    from parrot_jax.weights.model_folder import ModelFolder
    from parrot_jax.weights.peft_folder import CONFIG, PeftFolder, is_peft_folder

    if (processes := jax.process_count()) > 1:
        # They are small, and a checkpoint that one process of several writes waits for the others.
        raise UserError(
            f"adapters are converted by one process, but this job has {processes}; run the command "
            "on one host, without --distributed."
        )
    if not is_peft_folder(source):
        raise UserError(f"--base is for adapters, but {source} has no {CONFIG}; remove it.")
    if config.base is None:
        raise UserError(
            f"{source} has adapters of another model: convert that first, then add "
            "`--base FOLDER` with the folder that was made of it."
        )
    if config.dtype not in (None, "float32"):
        raise UserError(
            f"--dtype is {config.dtype}, but adapters are stored in float32; remove it."
        )
    base, out = ModelFolder(config.base), ModelFolder(config.out)
    checkpoints, step = base.open_checkpoint()
    dtypes = {array.dtype.name for array in checkpoints.stored(step).values()}
    model = base.load_model()
    adapters = PeftFolder(source, model, "float32" if "float32" in dtypes else "bfloat16")
    console.print(f"{num_adapter_parameters(model, adapters.lora):,} parameters in {source}")
    origin = address_of(config.source, revision=config.revision)
    converted = peft_to_flax(adapters, base, config.out, origin=origin)
    if base.tokenizer.exists():
        load_tokenizer(base.tokenizer).save(out.tokenizer)
    save_config(converted, out.config_path)
    console.print(
        f"done. {config.out} is used with its base: `parrot convert flax-to-hf {config.out} HF` "
        f"merges both, `parrot train CONFIG --init-from {config.out}` starts from the sum."
    )


def _load_tokenizer(source: "HfFolder") -> "Tokenizer | None":
    """Loads the tokenizer of the weights; prints which parts are not converted, and why."""
    from parrot_jax.core.errors import UserError
    from parrot_jax.core.logs import console
    from parrot_jax.data.tokenizers import check_rows, load_tokenizer
    from parrot_jax.weights.exports import check_export_tokenizer, read_record

    rows, record = source.config.vocab_size, read_record(source.path)
    belongs = record["tokenizer"] if record else None
    try:
        tokenizer = load_tokenizer(source.path, num_rows=rows)
        # An export records its tokenizer, so the number of ids need not be checked.
        note = check_rows(tokenizer, rows, str(source.path)) if belongs is None else None
    except UserError as error:
        if belongs is not None:
            raise UserError(
                f"{source.path} was exported with the tokenizer {belongs[:12]}, which cannot be "
                f"read: {error} Export the run again into a new folder."
            ) from None
        console.print(f"no tokenizer converted: {error}")
        return None
    check_export_tokenizer(source.path, tokenizer.fingerprint)
    for line in [
        *([note] if note else []),
        *(f"not converted: {each}" for each in tokenizer.left_out),
    ]:
        console.print(line)
    ends = source.eos_token_id
    if ends and tokenizer.eos_id not in ends:
        console.print(
            f"config.json has eos_token_id {', '.join(map(str, ends))}, the tokenizer has "
            f"{tokenizer.eos_id} ({tokenizer.eos_token}): training uses the latter"
        )
    if source.bos_token_id not in (None, tokenizer.bos_id) and tokenizer.bos_id is not None:
        console.print(
            f"config.json has bos_token_id {source.bos_token_id}, the tokenizer has "
            f"{tokenizer.bos_id} ({tokenizer.bos_token}): training uses the latter"
        )
    return tokenizer
