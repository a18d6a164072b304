"""The cache key of prepared rows: a hash of everything that determines them.

The key covers the whole config except paths, so a new setting is part of the key unless it is
removed here. Files are hashed by content, and so is the code that makes rows.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parrot_jax import data, dialogue
from parrot_jax.core.config import config_to_dict
from parrot_jax.core.files import hash_file, hash_json, write_json
from parrot_jax.core.logs import console
from parrot_jax.data.data_config import DataConfig
from parrot_jax.data.templates.base import Template
from parrot_jax.dialogue.hub import SCHEME, local_files, parse_hub_path
from parrot_jax.dialogue.sources import SourceConfig, source_files

# These libraries read files and make tokens, so their versions are part of the key.
_LIBRARIES = ("tokenizers", "sentencepiece", "datasets", "pyarrow")
_HUB_TIMEOUT_S = 30


def row_settings(config: DataConfig, split: str, template: Template) -> dict[str, Any]:
    """Everything that determines the rows of a split, as plain values.

    Args:
      config: The settings; for the eval split with its own mask.
      split: `train` or `eval`.
      template: The template of `config.template` and `config.tokenizer`.

    Raises:
      UserError: A source cannot be read.
    """
    settings = config_to_dict(config)
    del settings["cache_dir"]
    sources = config.sources if split == "train" or config.eval_fraction else ()
    cache = Path(config.cache_dir)
    return settings | {
        "split": split,
        "sources": [_source(source, cache) for source in sources],
        "eval_sources": [_source(s, cache) for s in config.eval_sources if split == "eval"],
        "tokenizer": template.tokenizer.fingerprint,
        "chat_template": template.chat_template("ask"),
        "published_template": template.tokenizer.chat_template,
        "program": _program(),
    }


def _source(source: SourceConfig, cache: Path) -> dict[str, Any]:
    """A source with the hashes of its files instead of its path."""
    settings = config_to_dict(source)
    del settings["path"]
    if source.kind == "huggingface":
        return settings | {"data set": _data_set(source.path, cache)}
    return settings | {
        # The suffix may decide how the bytes are read.
        "files": [["".join(Path(f).suffixes[-2:]), hash_file(f)] for f in source_files(source)]
    }


def _data_set(path: str, cache: Path) -> dict[str, Any]:
    address = parse_hub_path(path)
    known = {"config": address.config, "split": address.split}
    if path.startswith(SCHEME):
        return known | {"name": address.name, "revision": _revision(address.name, cache)}
    folder = Path(address.name)
    # File names count too, since they determine the order of the rows.
    return known | {
        "files": [[os.path.relpath(file, folder), hash_file(file)] for file in local_files(path)]
    }


def _revision(name: str, cache: Path) -> str | None:
    """The commit of a data set on the hub, or the last known one; None = unknown."""
    from huggingface_hub import HfApi

    seen_path = cache / "hub_revisions.json"
    try:
        seen = json.loads(seen_path.read_text("utf-8"))
    except (OSError, ValueError):
        seen = {}
    try:
        revision = HfApi().dataset_info(name, timeout=_HUB_TIMEOUT_S).sha
    except Exception as error:  # network errors differ between versions
        revision = seen.get(name)
        taken = f"using the rows of commit {revision}" if revision else "it may have changed"
        console.print(
            f"cannot get the commit of {name} from the hub ({type(error).__name__}): {taken}"
        )
        return revision
    write_json(seen_path, seen | {name: revision})
    return revision


def _program() -> dict[str, Any]:
    """The code and the libraries that make rows."""
    code = [hash_file(file) for room in (data, dialogue) for file in _files(room)]
    return {
        "code": hash_json(code),
        "python": ".".join(platform.python_version_tuple()[:2]),  # determines the Unicode tables
        **{name: _version(name) for name in _LIBRARIES},
    }


def _files(room: Any) -> Iterator[Path]:
    folder = Path(room.__file__).parent
    yield from sorted(f for f in folder.rglob("*") if f.is_file() and f.suffix != ".pyc")


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
