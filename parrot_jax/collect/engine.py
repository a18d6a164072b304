"""Runs a collection: many dialogues at once, each step of each decided by its state machine.

Nothing is kept between two runs but the journal. Every dialogue is read from it, whether anything
was said in it yet or not, so going on after a kill is no case of its own.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from parrot_jax.api.caller import Caller
from parrot_jax.api.endpoint import Endpoint, request_body
from parrot_jax.api.journal import JournalWriter
from parrot_jax.api.replies import Outcome, Response
from parrot_jax.collect.config import CollectConfig
from parrot_jax.collect.dialogue_state import Done, Speaker, next_step
from parrot_jax.collect.export import CollectionSummary, export
from parrot_jax.collect.folder import Collection, open_journal
from parrot_jax.core.errors import RunError
from parrot_jax.core.logs import LINE_EVERY_S, console, progress_bar, visible

GRACE_S = 30
"""Seconds that an interrupted run waits for the replies in flight, which are paid for."""

MAX_FAILURES_IN_A_ROW = 3
"""Dialogues that an endpoint may fail, with no reply in between, before the run stops."""


def collect(config: CollectConfig) -> CollectionSummary:
    """Runs a collection, or goes on with it, until all dialogues have ended.

    However it ends, short of a kill, the finished dialogues are exported. It may run in any thread
    that has no event loop; where there is one, await `collect_async`.

    Returns:
      The summary, as in `summary.json`.

    Raises:
      UserError: As in `open_journal`, a key is not set, or the disk is full.
      RunError: An endpoint failed, or no dialogue got a turn.
      KeyboardInterrupt: Ctrl-C, after `GRACE_S` seconds at most; a second one ends it at once.
    """
    return asyncio.run(collect_async(config))


async def collect_async(config: CollectConfig) -> CollectionSummary:
    """As `collect`, in a running event loop; cancelling it stops the run as Ctrl-C does."""
    asker, answerer = Endpoint(config.asker), Endpoint(config.answerer)
    with open_journal(config) as journal, contextlib.closing(Collection(config.out)) as collection:
        console.print(
            f"{len(collection):,} dialogues, {config.concurrency:,} at once: "
            f"asker {config.asker.model} at {config.asker.base_url}, "
            f"answerer {config.answerer.model} at {config.answerer.base_url}"
        )
        try:
            async with asker, answerer:
                run = _Run(config, collection, journal, {"asker": asker, "answerer": answerer})
                await run.run()
        finally:
            summary = export(collection)
            console.print("\n".join(summary.lines()))
    run.check_failures(summary)
    if not summary.exported:
        stops = ", ".join(f"{reason} {count:,}" for reason, count in summary.stops.items())
        raise RunError(
            f"none of the {summary.dialogues:,} dialogues got a turn: they ended with {stops}; "
            f"the replies are in {collection.journal.path}."
        )
    return summary


def request_seed(seed: int, dialogue: int, turn: int, speaker: Speaker) -> int:
    """The seed of a request, in [0, 2^31): the same in every run, and unlike every other's."""
    digest = hashlib.sha256(f"request {seed} {dialogue} {turn} {speaker}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


class _Run:
    """One run: workers that take the dialogues by number, each carrying one on at a time."""

    def __init__(
        self,
        config: CollectConfig,
        collection: Collection,
        journal: JournalWriter,
        endpoints: dict[Speaker, Endpoint],
    ) -> None:
        self.config, self.collection = config, collection
        self.stopping = asyncio.Event()
        self.callers = {
            speaker: Caller(speaker, endpoint, journal, config.retries, self.stopping)
            for speaker, endpoint in endpoints.items()
        }
        self.failures = {speaker: _Failures() for speaker in endpoints}
        self.progress = _Progress(len(collection))

    async def run(self) -> None:
        """Returns when all dialogues have ended, or an endpoint has failed."""
        numbers = iter(range(len(self.collection)))
        with self.progress:
            workers = [
                asyncio.create_task(self._work(numbers)) for _ in range(self.config.concurrency)
            ]
            try:
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                await self._stop(workers)
        for worker in workers:
            if not worker.cancelled() and (error := worker.exception()):
                raise error

    async def _work(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self._carry_on(number)
            await asyncio.sleep(0)  # dialogues that had ended before wait for nothing themselves
            if self.stopping.is_set():
                return

    async def _carry_on(self, number: int) -> None:
        """Takes a dialogue to its end, unless the run stops or its endpoint fails before."""
        _, beginning, replies, _ = self.collection.dialogue(number)
        while not self.stopping.is_set():
            step = next_step(beginning, replies, self.collection.rules)
            if isinstance(step, Done):
                self.progress.dialogue_ended()
                return
            caller = self.callers[step.speaker]
            seed = request_seed(self.config.seed, number, step.turn, step.speaker)
            body = request_body(caller.endpoint.config, step.messages, seed=seed)
            response = await caller.call(number, step.turn, body)
            if response.reply.outcome is Outcome.FAILED:
                self._note_failure(step.speaker, response)
                return
            self.failures[step.speaker].in_a_row = 0
            self.progress.reply_came()
            replies.append(response.reply)

    def _note_failure(self, speaker: Speaker, response: Response) -> None:
        if self.stopping.is_set():
            return  # it might have been tried again
        failures = self.failures[speaker]
        failures.dialogues += 1
        failures.in_a_row += 1
        failures.last = response.error or ""
        if failures.in_a_row >= MAX_FAILURES_IN_A_ROW:
            console.print(f"the {speaker} fails: nothing more is sent")
            self.stopping.set()

    def check_failures(self, summary: CollectionSummary) -> None:
        """Raises `RunError` where an endpoint failed."""
        texts = [
            f"the {speaker} at {self.callers[speaker].endpoint.config.base_url} failed in "
            f"{failures.dialogues:,} of {summary.dialogues:,} dialogues, the last time with: "
            f"{visible(failures.last)}"
            for speaker, failures in self.failures.items()
            if failures.dialogues
        ]
        if texts:
            raise RunError(
                f"{'; '.join(texts)}. Unfinished dialogues: {summary.unfinished:,}; see to the "
                "endpoint and run the same command again to continue."
            )

    async def _stop(self, workers: list[asyncio.Task[None]]) -> None:
        """Sends nothing more, and waits a while for what is in flight."""
        self.stopping.set()
        waiting = [worker for worker in workers if not worker.done()]
        try:
            if waiting:
                console.print(
                    f"stopping: waiting up to {GRACE_S} s for {len(waiting):,} replies in flight "
                    "(Ctrl-C: not at all)"
                )
                await asyncio.wait(waiting, timeout=GRACE_S)
        finally:
            for worker in waiting:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


@dataclass
class _Failures:
    """What an endpoint failed to do in this run."""

    dialogues: int = 0
    """Dialogues that could not go on."""
    in_a_row: int = 0
    """Those since the last reply."""
    last: str = ""
    """The last error."""


class _Progress:
    """A bar; where there is no terminal, a line now and then."""

    def __init__(self, num_dialogues: int) -> None:
        self.num_dialogues, self.num_ended, self.num_replies = num_dialogues, 0, 0
        self.bar = progress_bar("dialogues")
        self.task = self.bar.add_task("collect", total=num_dialogues)
        self.started = self.last_line = time.monotonic()

    def __enter__(self) -> None:
        self.bar.start()

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def dialogue_ended(self) -> None:
        self.num_ended += 1
        self.bar.update(self.task, completed=self.num_ended)

    def reply_came(self) -> None:
        self.num_replies += 1
        now = time.monotonic()
        if not console.is_terminal and now - self.last_line >= LINE_EVERY_S:
            self.last_line = now
            console.print(
                f"{self.num_ended:,} of {self.num_dialogues:,} dialogues ended, "
                f"{self.num_replies:,} replies, {self.num_replies / (now - self.started):.1f}/s"
            )
