"""Finds invalid rows of a journal: damaged by a disk, a copy or an edit."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from parrot_jax.api.journal_file import DamagedJournalError
from parrot_jax.api.replies import MOST_TOKENS, Outcome, read_response
from parrot_jax.core.errors import UserError

_OUTCOMES = ", ".join(f"'{outcome.value}'" for outcome in Outcome)
_TIME = "BETWEEN 0 AND 1e11"
_SIZE = f"BETWEEN 0 AND {2**40}"
_TOKENS = f"BETWEEN 0 AND {MOST_TOKENS}"

_RULES = {
    ("starts", "id"): {"started_at": _TIME},
    ("items", "number"): {"number": _SIZE},
    ("requests", "id"): {
        "item": _SIZE,
        "step": "BETWEEN 0 AND 1000000",
        "attempt": "BETWEEN 1 AND 1000000",
        "sent_at": _TIME,
        "worst_prompt": _SIZE,
        "worst_completion": _SIZE,
    },
    ("replies", "request"): {
        "received_at": _TIME,
        "outcome": f"IN ({_OUTCOMES})",
        "prompt_tokens": _TOKENS,
        "completion_tokens": _TOKENS,
        "may_be_billed": "IN (0, 1)",
        "status": "BETWEEN 0 AND 999",
    },
    ("ends", "item"): {"ended_at": _TIME, "progress": "BETWEEN 0 AND 1000000"},
}
"""By table and primary key: the valid values of each column, besides null."""

_TEXTS = {
    ("starts", "id"): ("config", "prompts"),
    ("items", "number"): ("input",),
    ("requests", "id"): ("speaker",),
    ("replies", "request"): ("outcome", "verdict", "model", "error"),
    ("reply_bodies", "request"): ("text",),
    ("ends", "item"): ("reason", "detail"),
}
"""The text columns that are read."""


def check_rows(db: sqlite3.Connection, path: Path) -> None:
    """Checks the numbers of all rows, in one pass over each table.

    Raises:
      UserError: A value is out of its range; the message names the row and possible repairs.
    """
    for (table, key), columns in _RULES.items():
        wrong = " OR ".join(f"{column} NOT {rule}" for column, rule in columns.items())
        row = db.execute(
            f"SELECT {key}, {', '.join(columns)} FROM {table} WHERE {wrong} LIMIT 1"
        ).fetchone()
        if row is not None:
            values = ", ".join(f"{n} {v!r}" for n, v in zip(columns, row[1:], strict=True))
            raise damaged_row(db, path, table, row[0], f"it has {values}")
    count, last = db.execute("SELECT count(*), max(number) FROM items").fetchone()
    if count and last != count - 1:
        raise damaged_row(db, path, "items", last, f"there are {count:,}, with gaps")
    if not db.execute("SELECT count(*) FROM starts").fetchone()[0]:
        raise damaged_row(db, path, "starts", 1, "it is missing")


def follows_from(text: str, status: int | None, body: str | None) -> bool:
    """Whether the text of a reply matches its body.

    Args:
      text: The reply's text, as journaled.
      status: The HTTP status.
      body: As journaled: as received, without the API key. A body that is not a chat completion,
        such as a moderation, always matches.
    """
    if status is None or body is None:
        return True
    response = read_response(status, body)
    return response.error is not None or response.reply.text == text


def find_damaged_text(db: sqlite3.Connection, path: Path) -> UserError:
    """Returns the error for the first text that is not UTF-8."""
    for table, column, row, text in _texts(db):
        try:
            text.decode()
        except UnicodeDecodeError as error:
            return damaged_row(db, path, table, row, f"its {column} is not text: {error.reason}")
    return DamagedJournalError(
        f"the journal {path} has a text that is not UTF-8; restore it from a copy."
    )


def damaged_row(
    db: sqlite3.Connection, path: Path, table: str, row: int, problem: str
) -> UserError:
    """The error for a row that cannot be used, with possible repairs.

    Args:
      db: The open journal.
      path: Its file.
      table: The table of the row.
      row: Its primary key.
      problem: The problem, as text.
    """
    way_out = "or move the journal away and start over"
    if table == "ends":
        way_out = f'or reopen the item: sqlite3 {path} "{_undo(row, None)}"'
    elif table in ("replies", "reply_bodies"):
        of = db.execute("SELECT item, step FROM requests WHERE id = ?", (row,)).fetchone()
        if of is not None:
            way_out = f'or request it again: sqlite3 {path} "{_undo(*of)}"'
    return DamagedJournalError(
        f"row {row} of {table} in the journal {path} is damaged: {problem}; restore the file from "
        f"a copy, {way_out}."
    )


def _undo(item: int, step: int | None) -> str:
    """SQL that removes an item's end and, with a step, its replies from that step on."""
    replies = (
        ""
        if step is None
        else (
            "DELETE FROM replies WHERE request IN (SELECT id FROM requests WHERE "
            f"item = {item} AND step >= {step}); "
        )
    )
    return f"{replies}DELETE FROM ends WHERE item = {item}"


def _texts(db: sqlite3.Connection) -> Iterator[tuple[str, str, int, bytes]]:
    for (table, key), columns in _TEXTS.items():
        for column in columns:
            query = f"SELECT {key}, CAST({column} AS BLOB) FROM {table} WHERE {column} IS NOT NULL"
            for row, text in db.execute(query):
                yield table, column, row, text
