"""Sends the texts of a collection to a moderator: a job whose items are dialogues.

Each text is sent once, however often a collection is exported: each request contains all texts of a
dialogue that were not sent before. The index of the last one is its `step` in the journal. Texts
that the moderator did not judge never pass.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from parrot_jax.api.endpoint_config import EndpointConfig, RetryConfig, changes_of_replies
from parrot_jax.api.job_journal import open_journal
from parrot_jax.api.jobs import Job
from parrot_jax.api.journal import End, JournalWriter, Start
from parrot_jax.api.journal_file import put_aside, upgrade
from parrot_jax.api.journal_reader import JournalReader, StepReply
from parrot_jax.api.moderation import moderation_body, moderation_endpoint, read_categories
from parrot_jax.api.replies import Outcome
from parrot_jax.api.run_async import run_async
from parrot_jax.collect.filters import Cut
from parrot_jax.collect.folder import Collection
from parrot_jax.core.config import config_from_dict, config_to_dict
from parrot_jax.core.logs import console
from parrot_jax.dialogue.types import Dialogue

MODERATOR = "moderator"
_CONCURRENCY = 16


class Moderation:
    """A filter that applies the moderator's results to a collection's dialogues.

    It must be the first filter, because it expects the dialogues as they were sent.
    """

    def __init__(self, folder: Path) -> None:
        """Opens the journal for reading.

        Raises:
          UserError: There is no journal.
        """
        self._journal = JournalReader(_path(folder))

    def __call__(self, number: int, dialogue: Dialogue, num_begun: int) -> Cut | None:
        """Cuts at the first flagged turn; a `Filter`. Also checks beginnings."""
        turn = -1
        for first, last, problem, flags in _answers(self._journal.said(number)):
            for turn, names in zip(range(first, last + 1), flags, strict=True):
                if problem or names:
                    return Cut(turn, f"moderation: {problem or ', '.join(names)}")
        if turn + 1 < len(dialogue.turns):
            end = self._journal.end(number)
            return Cut(turn + 1, "moderation: not moderated" + (f": {end.reason}" if end else ""))
        return None

    def versions(self) -> Iterator[tuple[int, str]]:
        """What changes when a dialogue is moderated: its number and a text."""
        return self._journal.versions()

    def close(self) -> None:
        """Closes the journal."""
        self._journal.close()


def moderate(
    collection: Collection, dialogues: Iterable[tuple[int, Dialogue]], config: EndpointConfig
) -> None:
    """Sends every text that was not sent before; can be killed and run again.

    Args:
      collection: Its folder gets the journal `moderation.sqlite`.
      dialogues: Numbers in the collection with the dialogues to export; consumed one by one.
      config: The moderator. If its model has changed, or the collection was restarted, everything
        is sent again.

    Raises:
      RunError: The moderator failed; its results so far are kept.
      UserError: The key is not set, or the journal cannot be written.
    """
    run_async(_moderate(collection, dialogues, config))


async def _moderate(
    collection: Collection, dialogues: Iterable[tuple[int, Dialogue]], config: EndpointConfig
) -> None:
    endpoint = moderation_endpoint(config)
    path = _path(collection.folder)
    with (
        _open_journal(collection, config) as journal,
        contextlib.closing(JournalReader(path)) as reader,
    ):
        job = Job(
            {MODERATOR: endpoint}, journal, reader,
            retries=RetryConfig(), concurrency=config.concurrency or _CONCURRENCY,
        )  # fmt: skip

        async def ask_about(numbered: tuple[int, Dialogue]) -> str | None:
            number, dialogue = numbered
            asked = max((said.step + 1 for said in reader.said(number)), default=0)
            texts = [turn.text for turn in dialogue.turns[asked:]]
            if not texts or reader.end(number) is not None:
                return "moderated before"
            response = await job.ask(
                number, len(dialogue.turns) - 1, MODERATOR, moderation_body(config, texts),
                if_rejected=End(Outcome.REJECTED.value),
            )  # fmt: skip
            return None if response is None else "moderated"

        await job.run(dialogues, ask_about, noun="dialogues", total=len(collection))
    if job.problem is not None:
        raise job.problem


def _open_journal(collection: Collection, config: EndpointConfig) -> JournalWriter:
    path = _path(collection.folder)
    upgrade(path)
    # A restarted collection has other dialogues under the same numbers.
    begun_at = {"collection_begun_at": collection.journal.begun_at()}
    if path.exists():
        with contextlib.closing(JournalReader(path)) as reader:
            before = dict(reader.last_start().config)
        of = {key: before.pop(key, None) for key in begun_at}
        asked = config_from_dict(type(config), before, where=f"the moderator of {path}")
        if of != begun_at or changes_of_replies(asked, config):
            console.print(
                "the moderator or the collection has changed: moderating everything again"
            )
            put_aside(path)

    def inputs(there: JournalReader | None) -> Iterable[str]:
        known = 0 if there is None else there.num_items()
        return itertools.islice(collection.journal.items(), known, None)

    return open_journal(path, Start(config_to_dict(config) | begun_at), inputs)


def _answers(said: Sequence[StepReply]) -> Iterator[tuple[int, int, str, list[list[str]]]]:
    """For each request: first and last turn, why it is rejected, and categories of each turn."""
    first = 0
    for last, reply in said:
        num_texts = last + 1 - first
        problem, flags = "", [[] for _ in range(num_texts)]
        if reply.outcome is not Outcome.COMPLETE:
            problem = f"not moderated: {reply.outcome.value}"
        elif len(found := read_categories(reply)) != num_texts:
            problem = f"not moderated: {len(found)} results for {num_texts} texts"
        else:
            flags = found
        yield first, last, problem, flags
        first = last + 1


def _path(folder: Path) -> Path:
    return folder / "moderation.sqlite"
