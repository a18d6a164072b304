"""Work joined into batches: one batch at a time, in a thread of its own. Loads no jax."""

import asyncio
import concurrent.futures
from collections.abc import AsyncGenerator, Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from parrot_jax.serve.engine import RequestError

WorkT = TypeVar("WorkT")
PartT = TypeVar("PartT")

Deliver = Callable[[Sequence[PartT]], Collection[int]]
"""Hands each piece of work of a batch the next part of its result, in order; returns the numbers of
those that nobody wants more of."""

# Clients that got their replies from one batch send their next requests at about the same time.
_JOIN_S = 0.005


class _End:
    """What comes behind the last part."""


@dataclass(eq=False, slots=True)
class _Item:
    kind: Hashable
    work: Any
    parts: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    """Parts of the result; last an `_End`, or an exception."""
    is_wanted: bool = True


class Batcher(Generic[WorkT, PartT]):
    """Runs work in the order of its arrival, and with each item others of its kind.

    The oldest waiting item decides the kind of a batch, so nobody waits for ever. An item whose
    submitter leaves is taken out of the queue, or given up in its batch. All methods belong to one
    event loop.
    """

    def __init__(
        self,
        run: Callable[[Sequence[WorkT], Deliver[PartT]], None],
        *,
        max_items: int,
        max_waiting: int,
    ) -> None:
        """Starts nothing yet.

        Args:
          run: Does 1 to `max_items` pieces of work of one kind and delivers their results part by
            part; called in a thread, one call at a time. What it raises, everybody in the batch
            gets.
          max_items: Most items of a batch, >= 1.
          max_waiting: Most items that wait; whoever comes then is sent away.
        """
        self._run, self._max_items, self._max_waiting = run, max_items, max_waiting
        self._waiting: list[_Item] = []
        self._batch: list[_Item] = []
        self._arrival = asyncio.Event()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "batches")
        self._running: concurrent.futures.Future[None] | None = None
        self._loop: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a batch is being run, be it for submitters that have all gone."""
        return self._running is not None and not self._running.done()

    def start(self) -> None:
        """Begins to run batches."""
        self._loop = asyncio.get_running_loop().create_task(self._run_batches())

    def stop(self) -> None:
        """Cancels all submitters; a batch that is being run ends at its next part."""
        if self._loop is not None:
            self._loop.cancel()
        for item in [*self._waiting, *self._batch]:
            item.is_wanted = False
            item.parts.put_nowait(asyncio.CancelledError())
        self._thread.shutdown(wait=False)

    async def submit(self, kind: Hashable, work: WorkT) -> AsyncGenerator[PartT, None]:
        """Yields the parts of the result of one piece of work; close it to give the work up.

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
        item = _Item(kind, work)
        self._waiting.append(item)
        self._arrival.set()
        try:
            while not isinstance(part := await item.parts.get(), _End):
                if isinstance(part, BaseException):
                    raise part
                yield part
        finally:
            item.is_wanted = False
            if item in self._waiting:
                self._waiting.remove(item)

    async def _run_batches(self) -> None:
        while True:
            await self._arrival.wait()
            self._arrival.clear()
            while self._waiting:
                if len(self._next_batch()) < self._max_items:
                    await asyncio.sleep(_JOIN_S)
                self._batch = self._next_batch()
                self._waiting = [item for item in self._waiting if item not in self._batch]
                if self._batch:  # while it slept, all may have gone
                    await self._run_batch(self._batch)

    def _next_batch(self) -> list[_Item]:
        """The oldest waiting item, and others of its kind."""
        oldest = self._waiting[:1]
        same = [item for item in self._waiting[1:] if item.kind == oldest[0].kind]
        return oldest + same[: self._max_items - 1]

    async def _run_batch(self, batch: list[_Item]) -> None:
        loop = asyncio.get_running_loop()

        def hand_out(parts: Sequence[PartT]) -> None:
            for item, part in zip(batch, parts, strict=True):
                item.parts.put_nowait(part)

        def deliver(parts: Sequence[PartT]) -> list[int]:
            loop.call_soon_threadsafe(hand_out, parts)
            return [number for number, item in enumerate(batch) if not item.is_wanted]

        self._running = self._thread.submit(self._run, [item.work for item in batch], deliver)
        end: _End | Exception = _End()
        try:
            await asyncio.wrap_future(self._running)
        except Exception as error:
            end = error
        for item in batch:
            item.parts.put_nowait(end)
