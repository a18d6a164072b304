"""The folder of a collection: resuming it, and reading its dialogues from the journal.

journal.sqlite     every request and reply; the other files are made from it
dialogues.jsonl    the finished dialogues, to train on
summary.json       counts and cost
earlier-1/         an earlier collection, if this one was restarted
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from parrot_jax.api.endpoint_config import DECIDES_NO_REPLY, RetryConfig
from parrot_jax.api.job_journal import open_journal
from parrot_jax.api.journal import JournalWriter, Start
from parrot_jax.api.journal_file import DamagedJournalError, is_new, put_aside, upgrade
from parrot_jax.api.journal_reader import JournalReader, SpeakerCounts
from parrot_jax.api.prompts import Prompt, changed_prompts, records_of
from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.collect.beginnings import read_beginnings
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.dialogue_state import DialogueState, Rules, StopReason, replay
from parrot_jax.core.config import changed_keys, config_from_dict, config_to_dict
from parrot_jax.core.errors import RunError, UserError
from parrot_jax.core.logs import console
from parrot_jax.core.paths import require_local_folder
from parrot_jax.dialogue.readers import parse_messages
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.turns import RowPlace
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.writers import DIALOGUES, messages_line

# Keys that may differ when a collection is resumed: its location, speed, cost and the number of
# turns. Beginnings are compared by content, not by path. All keys of a speaker may differ if it has
# no reply yet.
_FREE_KEYS = frozenset(
    {
        *("out", "beginnings", "max_turns", "concurrency", "prices", "budget"),
        *("if_exists", "allow_changes"),
        *(f"retries.{field.name}" for field in fields(RetryConfig)),
    }
)
_FREE_OF_SPEAKERS = DECIDES_NO_REPLY | {"prompt"}  # a prompt is compared by its text


SUMMARY = "summary.json"


class JournaledDialogue(NamedTuple):
    """A dialogue as read from the journal."""

    number: int
    beginning: Dialogue
    replies: list[Reply]
    """Valid replies in the order of the turns, including the one that ended the dialogue (an error
    or the budget has none)."""
    state: DialogueState
    models: Mapping[str, Sequence[str]]
    """The models by speaker: as the servers name them, else as requested."""


class Collection:
    """Reads the dialogues of a collection, also while it is running.

    Attributes:
      config: The config of the last start.
      rules: The settings of its dialogues.
    """

    def __init__(self, out: Path | str) -> None:
        """Opens the journal for reading.

        Raises:
          UserError: There is no collection in the folder.
        """
        self.folder = Path(out)
        with _naming_what_is_left(self.folder), contextlib.ExitStack() as stack:
            self.journal = JournalReader(journal_path(out))
            stack.callback(self.journal.close)
            start = self.journal.last_start()
            try:
                self.config = config_from_dict(CollectConfig, start.config, where="its config")
            except UserError as error:
                raise DamagedJournalError(
                    f"the journal {self.journal.path} cannot be resumed: {error}; use the "
                    "version of parrot that wrote it."
                ) from None
            stack.pop_all()
        self.rules = rules_of(self.config)

    def __len__(self) -> int:
        """Number of dialogues, started or not."""
        return self.journal.num_items()

    def __iter__(self) -> Iterator[JournaledDialogue]:
        """The dialogues in order of their numbers; one at a time is in memory."""
        return map(self.dialogue, range(len(self)))

    def dialogue(self, number: int) -> JournaledDialogue:
        """A dialogue by its number, from 0.

        Raises:
          UserError: Its rows in the journal are damaged.
          RunError: The journal lacks a turn of it, or has a turn twice.
        """
        beginning = self.beginning(number)
        said = self.journal.said(number)
        replies = [reply for _, reply in said]
        expected = list(_turns_asked_for(len(beginning.turns), replies))
        if (found := [turn for turn, _ in said]) != expected:
            raise RunError(
                f"the journal {self.journal.path} is damaged: the turns of dialogue {number} are "
                f"{found}, but must be {expected}."
            )
        try:
            state = replay(beginning, replies, self.rules)
        except (ValueError, AssertionError) as error:
            raise self.journal.damaged_reply(number, f"its verdict is unknown: {error}") from None
        asked_for = self.config.speakers()
        models = {
            speaker: names or [asked_for[speaker].model if speaker in asked_for else "unknown"]
            for speaker, names in self.journal.models_of(number).items()
        }
        return JournaledDialogue(number, beginning, replies, state, models)

    def beginning(self, number: int) -> Dialogue:
        """The beginning of a dialogue.

        Raises:
          UserError: Its row in the journal is damaged.
        """
        text = self.journal.item(number)
        try:
            (beginning,) = parse_messages(
                json.loads(text), RowPlace(str(self.journal.path), number)
            )
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise self.journal.damaged("items", number, f"its beginning: {error}") from None
        return beginning

    def open_numbers(self) -> list[int]:
        """The dialogues that can continue: not ended, or ended by a limit that is now higher.

        Dialogues with rejected requests come last: the replies to the others show whether the
        dialogue or the endpoint was at fault.
        """
        numbers = {
            *self.journal.without_end(),
            *self.journal.ended(StopReason.MAX_TURNS, below=self.rules.max_turns),
            *self.journal.ended(StopReason.BUDGET, below=self.rules.max_turns),
        }
        rejected = self.journal.rejected()
        return sorted(numbers, key=lambda number: (number in rejected, number))

    def close(self) -> None:
        """Closes the journal."""
        self.journal.close()


@contextlib.contextmanager
def _naming_what_is_left(folder: Path) -> Iterator[None]:
    """Adds to the error about a damaged journal which results are left."""
    try:
        yield
    except DamagedJournalError as error:
        if not (folder / DIALOGUES).exists():
            raise
        raise DamagedJournalError(
            f"{error} The dialogues that had ended are in {folder / DIALOGUES}; `parrot collect "
            "... --if-exists restart` renames the old files and starts over."
        ) from None


def is_begun(out: Path | str) -> bool:
    """Whether a folder holds a collection to resume.

    Raises:
      UserError: The folder is not usable, its journal cannot be read, or its other files have more
        requests than the journal.
    """
    require_local_folder(str(out), "out")
    with _naming_what_is_left(Path(out)):
        return _is_begun(Path(out), journal_path(out))


def _is_begun(folder: Path, journal: Path) -> bool:
    if is_new(journal):
        if (folder / DIALOGUES).exists() or (folder / SUMMARY).exists():
            raise DamagedJournalError(
                f"the journal {journal} is empty or missing, but {folder} holds the results of a "
                "collection; restore it from a copy."
            )
        return False
    try:
        known = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        known = sum(speaker["requests"] for speaker in known["speakers"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return True  # it is rewritten at the end
    with contextlib.closing(JournalReader(journal)) as reader:
        there = sum(speaker.requests for speaker in reader.counts().speakers.values())
    if known > there:
        raise DamagedJournalError(
            f"the journal {journal} has {there:,} requests, but {folder / SUMMARY} counted "
            f"{known:,}: it is an older copy, or its file {journal.name}-wal was lost; put the "
            f"newest copy back, or delete {SUMMARY} to resume from this one."
        )
    return True


def journal_path(out: Path | str) -> Path:
    """The path of a collection's journal."""
    return Path(out) / "journal.sqlite"


