"""Sends requests: journals each one before it is sent and when it returns, and retries failures."""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from parrot_jax.api.budget import Budget, Spent, worst_usage
from parrot_jax.api.endpoint import Endpoint
from parrot_jax.api.endpoint_config import RetryConfig
from parrot_jax.api.journal import JournalWriter
from parrot_jax.api.journal_reader import SpeakerCounts
from parrot_jax.api.notices import Notices
from parrot_jax.api.replies import Outcome, Reply, Response, Usage
from parrot_jax.api.throttle import Throttle

_JUDGING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="judging")
_BYTES_A_TOKEN = 4
"""Of ordinary text. Used only to estimate rates; budgets use the worst case."""


def retry_delay_s(
    rules: RetryConfig, response: Response, *, attempt: int, shortening: float = 0.0
) -> float | None:
    """Seconds to wait before the next attempt; None = no further attempt.

    Args:
      rules: The retry settings.
      response: The response of a failed attempt.
      attempt: The number of the attempt, from 1.
      shortening: Random jitter in [0, 1], so that requests that failed together are not retried
        together.

    >>> from parrot_jax.api.replies import no_response
    >>> [retry_delay_s(RetryConfig(), no_response("reset"), attempt=n) for n in (1, 2, 3, 8)]
    [0.5, 1.0, 2.0, None]
    """
    if attempt >= rules.max_attempts or not response.may_pass:
        return None
    delay_s = min(rules.first_delay_s * 2 ** min(attempt - 1, 60), rules.max_delay_s)
    asked_s = min(response.retry_after_s or 0.0, rules.max_delay_s)
    return max(delay_s * (1 - shortening / 2), asked_s)


class Caller:
    """An endpoint with its journal, limits and retry settings.

    The first retried failure of each kind is printed at once, with the server's message; later ones
    at growing intervals.

    Attributes:
      speaker: The name under which the journal keeps its requests.
      throttle: Decides when a request may be sent.
      budget: Its budget.
    """

    def __init__(
        self,
        speaker: str,
        endpoint: Endpoint,
        journal: JournalWriter,
        retries: RetryConfig,
        throttle: Throttle,
        budget: Budget,
    ) -> None:
        """Sends nothing yet."""
        self.speaker, self.throttle, self.budget = speaker, throttle, budget
        self._endpoint, self._journal, self._retries = endpoint, journal, retries
        self._stopping = asyncio.Event()
        self._notices = Notices(f"the {speaker} at {endpoint.config.base_url}")
        self._waits_since: float | None = None
        """Loop time of the first 429 since the last reply."""

    @classmethod
    def continuing(
        cls,
        speaker: str,
        endpoint: Endpoint,
        journal: JournalWriter,
        retries: RetryConfig,
        before: SpeakerCounts,
        *,
        most: int,
    ) -> "Caller":
        """Creates a caller whose budget includes the cost of earlier starts.

        Args:
          speaker: The name under which the journal keeps its requests.
          endpoint: The endpoint; its config has the limits.
          journal: The journal of all requests.
          retries: The retry settings.
          before: Counts of earlier starts, from the journal.
          most: Most requests in flight at once, >= 1.
        """
        budget = Budget(speaker, endpoint.config, Spent(before.known, before.uncertain))
        throttle = Throttle(endpoint.config, retries, most=most)
        return cls(speaker, endpoint, journal, retries, throttle, budget)

    def stop(self) -> None:
        """Sends nothing more; requests in flight may still return."""
        self._stopping.set()
        self.throttle.stop()
        self.budget.stop()

    async def call(
        self,
        item: int,
        step: int,
        body: dict[str, Any],
        judge: Callable[[Reply], str | None] = lambda _: None,
    ) -> Response | None:
        """Sends a request, with retries.

        Args:
          item: The number of its item.
          step: The index of the request within the item, from 0.
          body: From `request_body`.
          judge: Returns why a reply is useless, or None; the verdict is journaled with the reply.
            Runs in a separate thread, one reply at a time.

        Returns:
          The first response whose outcome is not `failed`; or the last one, if no attempts are left
          or the endpoint has replied 429 for too long. All are in the journal. None if the caller
          was stopped before it sent anything.

        Raises:
          BudgetSpentError: The next attempt could exceed the budget.
          UserError: The journal cannot be written.
        """
        text = json.dumps(body, ensure_ascii=False)
        attempt, response = 1, None
        while not self._stopping.is_set():
            last = response
            response = await self._send(item, step, attempt, body, text, judge)
            if response is None:
                return last
            if response.reply.outcome is not Outcome.FAILED:
                self._waits_since = None
                return response
            if response.is_rate_limited:
                if self._has_waited_too_long():
                    error = f"{response.error} (for {self._retries.max_wait_s:g} s)"
                    return replace(response, error=error)
                self._notices.failed(response, "all requests to it wait")
                continue  # a 429 does not count: all requests wait in the throttle
            delay_s = retry_delay_s(
                self._retries, response, attempt=attempt, shortening=random.random()
            )
            if delay_s is None:
                return response
            self._notices.failed(response, "trying again")
            await self._pause(delay_s)
            attempt += 1
        return response

    async def _send(
        self,
        item: int,
        step: int,
        attempt: int,
        body: dict[str, Any],
        text: str,
        judge: Callable[[Reply], str | None],
    ) -> Response | None:
        """Makes one attempt; None if the caller was stopped first."""
        worst = worst_usage(body)
        if not await self.budget.reserve(worst):
            return None
        try:
            sent = await self._exchange(item, step, attempt, body, text, worst)
        except BaseException:  # its cost will never be known
            self.budget.settle(worst, known=None, may_be_billed=True)
            raise
        if sent is None:
            self.budget.settle(worst, known=None, may_be_billed=False)
            return None
        request, response = sent
        self.budget.settle(worst, known=response.usage, may_be_billed=response.may_be_billed)
        if response.reply.outcome is Outcome.COMPLETE:
            loop = asyncio.get_running_loop()
            # In a thread, so that the event loop keeps serving the other requests.
            try:
                verdict = await loop.run_in_executor(_JUDGING, judge, response.reply)
            except Exception as error:
                # Journaled as failed: body and tokens are kept, but the reply is not used.
                failed = replace(response, reply=Reply(Outcome.FAILED, ""), error=f"{error}")
                await self._journal.received(request, failed)
                raise
            response = replace(response, reply=response.reply._replace(verdict=verdict))
        await self._journal.received(request, response)
        return response

    async def _exchange(
        self, item: int, step: int, attempt: int, body: dict[str, Any], text: str, worst: Usage
    ) -> tuple[int, Response] | None:
        """Journals and sends a request when the throttle allows; returns its id and response."""
        ticket = await self.throttle.admit(worst.prompt / _BYTES_A_TOKEN + worst.completion)
        if ticket is None:
            return None
        response = None
        try:
            request = await self._journal.sent(
                item=item, step=step, speaker=self.speaker, attempt=attempt, body=text,
                worst=worst,
            )  # fmt: skip
            response = await self._endpoint.send(body)
            return request, response
        finally:
            self.throttle.leave(ticket, response)

    def _has_waited_too_long(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._waits_since is None:
            self._waits_since = now
        return now - self._waits_since > self._retries.max_wait_s

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
