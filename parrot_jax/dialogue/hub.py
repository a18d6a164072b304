"""Reads dialogues from the Hugging Face hub or a local data set; needs the `datasets` extra.

Data sets on the hub declare no dialogue format, so each row's format is detected from its columns.
Rows are streamed: only the shards in use are downloaded.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.parquet import plain_row
from parrot_jax.dialogue.raw_rows import JsonRow
from parrot_jax.dialogue.readers import ReadRow, parse_any, parse_row

SCHEME = "hf://"
_MISSING_DATASETS = (
    "kind: huggingface needs the datasets library; install it with "
    "`pip install 'parrot-jax[datasets]'`."
)


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A parsed `hf://owner/name/config@split`."""

    name: str
    """`owner/name`, or the path of a local folder."""
    config: str | None = None
    """The subset; `None` = the data set's default."""
    split: str = "train"


def parse_hub_path(path: str) -> HubAddress:
    """Parses `hf://owner/name[/config][@split]`, or the path of a local folder with `[@split]`.

    Raises:
      UserError: The path has neither form.

    >>> parse_hub_path("hf://allenai/WildChat-1M@train")
    HubAddress(name='allenai/WildChat-1M', config=None, split='train')
    """
    address, _, split = path.partition("@")
    if address.startswith(SCHEME):
        parts = address.removeprefix(SCHEME).split("/")
        if len(parts) in (2, 3) and all(parts):
            config = parts[2] if len(parts) == 3 else None
            return HubAddress("/".join(parts[:2]), config, split or "train")
    elif Path(address).is_dir():
        return HubAddress(address, None, split or "train")
    raise UserError(
        f"cannot read {path!r} as a data set: write hf://owner/name, hf://owner/name/config or "
        "either with @split appended, or give the path of an existing folder."
    )


def read_hub(path: str) -> Iterator[ReadRow]:
    """Streams the rows of a data set; the "line" of a row is its number from 1.

    Raises:
      UserError: The library is missing, or it cannot find or read the data set.
    """
    address = parse_hub_path(path)
    with _library(path) as datasets:
        rows = datasets.load_dataset(
            address.name, address.config, split=address.split, streaming=True
        )
        for number, row in enumerate(rows, start=1):
            yield parse_row(_plain(number, row), path, parse_any)


def local_files(path: str) -> list[Path]:
    """All files that determine the rows of a local data set, sorted.

    These are the files in its folder and those named by its card, which may be elsewhere.

    Args:
      path: The folder, with `[@split]`.

    Raises:
      UserError: The card names a remote file, which could change; or see `read_hub`.
    """
    address = parse_hub_path(path)
    folder = Path(address.name)
    with _library(path) as datasets:
        found = datasets.load_dataset_builder(address.name, address.config).config.data_files or {}
    files = {file for file in folder.rglob("*") if file.is_file()}
    for name in (name for names in found.values() for name in names):
        file = Path(name.rpartition("::")[2].removeprefix("file://"))  # zip://a.json::/data/b.zip
        if not file.is_file():
            raise UserError(
                f"the card of the data set {path} names the file {name}, which is not on this "
                "disk; download it into the folder, or give the hf:// path of a data set."
            )
        files.add(file)
    return sorted(files)


@contextlib.contextmanager
def _library(path: str) -> Iterator[Any]:
    """Imports the library, and converts its errors to one line.

    Raises:
      UserError: The library is missing, or it failed in the block.
    """
    try:
        import datasets  # an optional extra
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise UserError(_MISSING_DATASETS) from error
    try:
        yield datasets
    # Raised for an unknown name, subset, split or file format, and for network errors.
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"cannot read the data set {path}: {reason}; check the name, the subset, the split "
            "and the network (private data sets need `hf auth login`)."
        ) from error


def _plain(number: int, row: Mapping[str, Any]) -> JsonRow:
    plain = plain_row(number, row)
    if plain.problem:
        return plain
    return JsonRow(number, {key: _rows_of_columns(value) for key, value in plain.value.items()})


def _rows_of_columns(value: Any) -> Any:
    # The library's `Sequence` of dicts arrives as a dict of lists of one length.
    if not isinstance(value, dict) or not value:
        return value
    columns = list(value.values())
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return value
    return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
