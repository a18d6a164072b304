"""Upload a model or a dataset to the Hugging Face hub; private, and asks before replacing."""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """What to upload, and where. Uses the token of HF_TOKEN or of `hf auth login`."""

    folder: Annotated[str, tyro.conf.Positional]
    """A model made by `convert flax-to-hf`, or a dataset made by `collect export`."""

    repo: Annotated[str, tyro.conf.Positional]
    """The repository, org/name; created if it does not exist."""

    public: bool = False
    """Create a public repository instead of a private one."""

    yes: bool = False
    """Replace files of the repository without asking."""


Config = PushConfig


def run(config: PushConfig) -> None:
    """Uploads the folder and prints its address."""
    from pathlib import Path

    from parrot_jax.collect.upload import dataset_upload, is_dataset
    from parrot_jax.core.logs import console
    from parrot_jax.data.tokenizers import load_tokenizer
    from parrot_jax.weights.exports import check_export_tokenizer, read_record
    from parrot_jax.weights.hub import model_upload, push

    folder = Path(config.folder)
    if read_record(folder) and (folder / "tokenizer.json").exists():
        check_export_tokenizer(folder, load_tokenizer(folder).fingerprint)
    upload = (dataset_upload if is_dataset(config.folder) else model_upload)(config.folder)
    confirm = _agree if config.yes else _ask
    url = push(upload, config.repo, private=not config.public, confirm=confirm)
    console.print(f"done: {url}")


def _agree(question: str) -> bool:
    return True


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError(f"{question} There is no terminal to answer; pass --yes to agree.")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
