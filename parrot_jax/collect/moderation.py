"""Asks a moderator about what was said; each text once, however often a collection is exported.

One request has the texts of one dialogue that no earlier one had, and is journaled as those of a
collection are. A text of which the moderator did not say anything never passes.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from parrot_jax.api.caller import Caller
from parrot_jax.api.config import EndpointConfig, RetryConfig, changes_of_replies
from parrot_jax.api.health import Health, Rejected, first_of, raise_first, wind_down
from parrot_jax.api.journal import End, JournalWriter, Start
from parrot_jax.api.journal_file import put_aside
from parrot_jax.api.journal_reader import JournalReader, Said, SpeakerCounts
from parrot_jax.api.moderation import moderation_body, moderation_endpoint, read_categories
from parrot_jax.api.replies import Outcome
from parrot_jax.collect.filters import Cut
from parrot_jax.collect.folder import Collection
from parrot_jax.core.config import config_from_dict, config_to_dict
from parrot_jax.core.errors import RunError
from parrot_jax.core.logs import console
from parrot_jax.core.open_files import allow_connections
from parrot_jax.dialogue.types import Dialogue

MODERATOR = "moderator"
_CONCURRENCY = 16


class Moderation:
    """A filter: what the moderator said of the dialogues of a collection.

    It wants them as they were when the moderator was asked, so it is the first of the filters.
    """

    def __init__(self, folder: Path) -> None:
        """Opens the journal for reading.

        Raises:
          UserError: There is none.
        """
        self._journal = JournalReader(_path(folder))

    def __call__(self, number: int, dialogue: Dialogue, num_begun: int) -> Cut | None:
        """The first turn that may not pass; a `Filter`. Beginnings are held to it as well."""
        turn = -1
        for first, last, problem, flags in _answers(self._journal.said(number)):
            for turn, names in zip(range(first, last + 1), flags, strict=True):
                if problem or names:
                    return Cut(turn, f"moderation: {problem or ', '.join(names)}")
        if turn + 1 < len(dialogue.turns):
            end = self._journal.end(number)
            return Cut(turn + 1, "moderation: not moderated" + (f": {end.reason}" if end else ""))
        return None

    def close(self) -> None:
        """Closes the journal."""
        self._journal.close()


def moderate(
    collection: Collection, dialogues: Iterable[tuple[int, Dialogue]], config: EndpointConfig
) -> None:
    """Asks about every text that was not asked about before; can be killed and run again.

    Args:
      collection: Its folder gets the journal `moderation.sqlite`.
      dialogues: Numbers in the collection, with what is to be exported of them;
        taken one by one.
      config: The moderator. Where its model is another one than before, or the collection was begun
        anew, all is asked anew.

    Raises:
      RunError: The moderator failed; what it said so far is kept.
      UserError: The key is not set, or the journal cannot be written.
    """
    asyncio.run(_moderate(collection, dialogues, config))


async def _moderate(
    collection: Collection, dialogues: Iterable[tuple[int, Dialogue]], config: EndpointConfig
) -> None:
    endpoint = moderation_endpoint(config)
    path = _path(collection.folder)
    with (
        _open_journal(collection, config) as journal,
        contextlib.closing(JournalReader(path)) as reader,
    ):
        counts = reader.counts().speakers.get(MODERATOR, SpeakerCounts())
        most = config.concurrency or _CONCURRENCY
        allow_connections(most, wanted_by=f"concurrency {most:,}")
        caller = Caller.continuing(MODERATOR, endpoint, journal, RetryConfig(), counts, most=most)
        health = Health[None]()
        tried = asyncio.Event()

        def give_up(did: str, mend: str) -> RunError:
            caller.stop()
            return RunError(
                f"the moderator at {config.base_url} {did}: {health.last_error.rstrip('.')}; "
                f"{mend} and run the same command again: what it has said is kept."
            )

        async def end_all(rejected: Iterable[Rejected[None]]) -> None:
            for one in rejected:
                await journal.ended(one.number, End(Outcome.REJECTED.value, 0, one.error))

        async def ask(number: int, dialogue: Dialogue, asked: int) -> None:
            texts = [turn.text for turn in dialogue.turns[asked:]]
            body, turn = moderation_body(config, texts), len(dialogue.turns) - 1
            response = await caller.call(number, turn, body)
            if response is None:
                return
            error = response.error or ""
            if response.reply.outcome is Outcome.FAILED:
                health.failed(error)
                raise give_up("failed", "see to it")
            if response.reply.outcome is not Outcome.REJECTED:
                tried.set()
                await end_all(health.replied())
            elif reader.is_at_fault(number, turn):
                await end_all([Rejected(number, None, error)])
            elif health.rejected(number, None, error):
                raise give_up("takes no request", "change its settings")

        async def work(todo: Iterator[tuple[int, Dialogue]]) -> None:
            for number, dialogue in todo:
                asked = max((said.turn + 1 for said in reader.said(number)), default=0)
                if asked < len(dialogue.turns) and reader.end(number) is None:
                    await ask(number, dialogue, asked)

        todo = iter(dialogues)
        async with endpoint:
            # One goes alone until the moderator has replied.
            workers = [asyncio.create_task(work(todo))]
            try:
                await first_of(workers[0], tried)
                workers += [asyncio.create_task(work(todo)) for _ in range(most - 1)]
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                caller.stop()
                await wind_down(workers)
        raise_first(workers)
        await end_all(health.settle())
        if health.num_held:
            raise give_up("takes no request", "change its settings")


def _open_journal(collection: Collection, config: EndpointConfig) -> JournalWriter:
    path = _path(collection.folder)
    # A collection that was begun anew has other dialogues under the same numbers.
    begun_at = {"collection_begun_at": collection.journal.begun_at()}
    start = Start(config_to_dict(config) | begun_at)
    known = 0
    if path.exists():
        with contextlib.closing(JournalReader(path)) as reader:
            before, known = dict(reader.last_start().config), reader.num_dialogues()
        of = {key: before.pop(key, None) for key in begun_at}
        asked = config_from_dict(type(config), before, where=f"the moderator of {path}")
        if of != begun_at or changes_of_replies(asked, config):
            console.print("another moderator, or another collection: all is asked anew")
            put_aside(path)
    journal = JournalWriter(path)
    try:
        if journal.is_new:
            journal.begin(start, collection.journal.beginnings())
        else:
            journal.go_on(start, itertools.islice(collection.journal.beginnings(), known, None))
    except BaseException:
        journal.close()
        raise
    return journal


def _answers(said: Sequence[Said]) -> Iterator[tuple[int, int, str, list[list[str]]]]:
    """First and last turn of each request, why all of it is out, and the categories of each."""
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
