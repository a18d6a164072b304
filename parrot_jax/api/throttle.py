"""Limits the requests to an endpoint: concurrency, rate per minute, and cool-down after a 429.

Each endpoint has one throttle, which adapts to every response:

concurrency   each 429 lowers the limit by 0.5, so a round of 429s halves it and a single one
              hardly matters; each round of successes raises it by 1, up to the config's limit
rate          from the config, else from the server's headers; but at least one request is sent
              per `max_delay_s`, whatever the headers say
cool-down     after a 429 nothing is sent for the time in `Retry-After`, or for our own pause if
              there is none; from the second 429 in a row on, for the longer of the two. Our pause
              doubles with each further 429; neither exceeds `max_delay_s`
"""

import asyncio
import math
import random
from collections import deque
from dataclasses import dataclass

from parrot_jax.api.endpoint_config import EndpointConfig, RetryConfig
from parrot_jax.api.rate_headers import RateLimit
from parrot_jax.api.replies import Response

_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """Permission to send one request; returned with the response."""

    number: int
    """The number of the admitted request, from 1."""
    tokens: float
    """Its expected tokens."""
    tokens_so_far: float
    """Expected tokens of all requests admitted so far, including this one."""


class _Bucket:
    """A token bucket for requests or for tokens; it refills with time.

    A request is admitted while the level is above 0 and may take more than that, since even a
    request larger than the whole bucket must pass. The next one waits until the level is positive
    again.
    """

    def __init__(self, per_minute: float | None, now: float, max_wait_s: float) -> None:
        """Starts full.

        Args:
          per_minute: The limit; None = unlimited until `sync` sets one.
          now: The time.
          max_wait_s: Longest wait for a limit that comes from the server.
        """
        self.max_wait_s = math.inf if per_minute is not None else max_wait_s
        self.waits_since: float | None = None
        self.rate = math.inf if per_minute is None else per_minute / _MINUTE_S
        # One second's worth: a bucket of a whole minute would admit twice the limit in the first
        # minute.
        self.capacity = math.inf if per_minute is None else max(1.0, self.rate)
        self.level, self.time = self.capacity, now

    def wait_s(self, now: float) -> float:
        """Seconds until the level is positive; 0 = now."""
        self._refill(now)
        if self.level > 0:
            self.waits_since = None
            return 0.0
        self.waits_since = now if self.waits_since is None else self.waits_since
        left_s = self.waits_since + self.max_wait_s - now
        # Wait for a whole unit: with less, rounding could wake it too early.
        return max(0.0, min((min(1.0, self.capacity / 2) - self.level) / self.rate, left_s))

    def take(self, amount: float, now: float) -> None:
        """Takes an amount out of the bucket; a negative amount is put back."""
        self._refill(now)
        self.waits_since = None
        self.level = min(self.capacity, self.level - amount)

    def sync(self, seen: RateLimit, under_way: float, now: float) -> None:
        """Sets the bucket to the state that the server reports.

        Args:
          seen: The server's limit when it sent the response.
          under_way: Amount admitted after that request, which the server may not have counted yet.
          now: The time.
        """
        used = seen.limit - seen.remaining
        self.capacity = seen.limit
        self.rate = used / seen.reset_s if used and seen.reset_s else seen.limit / _MINUTE_S
        self.level, self.time = seen.remaining - under_way, now

    def _refill(self, now: float) -> None:
        if math.isfinite(self.rate):
            self.level = min(self.capacity, self.level + (now - self.time) * self.rate)
        self.time = now


