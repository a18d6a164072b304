"""What came back from an endpoint, and what it is worth. Pure functions of status and body."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeGuard

from parrot_jax.api.rate_headers import RateLimit

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
    REJECTED = "rejected"
    """The endpoint does not take this request, and will not take it later; there is no text."""
    FAILED = "failed"
    """No reply: a lost connection, an HTTP error, or a body that holds none; there is no text."""


_OUTCOMES = {
    "stop": Outcome.COMPLETE,
    "length": Outcome.CUT,
    "content_filter": Outcome.FILTERED,
}


# Of these, the endpoint and not the request is the cause: the key, the account, the address.
_OF_THE_ENDPOINT = frozenset({401, 402, 403, 404, 405, 407})
# These may pass, as all from 500 on.
_MAY_PASS = frozenset({408, 409, 425, 429})


class Usage(NamedTuple):
    """Tokens of a prompt and of its completion, or sums of them."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.prompt + self.completion

    def plus(self, other: "Usage") -> "Usage":
        """The sum."""
        return Usage(self.prompt + other.prompt, self.completion + other.completion)

    def minus(self, other: "Usage") -> "Usage":
        """The difference."""
        return Usage(self.prompt - other.prompt, self.completion - other.completion)


class Reply(NamedTuple):
    """What was said: all that a dialogue needs to know."""

    outcome: Outcome
    text: str
    """Without white space around it: models start with a space that would pile up turn by turn."""
    verdict: str | None = None
    """Why the text is of no use, as whoever asked for it judges; None = it is. Of a whole dialogue
    its detail begins with `turn N`: the first turn that is of no use, from 1."""


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
    usage: Usage | None = None
    """Tokens as the server counts them; None where it does not say."""
    may_be_billed: bool = True
    """Whether it may have cost something."""
    model: str | None = None
    """The model that answered, as the server names it."""
    may_pass: bool = False
    """Whether the same request may succeed later."""
    retry_after_s: float | None = None
    """How long the server asks to wait."""
    request_limit: RateLimit | None = None
    """What the server says of its limit of requests; None = nothing."""
    token_limit: RateLimit | None = None
    """The same of tokens."""

    @property
    def is_rate_limited(self) -> bool:
        """Whether the server says that there are too many requests at present."""
        return self.status == 429 and self.may_pass


class NoReplyError(Exception):
    """The body of a success holds no reply; the text says why."""


def read_response(
    status: int, body: str, read_reply: Callable[[Any], Reply] | None = None
) -> Response:
    """Reads an HTTP response; what its headers say is left open.

    Args:
      status: Of HTTP.
      body: As received.
      read_reply: Finds the reply in the body of a success, or raises `NoReplyError`; None = that of
        `/chat/completions`.

    >>> message = '{"choices": [{"finish_reason": "stop", "message": {"content": " Hi! "}}]}'
    >>> read_response(200, message).reply.text
    'Hi!'
    >>> read_response(503, "busy").error
    'HTTP 503: busy'
    """
    value = _json(body)
    if 200 <= status < 300:
        try:
            reply = (read_reply or read_chat_reply)(value)
        except NoReplyError as problem:
            error = _one_line(f"HTTP {status}, but {problem}: {body}")
            return Response(
                reply=Reply(Outcome.FAILED, ""), status=status, body=body, error=error,
                usage=_usage(value), may_pass=True,
            )  # fmt: skip
        model = value.get("model")
        return Response(
            reply=reply, status=status, body=body, usage=_usage(value),
            model=model if isinstance(model, str) and model.isprintable() else None,
        )  # fmt: skip
    code, message = _error_of(value, body)
    # A quota that is used up has the status of a rate limit, but no waiting mends it.
    may_pass = (status in _MAY_PASS or status >= 500) and code != "insufficient_quota"
    return Response(
        reply=Reply(_outcome_of_error(status, code, message), ""),
        status=status,
        body=body,
        error=_one_line(f"HTTP {status}: {message}"),
        may_be_billed=False,
        may_pass=may_pass,
    )


def no_response(error: str, *, was_sent: bool = True) -> Response:
    """What stands for a response where the connection gave none."""
    return Response(
        reply=Reply(Outcome.FAILED, ""),
        error=_one_line(error),
        may_be_billed=was_sent,
        may_pass=True,
    )


def _outcome_of_error(status: int, code: str | None, message: str) -> Outcome:
    if not 400 <= status < 500 or status in _OF_THE_ENDPOINT | _MAY_PASS:
        return Outcome.FAILED
    is_full = code in _CONTEXT_FULL_CODES or _CONTEXT_FULL_TEXT.search(message) is not None
    return Outcome.CONTEXT_FULL if is_full else Outcome.REJECTED


def read_chat_reply(value: Any) -> Reply:
    """The reply in a body of `/chat/completions`.

    Raises:
      NoReplyError: There is none in it.
    """
    try:
        choice = value["choices"][0]
        reason, text = choice["finish_reason"], choice["message"].get("content")
    except (TypeError, LookupError, AttributeError):
        raise NoReplyError("the body has no choices[0] with finish_reason and message") from None
    if not isinstance(reason, str) or reason not in _OUTCOMES:
        known = ", ".join(_OUTCOMES)
        raise NoReplyError(f"finish_reason is {reason!r}, which is none of {known}")
    if not isinstance(text, str | None):
        raise NoReplyError("choices[0].message.content is no text")
    try:
        text = (text or "").strip()
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise NoReplyError("the text is not valid Unicode") from None
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


def _usage(value: Any) -> Usage | None:
    usage = value.get("usage") if isinstance(value, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt, completion = (usage.get(key) for key in ("prompt_tokens", "completion_tokens"))
    return Usage(prompt, completion) if _is_count(prompt) and _is_count(completion) else None


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**53


def _one_line(text: str) -> str:
    # A JSON text can hold half of a surrogate pair, which no file and no terminal takes.
    line = " ".join(text.split()).encode("utf-8", "replace").decode("utf-8")
    return line if len(line) <= _MAX_ERROR_CHARS else f"{line[:_MAX_ERROR_CHARS]}..."
