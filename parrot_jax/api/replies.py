"""Parses the responses of an endpoint. Pure functions of status and body."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeGuard

from parrot_jax.api.rate_headers import RateLimit
from parrot_jax.api.server_errors import Problem, read_error
from parrot_jax.core.logs import visible

_MAX_ERROR_CHARS = 300
_MAX_NAME_CHARS = 200
_WINDOW = re.compile(
    r"maximum (?:context|model) length (?:is|of) (\d{1,9}|\d{1,3}(?:,\d{3}){1,2})(?![\d,]*\d)", re.I
)
MOST_TOKENS = 2**31
"""More than any call has; keeps the sums of a journal within SQLite's integers."""
_HIDDEN_PROMPT = 16_384
"""Tokens of a server's own instructions, which it may put before the prompt."""
_HIDDEN_REASONING = 131_072
"""Reasoning tokens that may be billed besides the reply."""


class Outcome(StrEnum):
    """The result of a request. All but `failed` are final."""

    COMPLETE = "complete"
    """The model ended its turn; the text may be empty."""
    CUT = "cut"
    """The reply reached the token limit: it stops in mid-sentence."""
    FILTERED = "filtered"
    """The endpoint filtered the reply, or a part of it."""
    CONTEXT_FULL = "context_full"
    """The dialogue exceeds the model's context; there is no text."""
    REJECTED = "rejected"
    """The endpoint rejected this request permanently; there is no text."""
    FAILED = "failed"
    """A lost connection, an HTTP error, or an invalid body; there is no text."""


# Finish reasons of different servers, in lower case and with underscores.
_FINISHES = {
    Outcome.COMPLETE: (
        "stop eos eos_token end_turn stop_sequence stop_token stop_word complete completed finish "
        "finished end done"
    ),
    Outcome.CUT: (
        "length max_length max_tokens max_new_tokens max_output_tokens max_completion_tokens "
        "model_length token_limit token_limit_reached model_context_window_exceeded"
    ),
    Outcome.FILTERED: (
        "content_filter content_filtered safety recitation blocklist prohibited_content spii "
        "sensitive refusal moderation guardrail_intervened"
    ),
    # No tool was offered, so the same request would fail again.
    Outcome.REJECTED: "tool_calls tool_call tool_use function_call malformed_function_call",
    # The server aborted the reply.
    Outcome.FAILED: (
        "error abort aborted cancelled canceled timeout network_error insufficient_system_resource"
    ),
}
_OUTCOMES = {name: outcome for outcome, names in _FINISHES.items() for name in names.split()}

_OF_PROBLEMS = {
    Problem.CONTENT: Outcome.FILTERED,
    Problem.CONTEXT: Outcome.CONTEXT_FULL,
    Problem.REQUEST: Outcome.REJECTED,
    Problem.ENDPOINT: Outcome.FAILED,
    Problem.PASSING: Outcome.FAILED,
}


class Usage(NamedTuple):
    """Tokens of prompts and completions."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        """The sum of both."""
        return self.prompt + self.completion

    def plus(self, other: "Usage") -> "Usage":
        """The sum."""
        return Usage(self.prompt + other.prompt, self.completion + other.completion)

    def minus(self, other: "Usage") -> "Usage":
        """The difference."""
        return Usage(self.prompt - other.prompt, self.completion - other.completion)


class Reply(NamedTuple):
    """The part of a response that a dialogue uses."""

    outcome: Outcome
    text: str
    """Stripped: models start with a space, which would add up turn by turn."""
    verdict: str | None = None
    """Why the caller's judge finds the text useless; None if it is useful. For a whole dialogue the
    detail begins with `turn N`, the first useless turn, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The response to one request."""

    reply: Reply
    status: int | None = None
    """The HTTP status; None if the connection failed."""
    body: str | None = None
    """The body as received."""
    error: str | None = None
    """Why there is no reply, in one line; None if there is one."""
    usage: Usage | None = None
    """Tokens as counted by the server; None if unknown."""
    may_be_billed: bool = True
    """Whether it may have cost something."""
    model: str | None = None
    """The model's name in the response."""
    may_pass: bool = False
    """Whether the same request may succeed later."""
    retry_after_s: float | None = None
    """Seconds that the server asks to wait."""
    request_limit: RateLimit | None = None
    """The server's limit of requests; None if not sent."""
    token_limit: RateLimit | None = None
    """The server's limit of tokens; None if not sent."""

    @property
    def is_rate_limited(self) -> bool:
        """Whether the status is 429 and temporary."""
        return self.status == 429 and self.may_pass