class Throttle:
    """Admits requests to one endpoint, first come, first served.

    Attributes:
      in_flight: Admitted requests that have not returned.
      room: The current concurrency limit.
      num_rate_limited: Number of 429 responses.
    """

    def __init__(self, config: EndpointConfig, retries: RetryConfig, *, most: int) -> None:
        """Starts at full concurrency.

        Args:
          config: The endpoint's settings.
          retries: Cool-down times if the server sends none.
          most: Concurrency if the config sets none, >= 1.
        """
        self._retries = retries
        self._most = min(most, config.concurrency or most)
        self._own_limits = config.requests_per_minute, config.tokens_per_minute
        self._requests: _Bucket | None = None  # made when the event loop runs
        self._tokens: _Bucket | None = None
        self.room = float(self._most)
        self.in_flight = self.num_rate_limited = 0
        self._requests_so_far, self._tokens_so_far = 0, 0.0
        self._cool_until, self._cool_downs, self._last_cooled = -math.inf, 0, 0
        self._waiting: deque[tuple[asyncio.Future[Ticket | None], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    async def admit(self, tokens: float) -> Ticket | None:
        """Waits until a request may be sent.

        Args:
          tokens: Its expected tokens.

        Returns:
          The ticket for `leave`; None after `stop`.
        """
        if self._stopped:
            return None
        future: asyncio.Future[Ticket | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, tokens))
        self._admit_waiting()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and (ticket := future.result()):
                self.leave(ticket, None)
            raise

    def leave(self, ticket: Ticket, response: Response | None) -> None:
        """Notes that a request has returned.

        Args:
          ticket: From `admit`.
          response: The response; None if it was not sent or was cancelled.
        """
        self.in_flight -= 1
        if response is not None:
            self._learn(ticket, response)
        self._admit_waiting()

    def stop(self) -> None:
        """Admits nothing more; waiting calls return at once."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for future, _ in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    @property
    def cools_s(self) -> float:
        """Seconds until the cool-down is over; 0 if there is none. In the loop's thread only."""
        return max(0.0, self._cool_until - asyncio.get_running_loop().time())

    def _admit_waiting(self) -> None:
        """Admits waiting requests as far as the limits allow; called again after every change."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        requests, tokens = self._buckets(now)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self.in_flight < max(1, int(self.room)):
            wait_s = max(self._cool_until - now, requests.wait_s(now), tokens.wait_s(now))
            if wait_s > 0:
                self._timer = loop.call_later(wait_s, self._admit_waiting)
                return
            future, cost = self._waiting.popleft()
            if future.done():
                continue  # it was cancelled
            requests.take(1.0, now)
            tokens.take(cost, now)
            self.in_flight += 1
            self._requests_so_far += 1
            self._tokens_so_far += cost
            future.set_result(Ticket(self._requests_so_far, cost, self._tokens_so_far))

    def _learn(self, ticket: Ticket, response: Response) -> None:
        now = asyncio.get_running_loop().time()
        requests, tokens = self._buckets(now)
        requests_per_minute, tokens_per_minute = self._own_limits
        if requests_per_minute is None and response.request_limit:
            under_way = float(self._requests_so_far - ticket.number)
            requests.sync(response.request_limit, under_way, now)
        if tokens_per_minute is None and response.token_limit:
            tokens.sync(response.token_limit, self._tokens_so_far - ticket.tokens_so_far, now)
        elif response.usage is not None:
            tokens.take(response.usage.total - ticket.tokens, now)
        if response.is_rate_limited:
            self._cool_down(ticket, response, now)
        elif response.error is None:
            self._cool_downs = 0
            self.room = min(self._most, self.room + 1 / self.room)

    def _cool_down(self, ticket: Ticket, response: Response, now: float) -> None:
        self.num_rate_limited += 1
        self.room = max(1.0, self.room - 0.5)
        asked_s = min(response.retry_after_s or 0.0, self._retries.max_delay_s)
        # Many requests in flight get a 429 together; this counts once.
        if ticket.number > self._last_cooled:
            self._last_cooled = self._requests_so_far
            self._cool_downs += 1
            own_s = self._retries.first_delay_s * 2.0 ** min(self._cool_downs - 1, 60)
            own_s = min(own_s, self._retries.max_delay_s) * random.uniform(0.5, 1)
            # Otherwise a server that always asks for a short wait would get requests at once.
            asked_s = max(asked_s, own_s) if self._cool_downs > 1 else asked_s or own_s
        self._cool_until = max(self._cool_until, now + asked_s)

    def _buckets(self, now: float) -> tuple[_Bucket, _Bucket]:
        if self._requests is None or self._tokens is None:
            self._requests, self._tokens = (
                _Bucket(limit, now, self._retries.max_delay_s) for limit in self._own_limits
            )
        return self._requests, self._tokens
