"""Send a model or a dataset to the Hugging Face hub: private, and nothing replaced unasked."""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """What to send, and where. The token is that of HF_TOKEN or of `hf auth login`."""

    folder: Annotated[str, tyro.conf.Positional]
    """A model that `convert flax-to-hf` made, or a dataset that `collect export` made."""

    repo: Annotated[str, tyro.conf.Positional]
    """The repository, org/name; made where it is not there yet."""

    public: bool = False
    """Everybody sees it. Otherwise only its owners do."""

    yes: bool = False
    """Replace the files of a repository without asking."""


Config = PushConfig


def run(config: PushConfig) -> None:
    """Prints what is sent and, at the end, where it is."""
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
        raise UserError(f"{question} There is no terminal to answer on: say --yes.")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
