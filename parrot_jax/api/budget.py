"""Budgets of endpoints: the worst case of every call is reserved before it is sent.

Three rules make a budget a hard limit. The worst case of a call is one token per byte of the
prompt, and `max_tokens` for the reply. Calls in flight count with their worst case until they
return. A call of unknown cost (its reply was lost, or the server counts no tokens) counts with its
worst case forever, also in later runs of the same journal.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parrot_jax.api.endpoint_config import EndpointConfig, Price
from parrot_jax.api.replies import Usage, completion_limit
from parrot_jax.core.errors import RunError

_MILLION = 1_000_000
_NOTHING = Usage()
_TEXTS = frozenset({"messages", "input"})
_TOKENS_A_MESSAGE = 16
"""Upper bound on the headers and separators of a message; Llama 3's, the longest in use, has 5."""


def usd(usage: Usage, price: Price) -> float:
    """The cost of tokens.

    >>> usd(Usage(2_000_000, 1_000_000), Price(prompt=0.5, completion=1.5))
    2.5
    """
    return (usage.prompt * price.prompt + usage.completion * price.completion) / _MILLION


class BudgetSpentError(RunError):
    """The next call could exceed the limit, and no call in flight can make room for it."""


def worst_usage(body: Mapping[str, Any]) -> Usage:
    """The most tokens that a request can cost.

    A tokenizer that covers every text has bytes as its smallest pieces, so no text has more tokens
    than bytes; a chat template adds a few to each message.

    Args:
      body: As sent: `messages`, each {role, content}, or `input`, a list of texts. Lists and
        objects in other fields, like schemas and tools, count as part of the prompt. Without a
        token limit the reply counts as 0.
    """
    if "messages" in body:
        texts = [message["content"] for message in body["messages"]]
    else:
        texts = body["input"]
    num_bytes = sum(len(text.encode()) for text in texts)
    more = [v for k, v in body.items() if k not in _TEXTS and isinstance(v, dict | list)]
    num_bytes += sum(len(json.dumps(value)) for value in more)
    return Usage(num_bytes + _TOKENS_A_MESSAGE * (len(texts) + 1), completion_limit(body) or 0)


@dataclass(slots=True)
class Spent:
    """The cost of an endpoint's calls so far, from the journal."""

    known: Usage = _NOTHING
    """As counted by the server."""
    uncertain: Usage = _NOTHING
    """The worst case of calls that may have been billed, but whose cost is unknown."""


class Budget:
    """Reserves and counts the cost of one endpoint's calls.

    Attributes:
      price: The model's price; None = unknown.
      max_usd: The limit; None = unlimited.
      max_tokens: The limit; None = unlimited.
      spent: Known and uncertain cost so far.
      in_flight: The worst case of the calls in flight.
    """

    def __init__(self, speaker: str, config: EndpointConfig, spent: Spent) -> None:
        """Starts from the cost of earlier runs.

        Args:
          speaker: The name for errors, e.g. `asker`.
          config: Its limits in USD and in tokens; a limit in USD needs a price.
          spent: Cost of earlier runs of the same journal.
        """
        self._speaker, self.price = speaker, config.price
        self.max_usd, self.max_tokens = config.budget_usd, config.budget_tokens
        self.spent, self.in_flight = spent, _NOTHING
        self._waiting: list[asyncio.Future[None]] = []
        self._stopped = False

    async def reserve(self, worst: Usage) -> bool:
        """Reserves the worst case of a call; waits if calls in flight may still make room.

        Returns:
          Whether the call may be made; False after `stop`.

        Raises:
          BudgetSpentError: The call could exceed a limit and must not be made.
        """
        while not self._stopped and (reason := self._reason_against(worst)) is not None:
            if self.in_flight == _NOTHING:
                raise BudgetSpentError(reason)
            returned = asyncio.get_running_loop().create_future()
            self._waiting.append(returned)
            await returned
        if not self._stopped:
            self.in_flight = self.in_flight.plus(worst)
        return not self._stopped

    def settle(self, worst: Usage, *, known: Usage | None, may_be_billed: bool) -> None:
        """Replaces the reservation of a call by its cost.

        Args:
          worst: As given to `reserve`.
          known: Its tokens as counted by the server; None = unknown.
          may_be_billed: Whether it may have cost something; if `known` is None, the worst case
            counts.
        """
        self.in_flight = self.in_flight.minus(worst)
        if known is not None:
            self.spent.known = self.spent.known.plus(known)
        elif may_be_billed:
            self.spent.uncertain = self.spent.uncertain.plus(worst)
        self._wake()

    def stop(self) -> None:
        """Ends all spending; waiting calls return at once."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for returned in waiting:
            if not returned.done():
                returned.set_result(None)

    def _reason_against(self, worst: Usage) -> str | None:
        sums = self.spent.known.plus(self.spent.uncertain).plus(self.in_flight)
        after = sums.plus(worst)
        if self.max_tokens is not None and after.total > self.max_tokens:
            return (
                f"the {self._speaker}'s budget of {self.max_tokens:,} tokens is spent: "
                f"{sums.total:,} are used, and the next call may take {worst.total:,}; raise "
                "budget_tokens and run the same command again to continue."
            )
        if self.max_usd is None:
            return None
        assert self.price is not None
        if usd(after, self.price) > self.max_usd:
            return (
                f"the {self._speaker}'s budget of {self.max_usd:.2f} USD is spent: "
                f"{usd(sums, self.price):.2f} are used, and the next call may cost "
                f"{usd(worst, self.price):.4f}; raise budget_usd and run the same command again "
                "to continue."
            )
        return None
