"""Make a folder to train from out of a LLaMA of Hugging Face: `parrot train --init-from`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from parrot_jax.distributed import DistributedConfig
from parrot_jax.model.families import num_parameters
from parrot_jax.weights.dtypes import Dtype

if TYPE_CHECKING:
    from parrot_jax.data.tokenizers import Tokenizer
    from parrot_jax.weights.hf_folder import HfFolder


@dataclass(frozen=True, kw_only=True)
class HfToFlaxConfig:
    """What to convert, and into what."""

    source: Annotated[str, tyro.conf.Positional]
    """A folder with config.json and safetensors, or a name on the Hugging Face hub."""

    out: Annotated[str, tyro.conf.Positional]
    """The folder to make."""

    dtype: Dtype | None = None
    """Type to store. Null = that of the source; float16 must be told float32 or bfloat16."""

    revision: str | None = None
    """On the hub: branch, tag or commit. Null = main."""

    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """Where the other processes of the job are; each converts its share. OUT must be on a disk that
    all share."""


Config = HfToFlaxConfig


def run(config: HfToFlaxConfig) -> None:
    """Converts the weights; the tokenizer goes with them where it is SentencePiece's."""
    from parrot_jax.core.memory import keep_freed_memory

    keep_freed_memory()  # before jax, for its threads
    from parrot_jax.core.config import save_config
    from parrot_jax.core.logs import console
    from parrot_jax.core.paths import require_folder
    from parrot_jax.distributed import in_first_process, join_processes
    from parrot_jax.weights.hf_folder import HfFolder
    from parrot_jax.weights.hf_to_flax import hf_to_flax
    from parrot_jax.weights.hub import local_folder
    from parrot_jax.weights.model_folder import ModelFolder

    require_folder(config.out, "OUT")
    join_processes(config.distributed)
    source = HfFolder(local_folder(config.source, revision=config.revision))
    in_first_process(source.check_files, f"read {source.path}")
    console.print(f"{num_parameters(source.config):,} parameters in {source.path}")
    folder = ModelFolder(config.out)
    tokenizer = _load_tokenizer(source)
    origin = f"{config.source}@{config.revision}" if config.revision else config.source
    converted = hf_to_flax(
        source,
        config.out,
        dtype=config.dtype,
        origin=origin,
        tokenizer=tokenizer.fingerprint if tokenizer else None,
    )
    options = f"--init-from {config.out}"
    if tokenizer is not None:
        options += f" --data.tokenizer {folder.tokenizer}"

    def finish() -> None:
        if tokenizer is not None:
            tokenizer.save(folder.tokenizer)
        save_config(converted, folder.config_path)

    in_first_process(finish, f"write {folder.config_path}")
    console.print(
        f"done. Put the `model` block of {folder.config_path} into a training config, then: "
        f"parrot train CONFIG {options}"
    )


def _load_tokenizer(source: "HfFolder") -> "Tokenizer | None":
    """The tokenizer that belongs to the weights; says what of it is not carried, or why none is."""
    from parrot_jax.core.errors import UserError
    from parrot_jax.core.logs import console
    from parrot_jax.data.tokenizers import check_rows, load_tokenizer
    from parrot_jax.weights.exports import check_export_tokenizer, read_record

    rows, record = source.config.vocab_size, read_record(source.path)
    belongs = record["tokenizer"] if record else None
    try:
        tokenizer = load_tokenizer(source.path, num_rows=rows)
        # An export says itself what belongs to it, be it few ids.
        note = check_rows(tokenizer, rows, str(source.path)) if belongs is None else None
    except UserError as error:
        if belongs is not None:
            raise UserError(
                f"{source.path} was exported with the tokenizer {belongs[:12]}, which cannot be "
                f"read: {error} Export the run again into a new folder."
            ) from None
        console.print(f"without a tokenizer: {error}")
        return None
    check_export_tokenizer(source.path, tokenizer.fingerprint)
    for line in [
        *([note] if note else []),
        *(f"not carried: {each}" for each in tokenizer.left_out),
    ]:
        console.print(line)
    ends = source.eos_token_id
    if ends and tokenizer.eos_id not in ends:
        console.print(
            f"config.json ends texts with {', '.join(map(str, ends))}, the tokenizer with "
            f"{tokenizer.eos_id} ({tokenizer.eos_token}): training ends turns with the latter"
        )
    if source.bos_token_id not in (None, tokenizer.bos_id):
        console.print(
            f"config.json opens texts with {source.bos_token_id}, the tokenizer with "
            f"{tokenizer.bos_id} ({tokenizer.bos_token}): training opens texts with the latter"
        )
    return tokenizer
