"""An event loop whose clock jumps: what waits an hour is tested in a millisecond."""

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
    """Runs a coroutine whose waits take no time; the loop's clock starts at 0."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
            return runner.run(work)

    return run
