"""Requests that are journaled before they are sent, retried by rule, journaled when answered."""

import asyncio
import contextlib
import json
import random
from typing import Any

from parrot_jax.api.config import RetryConfig
from parrot_jax.api.endpoint import Endpoint
from parrot_jax.api.journal import JournalWriter
from parrot_jax.api.replies import Outcome, Response


def retry_delay_s(
    rules: RetryConfig, response: Response, *, attempt: int, shortening: float = 0.0
) -> float | None:
    """Seconds to wait before the next attempt; None = it is not to be made.

    Args:
      rules: How often, and how long.
      response: What the attempt gave; its outcome is `failed`.
      attempt: Which attempt it was, from 1.
      shortening: A random number in [0, 1], so that many requests that failed at once do not come
        back at once.

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
    """An endpoint with its place in a journal and its rules of retry."""

    def __init__(
        self,
        speaker: str,
        endpoint: Endpoint,
        journal: JournalWriter,
        retries: RetryConfig,
        stopping: asyncio.Event,
    ) -> None:
        """Sends nothing yet.

        Args:
          speaker: The name under which the journal keeps the requests.
          endpoint: Where they go.
          journal: Where they are written.
          retries: When to send again.
          stopping: Once set, nothing more is sent.
        """
        self.speaker, self.endpoint = speaker, endpoint
        self._journal, self._retries, self._stopping = journal, retries, stopping

    async def call(self, dialogue: int, turn: int, body: dict[str, Any]) -> Response:
        """Sends a request until something comes of it.

        Args:
          dialogue: The dialogue that it is for.
          turn: The turn of the dialogue that it asks for, from 0.
          body: From `request_body`.

        Returns:
          The first response whose outcome is not `failed`; else the last one. It is in the journal
          like all that came before it.

        Raises:
          UserError: The journal cannot be written.
        """
        text = json.dumps(body, ensure_ascii=False)
        attempt = 0
        while True:
            attempt += 1
            request = await self._journal.sent(
                dialogue=dialogue, turn=turn, speaker=self.speaker, attempt=attempt, body=text
            )
            response = await self.endpoint.send(body)
            await self._journal.received(request, response)
            if response.reply.outcome is not Outcome.FAILED:
                return response
            delay_s = retry_delay_s(
                self._retries, response, attempt=attempt, shortening=random.random()
            )
            if delay_s is None or await self._stopped_within(delay_s):
                return response

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()
