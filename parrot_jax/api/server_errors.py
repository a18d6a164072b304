"""Classifies server errors, with one table for all servers. Pure functions of status and body.

The status is not enough: an exhausted quota comes with 400, 402, 403 or 429, and a moderated prompt
with 400, 403, 422 or 451. So codes and messages are checked first, then the status. Each entry was
observed on a real server.
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple


class Problem(Enum):
    """The cause of an error."""

    CONTENT = "content"
    """The content of this request: rejected by a moderator or a content policy."""
    CONTEXT = "context"
    """The length of this request: it exceeds the model's context."""
    REQUEST = "request"
    """Something else about this request; permanent."""
    ENDPOINT = "endpoint"
    """The key, the account, its credit, the address or the model: no request is accepted."""
    PASSING = "passing"
    """A temporary condition: the same request may succeed later."""


class ServerError(NamedTuple):
    """A classified server error."""

    problem: Problem
    message: str
    """The server's message; the whole body if none is found."""


_NOT_WORDS = re.compile(r"[^a-z0-9]+")

# Codes and types, in lower case and with underscores; the numbers are Zhipu's. Codes about the
# account take precedence over codes about the request.
_CODES = (
    (
        Problem.ENDPOINT,
        r"insufficient_(user_)?(quota|balance|credits?|funds?)|exceeded_current_quota|^billing_"
        r"|payment_required|arrearage|account_(deactivated|suspended|disabled)|^1113$"
        r"|(invalid|incorrect)_api_key|invalid_authentication|model_not_found",
    ),
    (
        Problem.CONTENT,
        r"content_?(policy|filter|violation|block|moderat|safety)|moderation|responsibleai"
        r"|inspection_?failed|(sensitive|unsafe|inappropriate)_content|prompt_blocked|^1301$",
    ),
    (Problem.CONTEXT, r"context_length_exceeded|exceed_context_size|string_above_max_length"),
)

# Messages, for errors without a known code. Rate limits mention how to raise them ("add a payment
# method at .../billing"), and Gemini's says "exceeded your current quota", so such words alone do
# not mean an empty account.
_SENTENCES = (
    (
        Problem.ENDPOINT,
        r"insufficient.{0,20}(balance|funds?|credits?|quota)|(balance|credits?) (is|are) too low"
        r"|suspended due to|billing[ _]hard[ _]limit|(out of|not enough) credits|recharge"
        r"|top up your|account (is|has been|was) (suspended|deactivated|disabled)"
        r"|余额不足|欠费|请充值",
    ),
    (Problem.ENDPOINT, r"api[ _-]?key (is )?(not valid|invalid)|(incorrect|invalid) api[ _-]?key"),
    (Problem.ENDPOINT, r"model .{0,100}(does not|doesn't|not) exist|model not (exist|found)"),
    (
        Problem.CONTEXT,
        r"maximum (context|model) length|context (length|size|window)"
        r"|max_(completion_)?tokens must be .* got -",
    ),
    (
        # OpenAI, Azure; OpenRouter; Moonshot; DeepSeek; DashScope; others
        Problem.CONTENT,
        r"content (management |moderation )?polic(y|ies)|content (filter|moderation)"
        r"|safety (system|polic|filter)|content exists risk|considered high risk"
        r"|inappropriate content|\b(prompt|input|message|content|text|request)s?\b.{0,40}\b"
        r"(flagged|moderat|unsafe|(?<!case[ -])sensitive|violat\w+ .{0,40}polic)"
        r"|\b(prompt|input|content)s? .{0,20}(prohibited|disallowed|blocked)"
        r"|moderation (error|failed|blocked|endpoint)|(flagged|rejected|blocked) (by|for|as|due) "
        r".{0,40}(moderat|polic|safety|unsafe|harm)|敏感|不安全|违规",
    ),
)
_CODE_TABLE, _SENTENCE_TABLE = (
    [(problem, re.compile(words, re.IGNORECASE)) for problem, words in table]
    for table in (_CODES, _SENTENCES)
)
_CONTENT_CODES = [words for problem, words in _CODE_TABLE if problem is Problem.CONTENT]
_MAX_CHARS = 2000
"""Searched characters of a message: a body may be a page of megabytes."""
_EMPTY_QUOTA = re.compile(r"exceeded[ _](your[ _])?current[ _]quota|quota exceeded", re.I)
_NAMES_A_WAIT = re.compile(r"(retry|try again) (in|after) \d|per[ _]?(min|sec|hour|day)", re.I)
# A moderator's message is about one request. One about the account concerns all requests.
_ACCOUNT = re.compile(r"\b(account|organi[sz]ation|workspace|your access|api[ _-]?key)\b", re.I)

