"""Make a folder to train from out of a LLaMA of Hugging Face: `parrot train --init-from`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from parrot_jax.distributed import DistributedConfig
from parrot_jax.weights.dtypes import Dtype


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
    from parrot_jax.core.errors import UserError
    from parrot_jax.core.logs import console
    from parrot_jax.data.tokenizer import load_tokenizer
    from parrot_jax.distributed import in_first_process, join_processes
    from parrot_jax.weights.hf_folder import HfFolder
    from parrot_jax.weights.hf_to_flax import hf_to_flax
    from parrot_jax.weights.hub import local_folder
    from parrot_jax.weights.model_folder import ModelFolder

    join_processes(config.distributed)
    source = HfFolder(local_folder(config.source, revision=config.revision))
    console.print(f"{source.config.num_parameters():,} parameters in {source.path}")
    folder = ModelFolder(config.out)
    try:
        tokenizer = load_tokenizer(source.path)
    except UserError as error:
        tokenizer = None
        console.print(f"without a tokenizer: {error}")
    origin = f"{config.source}@{config.revision}" if config.revision else config.source
    converted = hf_to_flax(source, config.out, dtype=config.dtype, origin=origin)
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
