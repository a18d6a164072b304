"""Groups work into batches, which run one at a time in a thread. Does not import jax."""

import asyncio
import concurrent.futures
from collections.abc import AsyncGenerator, Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from parrot_jax.serve.engine import RequestError

WorkT = TypeVar("WorkT")
PartT = TypeVar("PartT")

Deliver = Callable[[Sequence[PartT]], Collection[int]]
"""Delivers the next part of the result of each item of a batch, in order; returns the indices of
cancelled items."""

_JOIN_S = 0.005
"""Seconds to wait for more items: clients of one batch send their next requests together."""


class _End:
    """Marks the end of the parts."""


@dataclass(eq=False, slots=True)
class _Item:
    kind: Hashable
    work: Any
    parts: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    """Parts of the result; the last is an `_End` or an exception."""
    is_wanted: bool = True


class Batcher(Generic[WorkT, PartT]):
    """Runs work in order of arrival, batching items of the same kind.

    The oldest waiting item determines the kind of a batch, so no item waits forever. If a submitter
    leaves, its item is removed from the queue or cancelled within its batch. Call all methods in
    one event loop.
    """

    def __init__(
        self,
        run: Callable[[Sequence[WorkT], Deliver[PartT]], None],
        *,
        max_items: int,
        max_waiting: int,
    ) -> None:
        """Sets up the queue; `start` starts it.

        Args:
          run: Processes 1 to `max_items` items of one kind and delivers their results part by part;
            called in a thread, one call at a time. Its exception goes to all submitters of the
            batch.
          max_items: Limit on the items of a batch, >= 1.
          max_waiting: Limit on waiting items; further ones are rejected.
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
        """Whether a batch is running, even if all its submitters have left."""
        return self._running is not None and not self._running.done()

    def start(self) -> None:
        """Starts running batches."""
        self._loop = asyncio.get_running_loop().create_task(self._run_batches())

    def stop(self) -> None:
        """Cancels all submitters; a running batch ends at its next part."""
        if self._loop is not None:
            self._loop.cancel()
        for item in [*self._waiting, *self._batch]:
            item.is_wanted = False
            item.parts.put_nowait(asyncio.CancelledError())
        self._thread.shutdown(wait=False)

    async def submit(self, kind: Hashable, work: WorkT) -> AsyncGenerator[PartT, None]:
        """Yields the parts of an item's result; close the generator to cancel the item.

        Args:
          kind: Only items of the same kind share a batch.
          work: The item for `run`.

        Raises:
          RequestError: Too many items are waiting (status 503).
        """
        if len(self._waiting) >= self._max_waiting:
            raise RequestError(
                f"{self._max_waiting} requests are already waiting; try again later.",
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
                if self._batch:  # all may have left during the sleep
                    await self._run_batch(self._batch)

    def _next_batch(self) -> list[_Item]:
        """Returns the oldest waiting item and others of its kind."""
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