_ENDPOINT_STATUSES = frozenset({401, 402, 403, 404, 405, 407})
_TEMPORARY_STATUSES = frozenset({408, 409, 425, 429})


def read_error(status: int, value: Any, body: str) -> ServerError:
    """Classifies an error response.

    Args:
      status: The HTTP status, not of a success.
      value: The body as JSON; None if it is not JSON.
      body: The body as text.

    >>> read_error(403, {"error": {"message": "Your input was flagged", "code": 403}}, "").problem
    <Problem.CONTENT: 'content'>
    >>> read_error(403, {"error": {"message": "Forbidden"}}, "").problem
    <Problem.ENDPOINT: 'endpoint'>
    """
    error = _error_object(value)
    message = _message(error) or body
    problem = _problem(status, set(_codes(error)), message[:_MAX_CHARS])
    return ServerError(problem, message)


def _problem(status: int, codes: set[str], message: str) -> Problem:
    if status >= 500:
        # A failing gateway may send any text; but some servers send 500 for moderated content.
        is_content = any(words.search(code) for words in _CONTENT_CODES for code in codes)
        return Problem.CONTENT if status == 500 and is_content else Problem.PASSING
    if 400 <= status < 500 and status != 401:
        if status == 402:
            return Problem.ENDPOINT
        for problem, words in _CODE_TABLE:
            if any(words.search(code) for code in codes):
                return problem
        if status == 429 and _EMPTY_QUOTA.search(message) and not _NAMES_A_WAIT.search(message):
            return Problem.ENDPOINT
        for problem, words in _SENTENCE_TABLE:
            if words.search(message) and _fits_status(problem, status, message):
                return problem
    if status in _TEMPORARY_STATUSES:
        return Problem.PASSING
    if status in _ENDPOINT_STATUSES or status < 400:
        return Problem.ENDPOINT
    return Problem.REQUEST


def _fits_status(problem: Problem, status: int, message: str) -> bool:
    if problem is Problem.CONTENT:
        return status not in (404, 405, 407, 429) and _ACCOUNT.search(message) is None
    if problem is Problem.CONTEXT:
        return status not in _ENDPOINT_STATUSES | _TEMPORARY_STATUSES
    # "Rate limit reached ... Please try again in 6ms" may also mention credits.
    return status != 429 or _NAMES_A_WAIT.search(message) is None


def _error_object(value: Any) -> Any:
    """The part of a body that describes the error."""
    if isinstance(value, list) and value:
        value = value[0]  # Google
    if isinstance(value, dict):
        for name in ("error", "detail", "errors"):
            inner = value.get(name)
            if isinstance(inner, list) and inner:
                inner = inner[0]
            if isinstance(inner, dict | str) and inner:
                # Some servers put the code next to the error.
                outer = {k: v for k, v in value.items() if k in ("code", "type", "status")}
                return {**outer, **({"message": inner} if isinstance(inner, str) else inner)}
    return value


def _message(error: Any) -> str | None:
    if isinstance(error, str):
        return error
    if not isinstance(error, dict):
        return None
    messages = [error.get(name) for name in ("message", "msg", "detail", "error_description")]
    # OpenRouter: the message of the server behind it.
    metadata = error.get("metadata")
    if isinstance(metadata, dict):
        reasons = metadata.get("reasons")
        messages += [metadata.get("raw"), *(reasons if isinstance(reasons, list) else ())]
    return ": ".join(m for m in messages if isinstance(m, str) and m) or None


def _codes(error: Any) -> Iterator[str]:
    if not isinstance(error, dict):
        return
    for name in ("code", "type", "status", "error_code"):
        # A number in `code` is the HTTP status, or a server's own code.
        if isinstance(code := error.get(name), str | int):
            yield _NOT_WORDS.sub("_", str(code).lower()).strip("_")
    inner = error.get("innererror")
    if isinstance(inner, dict):
        yield from _codes(inner)
    metadata = error.get("metadata")
    if isinstance(metadata, dict) and "flagged_input" in metadata:
        yield "moderation"
