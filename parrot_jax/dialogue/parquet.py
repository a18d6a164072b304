"""Streams the rows of a Parquet file; needs the `datasets` extra."""

import datetime
import decimal
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input
from parrot_jax.core.paths import AnyPath
from parrot_jax.dialogue.raw_rows import BrokenRowError, JsonRow

# Few, since a value that many rows share is stored once in the file but per row in memory.
_ROWS_AT_ONCE = 4
_BUFFER_BYTES = 1 << 20
_ENDS_EARLY = "its row group ends before it; pages of the file are damaged"
_MISSING_PYARROW = (
    "{path} is a Parquet file, which needs the pyarrow library; install it with "
    "`pip install 'parrot-jax[datasets]'`."
)


def parquet_rows(path: AnyPath | str, *, max_row_bytes: int) -> Iterator[JsonRow]:
    """Reads the rows in order; the "line" of a row is its number from 1.

    Memory holds a few rows and one page of each column. A row group whose rows are too long
    according to its metadata is skipped.

    Args:
      path: The file.
      max_row_bytes: Longer rows are rejected, >= 1.

    Raises:
      UserError: The library is missing.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(_MISSING_PYARROW.format(path=path)) from error
    number = 0
    with open_input(path, "rb") as file:
        try:
            reader = pq.ParquetFile(
                file, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
            )
            if (twice := _twice(reader.schema_arrow)) is not None:
                raise ValueError(f"the column {twice!r} appears twice")
            for group in range(reader.num_row_groups):
                about = reader.metadata.row_group(group)
                end = number + about.num_rows
                if about.total_byte_size > max_row_bytes * max(about.num_rows, 1):
                    for _ in range(about.num_rows):
                        number += 1
                        yield _too_long(number, max_row_bytes)
                    continue
                for batch in reader.iter_batches(_ROWS_AT_ONCE, row_groups=[group]):
                    for place in range(batch.num_rows):
                        number += 1
                        yield _row(number, batch.slice(place, 1), max_row_bytes)
                # pyarrow silently ends a group early at a damaged page.
                while number < end:
                    number += 1
                    yield JsonRow(number, problem=BrokenRowError("not valid Parquet", _ENDS_EARLY))
            if number != reader.metadata.num_rows:
                raise ValueError(f"its footer says {reader.metadata.num_rows:,} rows")
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            detail = f"{reason}; nothing after row {number} was read"
            yield JsonRow(number + 1, problem=BrokenRowError("not valid Parquet", detail))


def plain_row(number: int, row: Mapping[str, Any]) -> JsonRow:
    """Converts a row to JSON values: dates, decimals and UTF-8 bytes become texts.

    Args:
      number: The row's number, from 1.
      row: Values of any type; the row is rejected if one cannot be converted.
    """
    try:
        return JsonRow(number, json.loads(json.dumps(row, default=_text, allow_nan=False)))
    except (ValueError, TypeError) as error:
        return JsonRow(number, problem=BrokenRowError("row is not a JSON value", str(error)))


def _row(number: int, batch: Any, max_row_bytes: int) -> JsonRow:
    if batch.nbytes > max_row_bytes:
        return _too_long(number, max_row_bytes)
    try:
        (row,) = batch.to_pylist(maps_as_pydicts="strict")
    except UnicodeDecodeError as error:
        return JsonRow(number, problem=BrokenRowError("not valid UTF-8", str(error)))
    except Exception as error:  # a date beyond the years of Python, a key twice in a map, ...
        reason = " ".join(str(error).split())
        return JsonRow(number, problem=BrokenRowError("a value cannot be read", reason))
    return plain_row(number, row)


def _twice(fields: Any) -> str | None:
    """The first duplicate name among the columns, or among the fields of a struct."""
    seen = set()
    for field in fields:
        if field.name in seen:
            return str(field.name)
        seen.add(field.name)
        inner = [field.type.field(place) for place in range(field.type.num_fields)]
        if (name := _twice(inner)) is not None:
            return f"{field.name}.{name}"
    return None


_WITH_A_TEXT = (
    *(datetime.date, datetime.time, datetime.timedelta),  # a datetime is a date
    *(decimal.Decimal, uuid.UUID),
)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, _WITH_A_TEXT):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__} cannot be text")


def _too_long(number: int, max_row_bytes: int) -> JsonRow:
    detail = f"over {max_row_bytes:,} bytes; the row was skipped"
    return JsonRow(number, problem=BrokenRowError("row too long", detail))
