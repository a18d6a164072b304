"""What came back from an endpoint, and what it is worth. Pure functions of status and body."""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

_MAX_ERROR_CHARS = 300
# OpenAI and this project's server say it by a code, vLLM and llama.cpp by a sentence.
_CONTEXT_FULL_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_CONTEXT_FULL_TEXT = re.compile(
    r"maximum (context|model) length|context (length|size|window)|max_tokens must be .* got -",
    re.IGNORECASE,
)


class Outcome(StrEnum):
    """What a request led to. All but `failed` are the endpoint's last word on it."""

    COMPLETE = "complete"
    """The speaker ended its turn; the text may be empty."""
    CUT = "cut"
    """The reply reached the limit of tokens: it stops in mid-sentence."""
    FILTERED = "filtered"
    """The endpoint held the reply, or a part of it, back."""
    CONTEXT_FULL = "context_full"
    """The dialogue is longer than what the model can read; there is no text."""
    FAILED = "failed"
    """No reply: a lost connection, an HTTP error, or a body that holds none; there is no text."""


_OUTCOMES = {
    "stop": Outcome.COMPLETE,
    "length": Outcome.CUT,
    "content_filter": Outcome.FILTERED,
}


class Reply(NamedTuple):
    """What was said: all that a dialogue needs to know."""

    outcome: Outcome
    text: str
    """Without white space around it: models start with a space that would pile up turn by turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """Everything that came back for one request."""

    reply: Reply
    status: int | None = None
    """The HTTP status; None = the connection gave none."""
    body: str | None = None
    """The body as received."""
    error: str | None = None
    """Why there is no reply, in one line; None where there is one."""
    prompt_tokens: int | None = None
    """As the server counts; None where it does not say."""
    completion_tokens: int | None = None
    retry_after_s: float | None = None
    """How long the server asks to wait."""
    may_pass: bool = False
    """Whether the same request may succeed later."""


class _NoReplyError(Exception):
    """The body of a success holds no reply; the text says why."""


def read_response(status: int, body: str, *, retry_after_s: float | None = None) -> Response:
    """Reads an HTTP response of `/chat/completions`.

    >>> message = '{"choices": [{"finish_reason": "stop", "message": {"content": " Hi! "}}]}'
    >>> read_response(200, message).reply
    Reply(outcome=<Outcome.COMPLETE: 'complete'>, text='Hi!')
    >>> read_response(503, "busy").error
    'HTTP 503: busy'
    """
    value = _json(body)
    if 200 <= status < 300:
        try:
            reply = _read_reply(value)
        except _NoReplyError as problem:
            error = _one_line(f"HTTP {status}, but {problem}: {body}")
            return Response(
                reply=Reply(Outcome.FAILED, ""), status=status, body=body, error=error,
                retry_after_s=retry_after_s, may_pass=True,
            )  # fmt: skip
        return Response(
            reply=reply,
            status=status,
            body=body,
            prompt_tokens=_tokens(value, "prompt_tokens"),
            completion_tokens=_tokens(value, "completion_tokens"),
        )
    code, message = _error_of(value, body)
    is_full = status in (400, 413, 422) and (
        code in _CONTEXT_FULL_CODES or _CONTEXT_FULL_TEXT.search(message) is not None
    )
    return Response(
        reply=Reply(Outcome.CONTEXT_FULL if is_full else Outcome.FAILED, ""),
        status=status,
        body=body,
        error=_one_line(f"HTTP {status}: {message}"),
        retry_after_s=retry_after_s,
        # A quota that is used up has the status of a rate limit, but no waiting mends it.
        may_pass=(status in (408, 409, 429) or status >= 500) and code != "insufficient_quota",
    )


def no_response(error: str) -> Response:
    """What stands for a response where the connection gave none."""
    return Response(reply=Reply(Outcome.FAILED, ""), error=_one_line(error), may_pass=True)


def _read_reply(value: Any) -> Reply:
    try:
        choice = value["choices"][0]
        reason, text = choice["finish_reason"], choice["message"].get("content")
    except (TypeError, LookupError, AttributeError):
        raise _NoReplyError("the body has no choices[0] with finish_reason and message") from None
    if not isinstance(reason, str) or reason not in _OUTCOMES:
        known = ", ".join(_OUTCOMES)
        raise _NoReplyError(f"finish_reason is {reason!r}, which is none of {known}")
    if not isinstance(text, str | None):
        raise _NoReplyError("choices[0].message.content is no text")
    try:
        text = (text or "").strip()
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _NoReplyError("the text is not valid Unicode") from None
    return Reply(_OUTCOMES[reason], text)


def _error_of(value: Any, body: str) -> tuple[str | None, str]:
    """Code and message of an error, in whichever of the usual places they are."""
    error = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(error, str):
        return None, error
    if not isinstance(error, dict):
        return None, body
    # Where the code is a number, it is the HTTP status once more.
    codes = (code for code in (error.get("code"), error.get("type")) if isinstance(code, str))
    message = error.get("message")
    return next(codes, None), message if isinstance(message, str) else body


def _json(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _tokens(value: Any, key: str) -> int | None:
    usage = value.get("usage") if isinstance(value, dict) else None
    count = usage.get(key) if isinstance(usage, dict) else None
    return count if type(count) is int and 0 <= count < 2**63 else None


def _one_line(text: str) -> str:
    # A JSON text can hold half of a surrogate pair, which no file and no terminal takes.
    line = " ".join(text.split()).encode("utf-8", "replace").decode("utf-8")
    return line if len(line) <= _MAX_ERROR_CHARS else f"{line[:_MAX_ERROR_CHARS]}..."
