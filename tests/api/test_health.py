"""How workers that failed are told of: one error is raised, and asyncio prints none."""

import asyncio
import gc

import pytest

from parrot_jax.api.health import raise_first


def test_the_first_error_is_raised_and_no_other_is_printed() -> None:
    unasked: list[object] = []

    async def fail(text: str) -> None:
        raise ValueError(text)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: unasked.append(about))
        workers = [asyncio.create_task(fail(text)) for text in ("one", "two")]
        await asyncio.wait(workers)
        with pytest.raises(ValueError, match="one"):
            raise_first(workers)
        del workers
        gc.collect()

    asyncio.run(main())
    assert not unasked