def rules_of(config: CollectConfig) -> Rules:
    """The dialogue settings of a collection."""
    return Rules(
        config.max_turns,
        truncates=config.when_context_is_full == "truncate",
        has_writer=config.writer is not None,
        reasoning=config.reasoning,
    )


def open_collection_journal(config: CollectConfig, prompts: Mapping[str, Prompt]) -> JournalWriter:
    """Opens the journal of a new collection, or of one to resume.

    Args:
      config: The config of this start.
      prompts: Prompts by speaker.

    Returns:
      The open journal. While it is open, no other process collects into the folder.

    Raises:
      UserError: The beginnings cannot be read, the folder cannot be written, another process
        collects there, or the folder holds a collection that this config may not resume.
    """
    path = journal_path(config.out)
    if config.if_exists == "restart":
        put_aside(path, with_them=(DIALOGUES, SUMMARY))
    with _naming_what_is_left(Path(config.out)):
        upgrade(path)
    is_begun(config.out)

    def beginnings(there: JournalReader | None) -> Iterable[str]:
        if there is None:
            report = ReadReport()
            yield from map(messages_line, read_beginnings(config, report))
            console.print(report.summary())
            return
        with contextlib.closing(Collection(config.out)) as collection:
            more = more_beginnings(config, collection, prompts)
        console.print(f"resuming {config.out}")
        if more:
            console.print(f"{len(more):,} more dialogues")
        yield from more

    start = Start(config_to_dict(config), records_of(prompts))
    return open_journal(path, start, beginnings)


