"""The folder of a collection: who may write into it, and its dialogues as the journal has them.

journal.sqlite     every request and reply; the truth, from which all else is made
dialogues.jsonl    the finished dialogues, to train on
summary.json       their numbers
"""

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

from parrot_jax.api.config import RetryConfig
from parrot_jax.api.journal import JournalReader, JournalWriter
from parrot_jax.api.replies import Reply
from parrot_jax.collect.config import CollectConfig
from parrot_jax.collect.dialogue_state import DialogueState, Rules, replay
from parrot_jax.core.config import changed_keys, config_from_dict, config_to_dict
from parrot_jax.core.errors import RunError, UserError
from parrot_jax.core.logs import console
from parrot_jax.dialogue.readers import parse_messages
from parrot_jax.dialogue.sources import ReadReport, read_sources
from parrot_jax.dialogue.turns import RowPlace
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.writers import messages_line

# What may differ when a collection goes on: where and how fast the same models are asked. And where
# a dialogue ends, as that is found anew from the replies: a higher max_turns goes on with dialogues
# that had ended, a lower one exports less of them.
_FREE_KEYS = frozenset(
    {
        *("out", "concurrency", "max_turns", "stop_answers"),
        *(f"retries.{field.name}" for field in fields(RetryConfig)),
        *(
            f"{speaker}.{key}"
            for speaker in ("asker", "answerer")
            for key in ("base_url", "api_key_env", "timeout_s")
        ),
    }
)


class JournaledDialogue(NamedTuple):
    """A dialogue as the journal has it."""

    number: int
    beginning: Dialogue
    replies: list[Reply]
    """Those that did not fail, in the order of the turns. The ones that ended the dialogue, or that
    a later stop rule made useless, are among them."""
    state: DialogueState


class Collection:
    """Reads the dialogues of a collection, also while it is running.

    Attributes:
      config: That of the last start.
    """

    def __init__(self, out: Path | str) -> None:
        """Opens the journal for reading.

        Raises:
          UserError: There is no collection in the folder.
        """
        self.folder = Path(out)
        self.journal = JournalReader(journal_path(out))
        where = str(self.journal.path)
        self.config = config_from_dict(CollectConfig, self.journal.last_config(), where=where)
        self.rules = rules_of(self.config)

    def __len__(self) -> int:
        """How many dialogues were begun, or are to be."""
        return self.journal.num_dialogues()

    def __iter__(self) -> Iterator[JournaledDialogue]:
        """The dialogues by number; one at a time is in memory."""
        return map(self.dialogue, range(len(self)))

    def dialogue(self, number: int) -> JournaledDialogue:
        """A dialogue by its number, from 0.

        Raises:
          RunError: The journal lacks a turn of it, or has one twice.
        """
        row = json.loads(self.journal.beginning(number))
        (beginning,) = parse_messages(row, RowPlace(str(self.journal.path), number))
        said = self.journal.said(number)
        first = len(beginning.turns)
        if [turn for turn, _ in said] != list(range(first, first + len(said))):
            raise RunError(
                f"the journal {self.journal.path} is damaged: the turns of dialogue {number} are "
                f"{[turn for turn, _ in said]}, but must follow on from {first}."
            )
        replies = [reply for _, reply in said]
        return JournaledDialogue(number, beginning, replies, replay(beginning, replies, self.rules))

    def close(self) -> None:
        """Closes the journal."""
        self.journal.close()


def journal_path(out: Path | str) -> Path:
    """Where the journal of a collection is."""
    return Path(out) / "journal.sqlite"


def rules_of(config: CollectConfig) -> Rules:
    """The stop rules of a config."""
    return Rules(config.max_turns, tuple(map(re.compile, config.stop_answers)))


def open_journal(config: CollectConfig) -> JournalWriter:
    """Begins the journal of a collection, or goes on in it.

    Returns:
      The open journal. While it is open, no other process collects into the folder.

    Raises:
      UserError: The beginnings cannot be read, the folder cannot be written, another process
        collects there, or the folder holds a collection with another config.
    """
    journal = JournalWriter(journal_path(config.out))
    try:
        if journal.is_new:
            report = ReadReport()
            lines = map(messages_line, _read_beginnings(config, report))
            journal.begin(config_to_dict(config), lines)
            console.print(report.summary())
        else:
            _check_same(config)
            journal.go_on(config_to_dict(config))
            console.print(f"continuing {config.out}")
    except BaseException:
        journal.close()
        raise
    return journal


def _read_beginnings(config: CollectConfig, report: ReadReport) -> Iterator[Dialogue]:
    if config.beginnings:
        yield from read_sources(config.beginnings, seed=config.seed, report=report)
    if config.first_questions:
        for dialogue in read_sources(config.first_questions, seed=config.seed, report=report):
            yield replace(dialogue, turns=dialogue.turns[:1])


def _check_same(config: CollectConfig) -> None:
    collection = Collection(config.out)
    try:
        changes = [
            change
            for change in changed_keys(collection.config, config)
            if change.partition(":")[0] not in _FREE_KEYS
        ]
    finally:
        collection.close()
    if changes:
        raise UserError(
            f"{config.out} holds a collection with another config ({'; '.join(changes)}); "
            "choose another --out, or the old values to continue it."
        )
