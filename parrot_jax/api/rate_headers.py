"""Parses the rate limits in the headers of a reply. Pure functions."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:([\d.]+)ms)?")
_UNITS_S = (3600.0, 60.0, 1.0, 1e-3)
_MAX_RESET_S = 31 * 86_400.0


class RateLimit(NamedTuple):
    """The state of one limit: of requests, or of tokens."""

    limit: float
    """The limit, >= 1."""
    remaining: float
    """What is left of it, >= 0."""
    reset_s: float
    """Seconds until it is fully restored, >= 0 and at most a month."""


def read_rate_limit(headers: Mapping[str, str], unit: str) -> RateLimit | None:
    """The limit of one unit as OpenAI, Azure, Groq and others send it; None if incomplete.

    Args:
      headers: Headers of the reply, with names in lower case or in a case-insensitive mapping.
      unit: `requests` or `tokens`.

    >>> read_rate_limit({
    ...     "x-ratelimit-limit-tokens": "60000", "x-ratelimit-remaining-tokens": "58500",
    ...     "x-ratelimit-reset-tokens": "1.5s"}, "tokens")
    RateLimit(limit=60000.0, remaining=58500.0, reset_s=1.5)
    """
    values = [headers.get(f"x-ratelimit-{part}-{unit}", "") for part in ("limit", "remaining")]
    limit, remaining = map(_number, values)
    reset_s = parse_duration_s(headers.get(f"x-ratelimit-reset-{unit}", ""))
    # Some servers send a negative limit for "unlimited".
    if limit is None or remaining is None or reset_s is None or limit < 1:
        return None
    return RateLimit(limit, min(remaining, limit), min(reset_s, _MAX_RESET_S))


def parse_duration_s(text: str) -> float | None:
    """Seconds of a duration like `6m0s`, `1h2m3.5s`, `120ms` or `2.5`; None if it is invalid.

    >>> [parse_duration_s(text) for text in ("6m0s", "1h0m2.5s", "120ms", "7", "soon")]
    [360.0, 3602.5, 0.12, 7.0, None]
    """
    text = text.strip()
    if (plain := _number(text)) is not None:
        return plain
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        return None
    numbers = [_number(part) if part else 0.0 for part in match.groups()]
    if None in numbers:
        return None
    return sum(n * unit for n, unit in zip(numbers, _UNITS_S, strict=True) if n is not None)


def read_retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Seconds that a server asks to wait, in any of the usual headers; None if it does not.

    Args:
      headers: See `read_rate_limit`.
      now: The current time, for dates; None = the clock.

    >>> read_retry_after_s({"retry-after-ms": "250", "retry-after": "1"})
    0.25
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1e3
    text = headers.get("retry-after", "")
    if (seconds := _number(text)) is not None:
        return seconds
    try:
        then = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - (now or datetime.now(UTC))).total_seconds())


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None