def more_beginnings(
    config: CollectConfig, collection: Collection, prompts: Mapping[str, Prompt]
) -> list[str]:
    """Checks that a config may resume a collection, and finds its new beginnings.

    Args:
      config: The config of the new start.
      collection: The existing collection.
      prompts: Prompts by speaker.

    Returns:
      The beginnings that it does not have yet, as rows of its journal.

    Raises:
      UserError: `if_exists` forbids it, or the config would give other dialogues.
    """
    if config.if_exists == "refuse":
        raise UserError(
            f"{config.out} holds a collection; choose another --out, or --if-exists continue."
        )
    changes = [
        *changed_keys(collection.config, config),
        *changed_prompts(collection.journal.last_start().prompts, records_of(prompts)),
    ]
    counts = collection.journal.counts().speakers
    silent = (name for name in config.speakers() if not counts.get(name, SpeakerCounts()).answered)
    allowed = (*config.allow_changes, *silent)
    changes = [change for change in changes if not _may_change(change, allowed)]
    if changes:
        raise UserError(
            f"{config.out} holds a collection with another config ({'; '.join(changes)}); "
            "choose another --out, restore the old values, or allow the changes with "
            "--allow-changes."
        )
    if collection.config.beginnings == config.beginnings:
        return []
    return _more_beginnings(config, collection)


def _may_change(change: str, allowed: tuple[str, ...]) -> bool:
    key = change.partition(":")[0]
    speaker, _, rest = key.partition(".")
    if speaker in ("asker", "answerer", "writer") and rest.split(".")[0] in _FREE_OF_SPEAKERS:
        return True
    return key in _FREE_KEYS or any(key == name or key.startswith(f"{name}.") for name in allowed)


def _more_beginnings(config: CollectConfig, collection: Collection) -> list[str]:
    """The beginnings that the journal does not have.

    Raises:
      UserError: Beginnings of the journal are missing from the sources.
    """
    digest = lambda line: hashlib.sha256(line.encode()).digest()  # noqa: E731
    there = Counter(map(digest, collection.journal.items()))
    report = ReadReport()
    more = []
    for line in map(messages_line, read_beginnings(config, report)):
        if there[key := digest(line)] > 0:
            there[key] -= 1
        else:
            more.append(line)
    if missing := there.total():
        raise UserError(
            f"{missing:,} of the {len(collection):,} dialogues of {config.out} are not among the "
            "beginnings any more; a collection can only grow: give the old sources "
            "and at least the old sample, or choose another --out."
        )
    return more


def _turns_asked_for(first: int, replies: list[Reply]) -> Iterator[int]:
    """The turn of each reply: the next one, unless the context was full."""
    turn = first
    for reply in replies:
        yield turn
        turn += reply.outcome is not Outcome.CONTEXT_FULL
