"""When a request may go to an endpoint: so many at once, so many a minute, none while it cools.

There is one for each endpoint, shared by all who send to it, and it learns from every response:

at once       each 429 takes half a place, so a round of nothing else halves them and a stray one
              hardly shows; each round of successes gives one more, up to what the config allows
a minute      as the config says; else as the server says in its headers, but after the longest
              delay between two attempts one is sent whatever they say
cool-down     after a 429 nobody sends for as long as the server asks, and ever longer if it goes
              on; never longer than the longest delay between two attempts
"""

import asyncio
import math
import random
from collections import deque
from dataclasses import dataclass

from parrot_jax.api.config import EndpointConfig, RetryConfig
from parrot_jax.api.rate_headers import RateLimit
from parrot_jax.api.replies import Response

_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """Leave to send one request; it is handed back with the response."""

    number: int
    """Counts the requests that were let through, from 1."""
    tokens: float
    """How many tokens it was expected to cost."""
    tokens_so_far: float
    """The same of all that were let through, this one included."""


class _Bucket:
    """Requests or tokens that may still be sent; it refills with time.

    Whoever is let through while something is left may take more than that: a request larger than
    the whole bucket must pass as well. The next one waits until the debt is paid.
    """

    def __init__(self, a_minute: float | None, now: float, most_wait_s: float) -> None:
        """Starts full.

        Args:
          a_minute: The limit; None = without limit, until `sync` names one.
          now: The time.
          most_wait_s: Seconds after which one is let through whatever a server said.
        """
        self.most_wait_s = math.inf if a_minute is not None else most_wait_s
        self.waits_since: float | None = None
        self.rate = math.inf if a_minute is None else a_minute / _MINUTE_S
        # A second's worth: a bucket of a whole minute would let twice the limit through in the
        # first one.
        self.capacity = math.inf if a_minute is None else max(1.0, self.rate)
        self.level, self.time = self.capacity, now

    def wait_s(self, now: float) -> float:
        """Seconds until something is left; 0 = now."""
        self._refill(now)
        if self.level > 0:
            self.waits_since = None
            return 0.0
        self.waits_since = now if self.waits_since is None else self.waits_since
        left_s = self.waits_since + self.most_wait_s - now
        # Its first drop and no less, or rounding would wake too early and wait again.
        return max(0.0, min((min(1.0, self.capacity / 2) - self.level) / self.rate, left_s))

    def take(self, amount: float, now: float) -> None:
        """Takes some out, or with a negative amount puts some back."""
        self._refill(now)
        self.waits_since = None
        self.level = min(self.capacity, self.level - amount)

    def sync(self, seen: RateLimit, under_way: float, now: float) -> None:
        """Takes over what the server says.

        Args:
          seen: Its state when it sent the response.
          under_way: What was let through after the request of that response, and may not be in its
            count yet.
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
    """Lets requests through to one endpoint, first come, first served.

    Attributes:
      in_flight: Requests that were let through and have not come back.
      room: How many may be in flight at present.
      num_rate_limited: Responses so far that said "too many".
    """

    def __init__(self, config: EndpointConfig, retries: RetryConfig, *, most: int) -> None:
        """Lets everybody through at first.

        Args:
          config: Of the endpoint: its own limits.
          retries: How long to cool down where the server does not say.
          most: In flight at once where the config has no limit of its own, >= 1.
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
          tokens: How many it will cost, as well as one can know.

        Returns:
          The ticket to be given to `leave`; None = nothing is sent any more.
        """
        if self._stopped:
            return None
        future: asyncio.Future[Ticket | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, tokens))
        self._let_in()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and (ticket := future.result()):
                self.leave(ticket, None)
            raise

    def leave(self, ticket: Ticket, response: Response | None) -> None:
        """Says that a request has come back.

        Args:
          ticket: From `admit`.
          response: What came back; None = it was not sent, or nobody waited for it.
        """
        self.in_flight -= 1
        if response is not None:
            self._learn(ticket, response)
        self._let_in()

    def stop(self) -> None:
        """Lets nobody through any more; those who wait are told at once."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for future, _ in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    @property
    def cools_s(self) -> float:
        """Seconds until the cool-down is over; 0 = there is none. In the loop's thread only."""
        return max(0.0, self._cool_until - asyncio.get_running_loop().time())

    def _let_in(self) -> None:
        """Lets in whoever may go; those left are looked at again when something changes."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        requests, tokens = self._buckets(now)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self.in_flight < max(1, int(self.room)):
            wait_s = max(self._cool_until - now, requests.wait_s(now), tokens.wait_s(now))
            if wait_s > 0:
                self._timer = loop.call_later(wait_s, self._let_in)
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
        # Many in flight are told at once: they are one sign, and the wait grows once.
        if ticket.number > self._last_cooled:
            self._last_cooled = self._requests_so_far
            self._cool_downs += 1
            own_s = self._retries.first_delay_s * 2.0 ** min(self._cool_downs - 1, 60)
            own_s = min(own_s, self._retries.max_delay_s) * random.uniform(0.5, 1)
            # A server that names a moment again and again would be asked as often.
            asked_s = max(asked_s, own_s) if self._cool_downs > 1 else asked_s or own_s
        self._cool_until = max(self._cool_until, now + asked_s)

    def _buckets(self, now: float) -> tuple[_Bucket, _Bucket]:
        if self._requests is None or self._tokens is None:
            self._requests, self._tokens = (
                _Bucket(limit, now, self._retries.max_delay_s) for limit in self._own_limits
            )
        return self._requests, self._tokens