class NoReplyError(Exception):
    """The body of a success has no valid reply; the message says why."""

    def __init__(
        self, problem: str, *, outcome: Outcome = Outcome.FAILED, may_pass: bool = True
    ) -> None:
        """See `Response`."""
        super().__init__(problem)
        self.outcome, self.may_pass = outcome, may_pass


def read_response(
    status: int,
    body: str,
    read_reply: Callable[[Any], Reply] | None = None,
    *,
    request: Mapping[str, Any] | None = None,
) -> Response:
    """Parses an HTTP response, without its headers.

    Args:
      status: The HTTP status.
      body: As received.
      read_reply: Parses the body of a success, or raises `NoReplyError`; None =
        `/chat/completions`.
      request: The request's body, to reject impossible token counts; None = no check.

    >>> message = '{"choices": [{"finish_reason": "stop", "message": {"content": " Hi! "}}]}'
    >>> read_response(200, message).reply.text
    'Hi!'
    >>> read_response(503, "busy").error
    'HTTP 503: busy'
    """
    value = _json(body)
    if not 200 <= status < 300:
        return _error_response(status, value, body, completion_limit(request or {}))
    usage = _usage(value, body, request)
    try:
        if read_reply is None:
            reply = read_chat_reply(value, usage=usage, limit=completion_limit(request or {}))
        else:
            reply = read_reply(value)
    except NoReplyError as problem:
        if isinstance(value, dict) and value.get("error"):
            return _error_in_success(status, value, body, usage)
        return Response(
            reply=Reply(problem.outcome, ""), status=status, body=body, usage=usage,
            error=one_line(f"HTTP {status}, but {problem}: {body}"), may_pass=problem.may_pass,
        )  # fmt: skip
    if reply.text and usage is not None and not usage.completion:
        usage = None  # a text with 0 tokens: the server does not count
    model = value.get("model")
    is_name = isinstance(model, str) and model.isprintable() and len(model) <= _MAX_NAME_CHARS
    return Response(
        reply=reply, status=status, body=body, usage=usage, model=model if is_name else None
    )


def no_response(error: str, *, was_sent: bool = True) -> Response:
    """The response of a failed connection."""
    return Response(
        reply=Reply(Outcome.FAILED, ""),
        error=one_line(error),
        may_be_billed=was_sent,
        may_pass=True,
    )


def completion_limit(request: Mapping[str, Any]) -> int | None:
    """The token limit of a request; None if it has none."""
    return request.get("max_completion_tokens") or request.get("max_tokens")


def read_chat_reply(value: Any, *, usage: Usage | None = None, limit: int | None = None) -> Reply:
    """Parses the reply in a body of `/chat/completions`.

    Args:
      value: The body.
      usage: Its tokens; None = unknown.
      limit: The request's token limit; None = none.

    Raises:
      NoReplyError: It has no reply, or it is unclear whether the reply is complete.
    """
    try:
        choice = value["choices"][0]
        reason, message = choice.get("finish_reason"), choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
    except (TypeError, LookupError, AttributeError):
        # A retry would be paid for again.
        was_paid = usage is not None and usage.completion > 0
        raise NoReplyError(
            "the body has no choices[0] with a message", may_pass=not was_paid
        ) from None
    text = _text(content)
    if not text and isinstance(refusal, str) and refusal:
        return Reply(Outcome.FILTERED, "")
    if reason is None or reason == "":
        outcome = _guess_outcome(text, usage, limit)
    else:
        outcome = _OUTCOMES.get(_finish_name(reason)) if isinstance(reason, str) else None
    if outcome is Outcome.REJECTED:
        raise NoReplyError(
            f"finish_reason is {reason!r}, and no tool was offered",
            outcome=Outcome.REJECTED,
            may_pass=False,
        )
    if outcome is Outcome.FAILED:
        raise NoReplyError(f"finish_reason is {reason!r}")
    if outcome is None:
        # A retry would probably end the same way, and cost as much.
        raise NoReplyError(
            f"finish_reason is {reason!r}, which is unknown: the reply may be incomplete",
            may_pass=False,
        )
    return Reply(outcome, text)


