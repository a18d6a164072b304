"""An event loop with a virtual clock, so that waits of an hour take no time."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

RunVirtual = Callable[[Coroutine[Any, Any, Any]], Any]


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock

    def select(self, timeout: float | None = None) -> Any:
        self.clock[0] += timeout or 0.0
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = [0.0]
        super().__init__(_Selector(self.clock))

    def time(self) -> float:
        return self.clock[0]


@pytest.fixture
def run_virtual() -> RunVirtual:
    """Returns a function that runs a coroutine with a virtual clock, which starts at 0."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
            return runner.run(work)

    return run
