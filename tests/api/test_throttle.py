"""When requests are admitted, on a virtual clock."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from parrot_jax.api.endpoint_config import EndpointConfig, RetryConfig
from parrot_jax.api.rate_headers import RateLimit, read_rate_limit
from parrot_jax.api.replies import Outcome, Reply, Response, Usage
from parrot_jax.api.throttle import Throttle

RunVirtual = Callable[[Coroutine[Any, Any, Any]], Any]

RETRIES = RetryConfig(first_delay_s=1.0, max_delay_s=60.0)
HELLO = Reply(Outcome.COMPLETE, "Hello.")


def throttle(most: int = 8, **limits: Any) -> Throttle:
    config = EndpointConfig(base_url="http://host/v1", model="m", **limits)
    return Throttle(config, RETRIES, most=most)


def fine(**more: Any) -> Response:
    return Response(reply=HELLO, status=200, **more)


def too_many(retry_after_s: float | None = None) -> Response:
    reply = Reply(Outcome.FAILED, "")
    return Response(
        reply=reply, status=429, error="HTTP 429", may_pass=True, retry_after_s=retry_after_s
    )


async def times(
    gate: Throttle,
    count: int,
    *,
    tokens: float = 0.0,
    takes_s: float = 0.0,
    reply: Callable[[int], Response] = lambda _: fine(),
) -> list[float]:
    """Sends requests at once; returns the times at which they were admitted, to 1/100 s."""
    admitted: list[float] = []

    async def send() -> None:
        ticket = await gate.admit(tokens)
        assert ticket is not None
        admitted.append(round(asyncio.get_running_loop().time(), 2))
        number = len(admitted)
        await asyncio.sleep(takes_s)
        gate.leave(ticket, reply(number))

    await asyncio.gather(*(send() for _ in range(count)))
    return admitted


def test_so_many_at_once(run_virtual: RunVirtual) -> None:
    assert run_virtual(times(throttle(2), 5, takes_s=1.0)) == [0, 0, 1, 1, 2]
    # The endpoint's limit applies if it is lower than the number of dialogues.
    assert run_virtual(times(throttle(9, concurrency=1), 3, takes_s=1.0)) == [0, 1, 2]


def test_so_many_a_minute(run_virtual: RunVirtual) -> None:
    # 120 per minute are 2 per second: 2 at once, then one every 0.5 s.
    seen = run_virtual(times(throttle(requests_per_minute=120.0), 6))
    assert seen == [0, 0, 0.5, 1, 1.5, 2]


def test_so_many_tokens_a_minute_and_a_large_request_passes_and_is_paid_for(
    run_virtual: RunVirtual,
) -> None:
    # 600 per minute are 10 per second: a request of 50 passes at once; the debt of 40 takes 4 s.
    seen = run_virtual(times(throttle(tokens_per_minute=600.0), 3, tokens=50.0))
    assert seen == pytest.approx([0, 4.1, 9.1])


def test_tokens_that_were_not_used_are_given_back(run_virtual: RunVirtual) -> None:
    gate = throttle(tokens_per_minute=600.0)
    few = fine(usage=Usage(10, 5))
    seen = run_virtual(times(gate, 3, tokens=50.0, reply=lambda _: few))
    # Each used 15 tokens, not 50.
    assert seen == pytest.approx([0, 0.6, 2.1])


def test_the_server_names_its_limit(run_virtual: RunVirtual) -> None:
    # 1 of 60 is left, and all are restored in 59 s: one per second.
    left = iter([RateLimit(60.0, 1.0, 59.0)])
    gate = throttle(most=1)
    seen = run_virtual(times(gate, 4, reply=lambda _: fine(request_limit=next(left, None))))
    assert seen == pytest.approx([0, 0, 1, 2])


def test_what_is_under_way_is_taken_off_what_the_server_says_is_left(
    run_virtual: RunVirtual,
) -> None:
    async def run() -> float:
        gate = throttle()
        first, *_ = [await gate.admit(0.0) for _ in range(3)]
        assert first
        # The server had not counted the other two when it reported 3 of 60 left.
        gate.leave(first, fine(request_limit=RateLimit(60.0, 3.0, 57.0)))
        assert await gate.admit(0.0)
        assert await gate.admit(0.0)
        return asyncio.get_running_loop().time()

    assert run_virtual(run()) == pytest.approx(1.0)


def test_after_too_many_nobody_sends_for_as_long_as_the_server_asks(
    run_virtual: RunVirtual,
) -> None:
    gate = throttle(most=4)
    seen = run_virtual(
        times(gate, 6, takes_s=1.0, reply=lambda n: too_many(20.0) if n <= 4 else fine())
    )
    # Four got a 429 at 1 s; half as many are sent at 21 s.
    assert seen == [0, 0, 0, 0, 21, 21]
    assert gate.num_rate_limited == 4
    assert gate.room == pytest.approx(2 + 1 / 2 + 1 / 2.5)


def test_a_server_that_names_no_time_is_left_alone_ever_longer(run_virtual: RunVirtual) -> None:
    seen = run_virtual(times(throttle(most=1), 5, reply=lambda _: too_many()))
    waits = [later - earlier for earlier, later in itertools.pairwise(seen)]
    # 1, 2, 4, 8 s, each shortened by up to half.
    assert all(
        most / 2 - 0.01 <= wait <= most + 0.01
        for wait, most in zip(waits, (1, 2, 4, 8), strict=True)
    )


def test_a_server_that_names_a_moment_again_and_again_is_asked_ever_less(
    run_virtual: RunVirtual,
) -> None:
    # Waits of 1 ms, then of 2, 4, 8, ... s, each shortened by up to half.
    gate = throttle(most=1)
    told = times(gate, 7, reply=lambda _: too_many(1e-3))
    waits = [later - earlier for earlier, later in itertools.pairwise(run_virtual(told))]
    assert waits[0] < 0.01
    assert all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(waits[1:], 1)), waits


@pytest.mark.parametrize(("limit", "reset"), [("10", "9" * 307 + "h"), ("1e-30", "1e300")])
def test_limits_that_no_server_has_stop_nothing(
    run_virtual: RunVirtual, limit: str, reset: str
) -> None:
    headers = {
        "x-ratelimit-limit-requests": limit, "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": reset,
    }  # fmt: skip
    seen = fine(request_limit=read_rate_limit(headers, "requests"))
    assert len(run_virtual(times(throttle(most=1), 3, reply=lambda _: seen))) == 3


def test_successes_make_room_again(run_virtual: RunVirtual) -> None:
    gate = throttle(most=8)
    run_virtual(times(gate, 8, takes_s=1.0, reply=lambda _: too_many(1.0)))
    assert gate.room == 4
    run_virtual(times(gate, 200, takes_s=1.0))
    assert gate.room == 8


def test_whoever_stops_waiting_takes_no_place(run_virtual: RunVirtual) -> None:
    async def run() -> int:
        gate = throttle(most=1)
        first = await gate.admit(0.0)
        assert first is not None
        waiting = [asyncio.create_task(gate.admit(0.0)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        gate.leave(first, fine())
        waiting[1].cancel()  # admitted just now, but its task has not run yet
        assert await waiting[2] is not None
        return gate.in_flight

    assert run_virtual(run()) == 1


def test_when_it_stops_all_who_wait_are_told(run_virtual: RunVirtual) -> None:
    async def run() -> list[Any]:
        gate = throttle(most=1)
        assert await gate.admit(0.0)
        waiting = [asyncio.create_task(gate.admit(0.0)) for _ in range(2)]
        await asyncio.sleep(0)
        gate.stop()
        return [*await asyncio.gather(*waiting), await gate.admit(0.0)]

    assert run_virtual(run()) == [None, None, None]


def test_a_stray_too_many_hardly_slows_it(run_virtual: RunVirtual) -> None:
    gate = throttle(most=100)
    run_virtual(
        times(gate, 8000, takes_s=1.0, reply=lambda n: too_many(0.1) if n % 20 == 0 else fine())
    )
    # Two of 40 get a 429, which lowers the limit by 1; the 38 successes raise it by nearly 1.
    assert 30 < gate.room < 50


@pytest.mark.parametrize("reset_s", [600.0, 1e12, 1e300])
def test_no_header_keeps_everybody_waiting(run_virtual: RunVirtual, reset_s: float) -> None:
    """If a server always reports that nothing is left, requests wait the longest delay."""
    spent = fine(request_limit=RateLimit(10, 0, reset_s))
    first, second, third = run_virtual(times(throttle(most=1), 3, reply=lambda _: spent))
    assert first == 0
    # A tenth of ten minutes is also a minute.
    assert second == pytest.approx(RETRIES.max_delay_s, abs=31)
    assert third - second == pytest.approx(RETRIES.max_delay_s, abs=31)


def test_limits_of_the_config_are_kept_however_long_it_takes(run_virtual: RunVirtual) -> None:
    gate = throttle(most=1, requests_per_minute=0.1)
    assert run_virtual(times(gate, 3))[1] >= 300
