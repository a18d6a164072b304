"""What an endpoint may cost: every call's worst case is set aside before it is sent.

A limit holds hard because of three things. A prompt has at most as many tokens as bytes, and a
reply at most `max_tokens`. What is in flight is counted with its worst case until it has come back.
And a call that was sent, but of which nobody can say what it cost (its reply was lost, or the
server counts no tokens), keeps its worst case for ever, in this run and in all that go on with it.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parrot_jax.api.config import EndpointConfig, Price
from parrot_jax.api.replies import Usage, completion_limit
from parrot_jax.core.errors import RunError

_MILLION = 1_000_000
_NOTHING = Usage()
_TEXTS = frozenset({"messages", "input"})
_TOKENS_A_MESSAGE = 16
"""Headers and separators of a message at most; the largest in use, Llama 3's, has 5."""


def usd(usage: Usage, price: Price) -> float:
    """What tokens cost.

    >>> usd(Usage(2_000_000, 1_000_000), Price(prompt=0.5, completion=1.5))
    2.5
    """
    return (usage.prompt * price.prompt + usage.completion * price.completion) / _MILLION


class BudgetSpentError(RunError):
    """The next call might pass the limit, and none in flight can make room for it."""


def worst_usage(body: Mapping[str, Any]) -> Usage:
    """The most tokens that a request can cost.

    A tokenizer that covers every text has bytes as its smallest pieces, so no text has more tokens
    than bytes; a chat template adds a few to each message.

    Args:
      body: As sent: `messages`, each {role, content}, or `input`, a list of texts. Fields that are
        no single number or word, like schemas and tools, count as if they were in the prompt.
        Without a limit of tokens the reply counts as 0.
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
    """What the calls of an endpoint have cost, as the journal has it."""

    known: Usage = _NOTHING
    """As the server counts."""
    uncertain: Usage = _NOTHING
    """The worst case of calls that may have been billed, but whose cost nobody knows."""


class Budget:
    """Sets aside and counts what the calls of one endpoint cost.

    Attributes:
      price: Of the model; None = unknown.
      max_usd: The limit; None = there is none.
      max_tokens: The limit; None = there is none.
      spent: What is certain to have been spent, and what may have been.
      in_flight: The worst case of what is under way.
    """

    def __init__(self, speaker: str, config: EndpointConfig, spent: Spent) -> None:
        """Counts on from what was spent before.

        Args:
          speaker: Who is named in errors, e.g. `asker`.
          config: Its limits in USD and in tokens, and its price, where there is one in USD.
          spent: By earlier runs of the same journal.
        """
        self._speaker, self.price = speaker, config.price
        self.max_usd, self.max_tokens = config.budget_usd, config.budget_tokens
        self.spent, self.in_flight = spent, _NOTHING
        self._waiting: list[asyncio.Future[None]] = []
        self._stopped = False

    async def reserve(self, worst: Usage) -> bool:
        """Sets the worst case of a call aside; waits where calls in flight may still make room.

        Returns:
          Whether the call may be made; False = nothing is spent any more.

        Raises:
          BudgetSpentError: The call might pass a limit. It is not to be made.
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
        """Replaces what was set aside for a call by what it cost.

        Args:
          worst: What was given to `reserve`.
          known: What it cost, as the server counts; None = the server does not say.
          may_be_billed: Whether it may have cost something: then, its worst case.
        """
        self.in_flight = self.in_flight.minus(worst)
        if known is not None:
            self.spent.known = self.spent.known.plus(known)
        elif may_be_billed:
            self.spent.uncertain = self.spent.uncertain.plus(worst)
        self._wake()

    def stop(self) -> None:
        """Lets nobody spend any more; those who wait are told at once."""
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
                f"{sums.total:,} were used, and the next call may take {worst.total:,}; raise "
                "budget_tokens and run the same command again to continue."
            )
        if self.max_usd is None:
            return None
        assert self.price is not None
        if usd(after, self.price) > self.max_usd:
            return (
                f"the {self._speaker}'s budget of {self.max_usd:.2f} USD is spent: "
                f"{usd(sums, self.price):.2f} were used, and the next call may cost "
                f"{usd(worst, self.price):.4f}; raise budget_usd and run the same command again "
                "to continue."
            )
        return None
