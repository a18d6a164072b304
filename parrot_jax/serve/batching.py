"""Work joined into batches: one batch at a time, in a thread of its own. Loads no jax."""

import asyncio
import concurrent.futures
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from parrot_jax.serve.speaker import RequestError

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")

# Clients that got their replies from one batch send their next requests at about the same time.
_JOIN_S = 0.005


@dataclass(eq=False, slots=True)
class _Item:
    kind: Hashable
    work: Any
    result: asyncio.Future[Any]


class Batcher(Generic[WorkT, ResultT]):
    """Runs work in the order of its arrival, and with each item others of its kind.

    The oldest waiting item decides the kind of a batch, so nobody waits for ever. An item whose
    submitter is cancelled leaves the queue. All methods belong to one event loop.
    """

    def __init__(
        self,
        run: Callable[[Sequence[WorkT]], Sequence[ResultT]],
        *,
        max_items: int,
        max_waiting: int,
    ) -> None:
        """Starts nothing yet.

        Args:
          run: Turns 1 to `max_items` pieces of work of one kind into as many results; called in a
            thread, one call at a time. What it raises, everybody in the batch gets.
          max_items: Most items of a batch, >= 1.
          max_waiting: Most items that wait; whoever comes then is sent away.
        """
        self._run, self._max_items, self._max_waiting = run, max_items, max_waiting
        self._waiting: list[_Item] = []
        self._arrival = asyncio.Event()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "batches")
        self._batch: concurrent.futures.Future[Sequence[ResultT]] | None = None
        self._loop: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a batch is being run, be it for submitters that have all gone."""
        return self._batch is not None and not self._batch.done()

    def start(self) -> None:
        """Begins to run batches."""
        self._loop = asyncio.get_running_loop().create_task(self._run_batches())

    def stop(self) -> None:
        """Cancels all that wait; a batch that is being run is left alone, and its results lost."""
        if self._loop is not None:
            self._loop.cancel()
        for item in self._waiting:
            item.result.cancel()
        self._thread.shutdown(wait=False)

    async def submit(self, kind: Hashable, work: WorkT) -> ResultT:
        """Waits for the result of one piece of work.

        Args:
          kind: Only work of equal kinds shares a batch.
          work: What `run` gets.

        Raises:
          RequestError: Too much work waits already (status 503).
        """
        if len(self._waiting) >= self._max_waiting:
            raise RequestError(
                f"{self._max_waiting} requests wait already; try again later.",
                status=503, code="overloaded",
            )  # fmt: skip
        item = _Item(kind, work, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        self._arrival.set()
        try:
            return await item.result
        finally:
            if item in self._waiting:
                self._waiting.remove(item)

    async def _run_batches(self) -> None:
        while True:
            await self._arrival.wait()
            self._arrival.clear()
            while self._waiting:
                if len(self._next_batch()) < self._max_items:
                    await asyncio.sleep(_JOIN_S)
                batch = self._next_batch()
                self._waiting = [item for item in self._waiting if item not in batch]
                if batch:  # while it slept, all may have gone
                    await self._run_batch(batch)

    def _next_batch(self) -> list[_Item]:
        """The oldest waiting item, and others of its kind."""
        oldest = self._waiting[:1]
        same = [item for item in self._waiting[1:] if item.kind == oldest[0].kind]
        return oldest + same[: self._max_items - 1]

    async def _run_batch(self, batch: list[_Item]) -> None:
        self._batch = self._thread.submit(self._run, [item.work for item in batch])
        try:
            results = await asyncio.wrap_future(self._batch)
            for item, result in zip(batch, results, strict=True):
                if not item.result.done():
                    item.result.set_result(result)
        except asyncio.CancelledError:
            for item in batch:
                item.result.cancel()
            raise
        except Exception as error:
            for item in batch:
                if not item.result.done():
                    item.result.set_exception(error)