def _finish_name(reason: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", reason[:100].lower()).strip("_")
    return name.removeprefix("finish_reason_").removeprefix("finishreason_")


def _guess_outcome(text: str, usage: Usage | None, limit: int | None) -> Outcome | None:
    """The outcome of a reply without finish_reason; None if it cannot be determined."""
    if not text:
        raise NoReplyError("the body has no finish_reason and no text")
    if limit is None or len(text.encode()) < limit:
        return Outcome.COMPLETE  # no text has more tokens than bytes
    if usage is None:
        return None
    return Outcome.CUT if usage.completion >= limit else Outcome.COMPLETE


def _text(content: Any) -> str:
    """The text of a message, which may be in parts."""
    if isinstance(content, list):
        content = "".join(_texts(content))
    if not isinstance(content, str | None):
        raise NoReplyError("choices[0].message.content is not text", may_pass=False)
    text = (content or "").strip()
    # A lone surrogate cannot be stored, and many programs cut a text at a NUL.
    if "\0" in text or not _is_unicode(text):
        raise NoReplyError("the text is not valid Unicode")
    return text


def _texts(parts: list[Any]) -> Iterator[str]:
    """The text parts; reasoning is left out."""
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "output_text") and isinstance(part.get("text"), str):
            yield part["text"]
        elif kind not in ("thinking", "reasoning"):
            raise NoReplyError("a part of choices[0].message.content is not text", may_pass=False)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _error_response(status: int, value: Any, body: str, limit: int | None) -> Response:
    error = read_error(status, value, body)
    problem = error.problem
    window = _WINDOW.search(error.message)
    if problem is Problem.CONTEXT and window and limit and limit >= int(window[1].replace(",", "")):
        # max_tokens fills the whole context, so no dialogue would fit.
        problem = Problem.REQUEST
    return Response(
        reply=Reply(_OF_PROBLEMS[problem], ""),
        status=status,
        body=body,
        error=one_line(f"HTTP {status}: {error.message}"),
        may_be_billed=False,
        may_pass=problem is Problem.PASSING,
    )


def _error_in_success(
    status: int, value: Mapping[str, Any], body: str, usage: Usage | None
) -> Response:
    """An error sent with a success status, e.g. by a gateway that had already sent its headers."""
    error = value["error"]
    code = error.get("code") if isinstance(error, dict) else None
    body_status = code if type(code) is int and 400 <= code < 600 else None
    found = read_error(body_status or 400, value, body)
    # An error without status and known code may be anything, so it is retried.
    is_unclear = found.problem is Problem.REQUEST and body_status is None
    may_pass = found.problem is Problem.PASSING or is_unclear
    outcome = Outcome.FAILED if may_pass else _OF_PROBLEMS[found.problem]
    return Response(
        reply=Reply(outcome, ""), status=status, body=body, usage=usage, may_pass=may_pass,
        error=one_line(f"HTTP {status}, but the body is an error: {found.message}"),
    )  # fmt: skip


def _json(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _usage(value: Any, body: str, request: Mapping[str, Any] | None) -> Usage | None:
    """The tokens as counted by the server; None if missing or impossible."""
    usage = value.get("usage") if isinstance(value, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt, completion = (usage.get(key) for key in ("prompt_tokens", "completion_tokens"))
    if not (_is_count(prompt) and _is_count(completion)):
        return None
    if request is not None:
        # No text has more tokens than bytes; the request is serialised only if that could matter.
        hidden = prompt - _HIDDEN_PROMPT
        if hidden > 0 and hidden > len(json.dumps(request)):
            return None
        if completion > len(body) * 4 + (completion_limit(request) or 0) + _HIDDEN_REASONING:
            return None
    return Usage(prompt, completion)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < MOST_TOKENS


def one_line(text: str) -> str:
    """The start of a text as one printable line."""
    line = visible(" ".join(text[: 4 * _MAX_ERROR_CHARS].split()))
    return line if len(line) <= _MAX_ERROR_CHARS else f"{line[:_MAX_ERROR_CHARS]}..."
