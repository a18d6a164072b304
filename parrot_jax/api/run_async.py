"""Runs a coroutine from a plain function, also inside a running event loop."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_async(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs a coroutine to completion, also inside a running event loop such as a notebook's.

    In a notebook it runs in a separate thread while the cell waits. Ctrl-C cancels it.
    """
    if not _has_running_loop():
        return asyncio.run(main)
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()

    async def tracked() -> Result:
        running.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await main

    with ThreadPoolExecutor(1, thread_name_prefix="job") as thread:
        result = thread.submit(asyncio.run, tracked())
        try:
            return result.result()
        except KeyboardInterrupt:
            loop, task = running.result()
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)
            raise


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
