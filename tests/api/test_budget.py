"""Budgets: no call is made whose largest possible cost could exceed a limit."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.api.budget import Budget, BudgetSpentError, Spent, worst_usage
from parrot_jax.api.endpoint_config import EndpointConfig, Price
from parrot_jax.api.replies import Usage

PRICE = Price(prompt=1.0, completion=10.0)
"""USD per million tokens."""


def budget(*, spent: Spent | None = None, **limits: float) -> Budget:
    config = EndpointConfig(
        base_url="http://host/v1", model="m", max_tokens=100, price=PRICE,
        budget_usd=limits.get("usd"), budget_tokens=limits.get("tokens"),  # type: ignore[arg-type]
    )  # fmt: skip
    return Budget("answerer", config, spent or Spent())


def test_the_worst_case_of_a_request_is_its_bytes_and_its_limit() -> None:
    messages = [{"role": "user", "content": "你好"}]
    # Two characters of 3 bytes; 16 tokens for the message and 16 for the header of the reply.
    assert worst_usage({"messages": messages, "max_tokens": 100}) == Usage(6 + 32, 100)
    # `stop` has 10 bytes as JSON and counts, because a server may show it to the model.
    more = {"max_completion_tokens": 70, "stop": ["a", "c"], "top_p": 1.0}
    assert worst_usage({"messages": messages, **more}) == Usage(6 + 32 + 10, 70)


def test_a_call_is_counted_with_its_worst_case_until_its_cost_is_known() -> None:
    async def run() -> None:
        wallet = budget(tokens=1000)
        assert await wallet.reserve(Usage(300, 100))
        assert wallet.in_flight == Usage(300, 100)
        wallet.settle(Usage(300, 100), known=Usage(80, 20), may_be_billed=True)
        assert wallet.in_flight == Usage()
        assert wallet.spent == Spent(known=Usage(80, 20))

    asyncio.run(run())


def test_the_call_that_might_pass_the_limit_is_not_made() -> None:
    async def run(wallet: Budget) -> None:
        for _ in range(9):
            assert await wallet.reserve(Usage(90, 10))
            wallet.settle(Usage(90, 10), known=Usage(90, 10), may_be_billed=True)
        await wallet.reserve(Usage(91, 10))

    text = (
        "answerer's budget of 1,000 tokens is spent: 900 are used, and the next call may take 101"
    )
    with pytest.raises(BudgetSpentError, match=text):
        asyncio.run(run(budget(tokens=1000)))
    # A call costs (90 + 100) / 10^6 USD: nine cost 0.00171, ten 0.0019.
    with pytest.raises(BudgetSpentError, match="budget of 0.00 USD is spent"):
        asyncio.run(run(budget(usd=0.0018)))


def test_who_does_not_fit_waits_for_calls_that_may_cost_less() -> None:
    async def run() -> None:
        wallet = budget(tokens=150)
        assert await wallet.reserve(Usage(90, 10))
        waiting = asyncio.create_task(wallet.reserve(Usage(90, 10)))
        await asyncio.sleep(0)
        assert not waiting.done()
        wallet.settle(Usage(90, 10), known=Usage(20, 5), may_be_billed=True)
        assert await waiting

    asyncio.run(run())


def test_what_nobody_can_know_is_spent_in_its_worst_case_and_what_was_not_billed_is_not() -> None:
    async def run() -> Spent:
        wallet = budget(tokens=1000, spent=Spent(Usage(5, 5), Usage(7, 7)))
        for known, may_be_billed in ((None, True), (None, False), (Usage(1, 2), True)):
            assert await wallet.reserve(Usage(90, 10))
            wallet.settle(Usage(90, 10), known=known, may_be_billed=may_be_billed)
        return wallet.spent

    assert asyncio.run(run()) == Spent(known=Usage(6, 7), uncertain=Usage(97, 17))


def test_when_it_stops_all_who_wait_are_told() -> None:
    async def run() -> list[bool]:
        wallet = budget(tokens=100)
        assert await wallet.reserve(Usage(90, 10))
        waiting = [asyncio.create_task(wallet.reserve(Usage(90, 10))) for _ in range(2)]
        await asyncio.sleep(0)
        wallet.stop()
        return [*await asyncio.gather(*waiting), await wallet.reserve(Usage(0, 0))]

    assert asyncio.run(run()) == [False, False, False]


calls = st.lists(
    st.tuples(
        st.builds(Usage, st.integers(0, 50), st.integers(0, 50)),
        st.sampled_from(["all", "half", "lost", "refused"]),
    ),
    max_size=30,
)


@given(calls, st.integers(0, 500), st.integers(1, 5))
def test_however_calls_end_the_limit_holds(
    calls: list[tuple[Usage, str]], limit: int, at_once: int
) -> None:
    async def run() -> None:
        wallet = budget(tokens=limit)
        real = 0
        todo = iter(calls)

        async def work() -> None:
            nonlocal real
            for worst, fate in todo:
                try:
                    assert await wallet.reserve(worst)
                except BudgetSpentError:
                    return
                await asyncio.sleep(0)
                cost = {"all": worst, "lost": worst, "refused": Usage()}.get(
                    fate, Usage(worst.prompt // 2, worst.completion // 2)
                )
                real += cost.total
                wallet.settle(
                    worst,
                    known=None if fate in ("lost", "refused") else cost,
                    may_be_billed=fate != "refused",
                )

        await asyncio.gather(*(work() for _ in range(at_once)))
        assert real <= limit
        assert wallet.spent.known.plus(wallet.spent.uncertain).total == real
        assert wallet.in_flight == Usage()

    asyncio.run(run())
