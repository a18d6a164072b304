"""Runs a job: many items at once, a few requests each; journaled, limited and resumable.

A collection, a judge and a moderator differ only in their requests and in the use of replies. The
rest is here: workers, budgets, failing endpoints, endpoints that reject everything, Ctrl-C and
progress. Only the journal is kept between runs, so resuming is no special case: a job looks up what
an item has and requests the rest.

    with open_items(path, start, inputs, check) as journal, closing(JournalReader(path)) as reader:
        job = Job({"judge": Endpoint(config)}, journal, reader, retries=..., concurrency=16)
        await job.run(items, work, noun="sessions", total=len(items))
    if job.problem is not None: ...

where `work(item)` awaits `job.ask(...)` as often as the item needs it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rich.console import Console

from parrot_jax.api.budget import BudgetSpentError
from parrot_jax.api.caller import Caller
from parrot_jax.api.endpoint import Endpoint
from parrot_jax.api.endpoint_config import RetryConfig
from parrot_jax.api.health import Health, Rejected
from parrot_jax.api.journal import End, JournalWriter
from parrot_jax.api.journal_reader import JournalReader, SpeakerCounts
from parrot_jax.api.live import LiveView
from parrot_jax.api.replies import Outcome, Reply, Response
from parrot_jax.core.errors import ParrotError, RunError
from parrot_jax.core.logs import console as standard_output
from parrot_jax.core.open_files import allow_connections

GRACE_S = 30
"""Seconds to wait for replies in flight when a run stops."""

ITEMS_AT_FIRST = 3
"""Most items that run one at a time, until every speaker has replied once."""

_FORBIDDEN = 403

Item = TypeVar("Item")


class Job:
    """The requests of one run.

    Attributes:
      unanswered: Item and step of each request without a reply in this run.
      stopped_by: Why the run stopped sending, in a few words; empty if it did not.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        journal: JournalWriter,
        reader: JournalReader,
        *,
        retries: RetryConfig,
        concurrency: int,
        console: Console | None = None,
    ) -> None:
        """Sends nothing yet.

        Args:
          endpoints: By speaker, their name in the journal.
          journal: The open journal.
          reader: A reader of the same journal.
          retries: The retry settings.
          concurrency: Most items at once, >= 1; also most requests in flight to one endpoint.
          console: For progress; None = standard output.

        Raises:
          UserError: The system does not allow enough connections.
        """
        self._endpoints, self._journal, self._reader = endpoints, journal, reader
        self._concurrency, self._console = concurrency, console or standard_output
        most = {name: endpoint.config.concurrency for name, endpoint in endpoints.items()}
        allow_connections(
            sum(min(concurrency, limit or concurrency) for limit in most.values()),
            wanted_by=f"concurrency {concurrency:,}",
        )
        counts = reader.counts().speakers
        self._callers = {
            name: Caller.continuing(
                name, endpoint, journal, retries, counts.get(name, SpeakerCounts()),
                most=concurrency,
            )
            for name, endpoint in endpoints.items()
        }  # fmt: skip
        self._health = {name: Health() for name in endpoints}
        for name in reader.useful_speakers() & endpoints.keys():
            self._health[name].was_useful()
        self._tried = asyncio.Event()
        """Set when the endpoints are known to accept requests, so that full concurrency may
        start."""
        self._num_tried = self._num_asked = 0
        self._budget_spent: BudgetSpentError | None = None
        self._is_stopping = False
        self._rejected: set[int] = set()
        """Items that ended in this run because their own requests were rejected."""
        self.stopped_by = ""
        self.unanswered: set[tuple[int, int]] = set()

    async def run(
        self,
        items: Iterable[Item],
        work: Callable[[Item], Awaitable[str | None]],
        *,
        noun: str,
        total: int,
        finished: int = 0,
    ) -> None:
        """Works through the items until all are done, an endpoint fails or a budget is spent.

        Args:
          items: Consumed one by one as workers become free.
          work: Sends the missing requests of an item. Returns its result for the progress view;
            None = it stays open.
          noun: The name of the items, e.g. `dialogues`.
          total: Number of items, including finished ones.
          finished: Number of finished items, which are not in `items`.

        Raises:
          UserError: A key is not set, or the journal cannot be written.
          KeyboardInterrupt: Ctrl-C, after at most `GRACE_S` seconds; a second one stops at once.
        """
        self._view = LiveView(noun, total, finished, self._callers, console=self._console)
        left = iter(items)
        async with contextlib.AsyncExitStack() as stack:
            for endpoint in self._endpoints.values():
                await stack.enter_async_context(endpoint)
            await stack.enter_async_context(self._view.shown())
            # The first item runs alone: if one speaker rejects everything, this costs one reply of
            # the other speaker, not a thousand.
            workers = [asyncio.create_task(self._work(left, work))]
            try:
                await _first_of(workers[0], self._tried)
                for _ in range(self._concurrency - 1):
                    workers.append(asyncio.create_task(self._work(left, work)))
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
                is_complete = not self._is_stopping
            finally:
                self._stop_sending()
                if waiting := sum(not worker.done() for worker in workers):
                    self._console.print(
                        f"stopping: waiting up to {GRACE_S} s for {waiting:,} replies in flight "
                        "(Ctrl-C: stop now)"
                    )
                await _wind_down(workers)
        raise_first(workers)
        if is_complete:
            for health in self._health.values():
                await self._finish_rejected(health.settle())

    async def ask(
        self,
        item: int,
        step: int,
        speaker: str,
        body: dict[str, Any],
        *,
        if_rejected: End,
        verdict: Callable[[Reply], str | None] = lambda _: None,
    ) -> Response | None:
        """Sends a request, with retries.

        Args:
          item: The number of the item in the journal.
          step: The index of the request within the item, from 0.
          speaker: The endpoint's name.
          body: From `request_body`.
          if_rejected: How the item ends if its own request is at fault; the endpoint's message
            becomes the detail.
          verdict: Returns why a reply is useless, or None; journaled with the reply. Runs in a
            thread, one reply at a time.

        Returns:
          A response that is neither failed nor rejected. None if the request failed, was rejected,
          or the run stops; the item then stays open for a later run.

        Raises:
          BudgetSpentError: The request could exceed the budget. The run stops; `work` need not
            catch it.
        """
        if self._is_stopping:
            return None
        self._num_asked += 1
        try:
            response = await self._callers[speaker].call(item, step, body, verdict)
        except BudgetSpentError as error:
            self._budget_spent = error
            self._stop_sending("the budget is spent", str(error))
            raise
        if response is None:
            return None
        if response.reply.outcome in (Outcome.FAILED, Outcome.REJECTED):
            self.unanswered.add((item, step))
            await self._no_reply(item, step, speaker, response, if_rejected)
            return None
        await self._finish_rejected(self._health[speaker].replied())
        self._note_tried()
        self._view.reply_came(speaker)
        return response

    async def finish(self, item: int, end: End) -> None:
        """Journals that an item is finished, so that later runs skip it."""
        await self._journal.ended(item, end)

    def note_use(self, speaker: str, why_not: str | None) -> None:
        """Notes whether a reply was useful; stops the run if none was so far.

        Args:
          speaker: The endpoint's name.
          why_not: Why it is useless; None if it is useful.
        """
        health = self._health[speaker]
        if why_not is None:
            health.was_useful()
        elif health.was_useless(why_not):
            self._stop_sending(f"all replies of the {speaker} are useless")

    @property
    def problem(self) -> ParrotError | None:
        """Why items lack replies; None if none do, or only because of their own requests."""
        problems, rejecting = [], []
        for name, health in self._health.items():
            faults = []
            if health.failures:
                faults.append(f"failed {_times(health.failures)}")
            if held := health.num_held:
                faults.append(
                    f"rejected requests of {held:,} of {self._view.total:,} {self._view.noun}"
                )
            if useless := health.num_useless:
                faults.append(f"gave {useless:,} useless replies")
            if faults:
                url = self._endpoints[name].config.base_url
                problems.append(
                    f"the {name} at {url} {' and '.join(faults)} (last error: {health.last_error})"
                )
            if held or useless:
                rejecting.append(f"the {name}")
        if not problems:
            return self._budget_spent
        advice = (
            f"change the settings of {' and '.join(rejecting)}"
            if rejecting
            else "check the endpoint"
        )
        return RunError(
            f"{'; '.join(problems)}; {advice} and run the same command again to continue."
        )

    async def _work(
        self, items: Iterator[Item], work: Callable[[Item], Awaitable[str | None]]
    ) -> None:
        for item in items:
            before = self._num_asked
            with contextlib.suppress(BudgetSpentError):
                if (result := await work(item)) is not None:
                    self._view.item_finished(result)
            await asyncio.sleep(0)  # items without requests never yield to the loop
            self._note_tried(items=self._num_asked > before)
            if self._is_stopping:
                return

    async def _no_reply(
        self, item: int, step: int, speaker: str, response: Response, if_rejected: End
    ) -> None:
        """Finishes an item whose request is at fault; else leaves it open and may stop the run."""
        health, error = self._health[speaker], response.error or ""
        was_rejected = response.reply.outcome is Outcome.REJECTED
        is_final = was_rejected or response.status == _FORBIDDEN
        if is_final and self._reader.is_at_fault(item, step):
            await self._finish_rejected([Rejected(item, if_rejected, error)])
        elif was_rejected:
            if health.rejected(item, if_rejected, error):
                self._stop_sending(f"the {speaker} rejects all requests")
        elif not self._is_stopping:  # while stopping, retries were cut short
            self._tried.set()  # failures cost nothing, so concurrency is safe
            if health.failed(error):
                self._stop_sending(f"the {speaker} fails")

    async def _finish_rejected(self, rejected: Sequence[Rejected]) -> None:
        for one in rejected:
            if one.item in self._rejected:
                continue  # several of its requests were rejected
            self._rejected.add(one.item)
            self.unanswered = {asked for asked in self.unanswered if asked[0] != one.item}
            await self.finish(one.item, one.end._replace(detail=one.error))
            self._view.item_finished(one.end.reason)

    def _note_tried(self, *, items: int = 0) -> None:
        self._num_tried += items
        if self._num_tried >= ITEMS_AT_FIRST or all(
            health.has_replied for health in self._health.values()
        ):
            self._tried.set()

    def _stop_sending(self, why: str = "", message: str = "") -> None:
        if why and not self._is_stopping:
            self.stopped_by = why
            self._console.print(message or f"{why}: nothing more is sent")
        self._is_stopping = True
        for caller in self._callers.values():
            caller.stop()


async def _first_of(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Waits until the task is done or the event is set."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _wind_down(workers: Sequence[asyncio.Task[None]]) -> None:
    """Waits up to `GRACE_S` for requests in flight, as they are paid for; then ends all workers."""
    if waiting := [worker for worker in workers if not worker.done()]:
        try:
            await asyncio.wait(waiting, timeout=GRACE_S)
        finally:
            for worker in waiting:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


def raise_first(workers: Sequence[asyncio.Task[None]]) -> None:
    """Raises the exception of the first failed worker, after all are done.

    Retrieves the others too, since asyncio prints exceptions that are never retrieved.
    """
    ended = [worker.exception() for worker in workers if not worker.cancelled()]
    for error in ended:
        if error is not None:
            raise error


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
