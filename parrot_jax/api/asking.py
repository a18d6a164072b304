"""A job that asks one model about many items, in their order, until enough replies are wanted.

The result does not depend on the order of the replies, nor on kills: of each group, it is the first
`enough` wanted items. An item is asked only while the items before it gave fewer.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from parrot_jax.api.endpoint import Endpoint, request_body, seed_from
from parrot_jax.api.endpoint_config import JobEndpointConfig
from parrot_jax.api.job_journal import open_items
from parrot_jax.api.jobs import Job
from parrot_jax.api.journal import End, Start
from parrot_jax.api.journal_reader import JournalReader, SpeakerCounts
from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.core.errors import ParrotError

_ASKED = "asked"


class Item(Protocol):
    """What the model is asked about."""

    @property
    def group(self) -> str:
        """Each group has its own count of wanted items."""
        ...

    def input(self) -> str:
        """The item in the journal, different for each item."""
        ...

    def requests(self) -> list[list[dict[str, str]]]:
        """The messages of its requests; their index is the step in the journal."""
        ...


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What is asked, and what is wanted."""

    speaker: str
    """The model's name in the journal."""
    endpoint: JobEndpointConfig
    items: Sequence[Any]
    """Each is an `Item`; in the order of preference."""
    enough: int
    """Wanted items of each group, >= 1."""
    judge: Callable[[Any, Sequence[Reply]], str]
    """Takes an item and the reply to each request; returns why it is not wanted, empty = it is."""
    useless: Callable[[Reply], str]
    """Why a reply cannot be read; empty = it can. If no reply can, the job stops."""
    seed: int


@dataclass(frozen=True)
class Asked:
    """An item with its replies."""

    item: Any
    replies: tuple[Reply, ...]
    """Empty if the endpoint rejected it."""
    model: str
    """As the server names it, else as requested."""
    why_not: str
    """Why it is not wanted; empty = it is."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The result of this run and earlier ones."""

    asked: Sequence[Asked]
    """In the order of the items, without items that are not needed."""
    open: int
    """Items that are needed and have no reply yet."""
    counts: SpeakerCounts
    problem: ParrotError | None
    """Why items are open; None = no endpoint is at fault."""

    def line(self, speaker: str) -> str:
        """The requests as text."""
        counts = self.counts
        return (
            f"{speaker}: {counts.requests:,} requests, {counts.failed:,} failed, "
            f"{counts.lost:,} lost; {counts.known.total:,} tokens"
        )


async def ask_until_enough(
    asking: Asking,
    path: Path,
    start: Start,
    check_same: Callable[[Start], None],
    write: Callable[[Answers], None],
) -> Answers:
    """Asks what the journal lacks.

    Args:
      asking: The items.
      path: The journal, an SQLite file.
      start: The config and prompts of this run.
      check_same: See `open_items`.
      write: Writes the result; also called if the run is interrupted.

    Raises:
      UserError: A key is not set, or the journal cannot be written or resumed.
      KeyboardInterrupt: See `Job.run`.
    """
    endpoint = Endpoint(asking.endpoint)  # checks the key first
    inputs = [item.input() for item in asking.items]
    with (
        open_items(path, start, inputs, check_same) as journal,
        contextlib.closing(JournalReader(path)) as reader,
    ):
        job = Job(
            {asking.speaker: endpoint}, journal, reader,
            retries=asking.endpoint.retries, concurrency=asking.endpoint.concurrency,
        )  # fmt: skip
        numbers = {text: number for number, text in enumerate(reader.items())}
        work = _Work(asking, job, reader, [numbers[text] for text in inputs])
        try:
            await job.run(
                work.needed(), work.ask, noun="requests", total=len(inputs),
                finished=work.num_finished(),
            )  # fmt: skip
        finally:
            journal.check_in_place()  # never write results without a journal
            answers = work.answers()
            write(answers)
        return answers


class _Work:
    def __init__(
        self, asking: Asking, job: Job, reader: JournalReader, numbers: Sequence[int]
    ) -> None:
        self._asking, self._job, self._reader, self._numbers = asking, job, reader, numbers
        self._items = dict(zip(numbers, asking.items, strict=True))
        self._known: dict[int, Asked] = {}
        self._wanted: Counter[str] = Counter()
        """Wanted items before the one that is needed next, by group."""

    def num_finished(self) -> int:
        open_items = set(self._reader.without_end())
        return sum(number not in open_items for number in self._numbers)

    def needed(self) -> Iterator[int]:
        """The items to ask, in order. Called while others are in flight."""
        for number in self._numbers:
            group = self._items[number].group
            if self._wanted[group] >= self._asking.enough:
                continue
            if (asked := self._asked(number)) is None:
                yield number
            else:
                self._wanted[group] += not asked.why_not

    async def ask(self, number: int) -> str | None:
        """Sends the requests of an item that have no reply; None = it stays open."""
        asking, item = self._asking, self._items[number]
        said = {step for step, _ in self._reader.said(number)}
        for step, messages in enumerate(item.requests()):
            if step in said:
                continue
            seed = seed_from(f"{asking.seed} {step} {item.input()}")
            response = await self._job.ask(
                number, step, asking.speaker,
                request_body(asking.endpoint, messages, seed=seed),
                if_rejected=End(Outcome.REJECTED.value),
            )  # fmt: skip
            if response is None:
                return None
            self._job.note_use(asking.speaker, asking.useless(response.reply) or None)
        asked = self._asked(number)
        assert asked is not None, "all requests have replies"
        self._wanted[item.group] += not asked.why_not
        await self._job.finish(number, End(_ASKED))
        return asked.why_not or "wanted"

    def answers(self) -> Answers:
        """The result, from the journal alone."""
        found, num_open, wanted = [], 0, Counter[str]()
        for number in self._numbers:
            group = self._items[number].group
            if wanted[group] >= self._asking.enough:
                continue
            asked = self._asked(number)
            if asked is None:
                num_open += 1
            else:
                found.append(asked)
                wanted[group] += not asked.why_not
        return Answers(
            asked=found,
            open=num_open,
            counts=self._reader.counts().speakers.get(self._asking.speaker, SpeakerCounts()),
            problem=self._job.problem,
        )

    def _asked(self, number: int) -> Asked | None:
        """An item whose requests all have replies, or that was rejected; None = it is open."""
        if number in self._known:
            return self._known[number]
        item, replies = self._items[number], dict(self._reader.said(number))
        end = self._reader.end(number)
        if len(replies) == len(item.requests()):
            said = tuple(replies[step] for step in sorted(replies))
            models = self._reader.models_of(number).get(self._asking.speaker)
            model = ", ".join(models or [self._asking.endpoint.model])
            asked = Asked(item, said, model, self._asking.judge(item, said))
        elif end is not None and end.reason == Outcome.REJECTED.value:
            asked = Asked(item, (), self._asking.endpoint.model, "rejected by the endpoint")
        else:
            return None
        self._known[number] = asked
        return asked
