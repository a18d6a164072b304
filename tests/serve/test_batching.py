"""Which items share a batch, and cancellation."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from parrot_jax.serve.batching import Batcher, Deliver
from parrot_jax.serve.engine import RequestError


class Device:
    """Doubles the numbers of a batch when allowed to; records the batches.

    A number >= 1,000 has a thousand parts, unless it is cancelled.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.given_up: list[list[int]] = []
        self.free = threading.Event()

    def run(self, work: Sequence[int], deliver: Deliver[int]) -> None:
        self.batches.append(list(work))
        assert self.free.wait(timeout=10)
        if 13 in work:
            raise ValueError("thirteen")
        for _ in range(1000):
            given_up = deliver([2 * number for number in work])
            self.given_up.append(sorted(given_up))
            if max(work) < 1000 or len(given_up) == len(work):
                return
            time.sleep(0.005)


async def result(parts: AsyncIterator[int]) -> int:
    """Returns a result that has one part."""
    (only,) = [part async for part in parts]
    return only


def with_batcher(play: Any, *, max_items: int = 3, max_waiting: int = 100) -> Device:
    """Runs a scenario with a batcher whose device is already processing the item 0."""
    device = Device()

    async def scene() -> None:
        batcher = Batcher[int, int](device.run, max_items=max_items, max_waiting=max_waiting)
        batcher.start()
        first = asyncio.create_task(result(batcher.submit("first", 0)))
        while not device.batches:
            await asyncio.sleep(0.001)
        try:
            await play(batcher, device)
            assert await first == 0
        finally:
            device.free.set()
            batcher.stop()

    asyncio.run(scene())
    return device


async def started(*works: AsyncIterator[int]) -> list[asyncio.Task[int]]:
    """Creates tasks that wait in the queue in this order."""
    tasks = [asyncio.create_task(result(work)) for work in works]
    await asyncio.sleep(0)
    return tasks


def test_the_oldest_item_decides_and_others_of_its_kind_join() -> None:
    async def play(batcher: Batcher[int, int], device: Device) -> None:
        works = [("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5), ("a", 6)]
        tasks = await started(*(batcher.submit(*work) for work in works))
        device.free.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10, 12]

    assert with_batcher(play).batches == [[0], [1, 3, 5], [2, 4], [6]]


def test_items_that_come_at_about_the_same_time_share_a_batch() -> None:
    async def play(batcher: Batcher[int, int], device: Device) -> None:
        device.free.set()
        while batcher.busy:
            await asyncio.sleep(0.001)
        first = asyncio.create_task(result(batcher.submit("a", 1)))
        await asyncio.sleep(0.001)
        assert await result(batcher.submit("a", 2)) == 4
        assert await first == 2

    assert with_batcher(play).batches == [[0], [1, 2]]


def test_who_is_cancelled_while_waiting_takes_no_row() -> None:
    async def play(batcher: Batcher[int, int], device: Device) -> None:
        gone, alone, stays = await started(
            batcher.submit("a", 1), batcher.submit("b", 2), batcher.submit("a", 3)
        )
        gone.cancel()
        alone.cancel()
        await asyncio.sleep(0)
        device.free.set()
        assert await stays == 6

    assert with_batcher(play).batches == [[0], [3]]


def test_who_is_cancelled_on_the_device_does_not_disturb_the_others() -> None:
    async def play(batcher: Batcher[int, int], device: Device) -> None:
        device.free.set()
        while batcher.busy:
            await asyncio.sleep(0.001)
        device.free.clear()
        gone, stays = await started(batcher.submit("a", 1), batcher.submit("a", 2))
        while len(device.batches) < 2:
            await asyncio.sleep(0.001)
        gone.cancel()
        device.free.set()
        assert await stays == 4

    assert with_batcher(play).batches == [[0], [1, 2]]


def test_parts_come_while_the_batch_runs_and_who_leaves_is_given_up() -> None:
    async def play(batcher: Batcher[int, int], device: Device) -> None:
        device.free.set()
        stays = batcher.submit("a", 1000)
        async with contextlib.aclosing(batcher.submit("a", 7)) as leaves:
            both = asyncio.gather(anext(stays), anext(leaves))
            assert await both == [2000, 14]
            assert await anext(leaves) == 14
            assert batcher.busy
        assert await anext(stays) == 2000
        while [1] not in device.given_up:
            assert await anext(stays) == 2000
        await stays.aclose()
        while batcher.busy:
            await asyncio.sleep(0.001)

    device = with_batcher(play)
    assert device.batches == [[0], [1000, 7]]
    assert device.given_up[-1] == [0, 1]
    assert len(device.given_up) < 1000


def test_an_error_is_everybodys_in_the_batch_and_nobodys_outside() -> None:
    async def play(batcher: Batcher[int, int], device: Device) -> None:
        works = [("a", 13), ("a", 1), ("b", 2)]
        tasks = await started(*(batcher.submit(*work) for work in works))
        device.free.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(result) for result in results] == ["thirteen", "thirteen", "4"]

    with_batcher(play)


def test_a_full_queue_sends_away() -> None:
    async def play(batcher: Batcher[int, int], device: Device) -> None:
        tasks = await started(batcher.submit("a", 1), batcher.submit("a", 2))
        with pytest.raises(
            RequestError, match="2 requests are already waiting; try again later"
        ) as error:
            await result(batcher.submit("a", 3))
        assert error.value.status == 503
        device.free.set()
        assert await asyncio.gather(*tasks) == [2, 4]

    with_batcher(play, max_waiting=2)


def test_stopping_cancels_who_waits_and_who_is_on_the_device() -> None:
    async def play(batcher: Batcher[int, int], device: Device) -> None:
        tasks = await started(batcher.submit("a", 1))
        batcher.stop()
        assert batcher.busy
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        device.free.set()

    # The item that was on the device when the batcher stopped is cancelled too.
    with pytest.raises(asyncio.CancelledError):
        with_batcher(play)
