"""Engine, the interface of reply generators, and FunctionEngine. Does not import jax."""

import abc
import asyncio
import concurrent.futures
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from parrot_jax.core.errors import UserError

_NUM_THREADS = 8  # of a FunctionEngine

Messages = list[dict[str, str]]
"""OpenAI's messages, checked to have exactly `role` (system, user or assistant) and `content`. The
engine checks their order."""


Say = Callable[[str], None]
"""Receives the next piece of a reply's text, in the event loop."""


def say_nothing(_: str) -> None:
    """Ignores the pieces, for callers that wait for the whole reply."""


class RequestError(UserError):
    """An error reply to a request.

    Any other `UserError` of an engine gives status 400.

    Attributes:
      status: The HTTP status, 400 to 599.
      param: The wrong field of the request.
      code: OpenAI's error code, e.g. `context_length_exceeded`.
    """

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        """Stores the fields of the reply."""
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sampling settings of a reply."""

    max_tokens: int | None
    """Limit on the tokens of the reply, >= 1; None = limited only by the context."""
    temperature: float
    """>= 0; 0 = greedy decoding."""
    top_p: float
    """Nucleus sampling: the probability mass to sample from, in (0, 1]."""
    seed: int
    """In [0, 2^32); the same seed gives the same reply."""
    stop: tuple[str, ...]
    """The reply ends before the first of these non-empty strings."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A reply with its token counts."""

    text: str
    """The reply's text; an empty text of an asker means that it has no more questions."""
    finish_reason: Literal["stop", "length"]
    """`stop` = the model ended its turn or wrote a stop string, `length` = token limit."""
    num_prompt_tokens: int
    """Tokens of the prompt, including headers and BOS."""
    num_tokens: int
    """Tokens of the reply, counted as in vLLM: including the terminator, or up to the token that
    completed the stop string."""
    prompt_ids: tuple[int, ...] | None = None
    """The ids of the prompt; None if the engine has no ids."""
    ids: tuple[int, ...] | None = None
    """The `num_tokens` ids of the reply."""


class Engine(abc.ABC):
    """Generates replies for the server. All methods run in its event loop and must not block it.

    Attributes:
      model: The model name for clients.
    """

    model: str

    async def start(self) -> None:  # noqa: B027 - optional
        """Called once, before the first request."""

    async def stop(self) -> None:  # noqa: B027
        """Called once, after the last request."""

    @abc.abstractmethod
    async def chat(
        self, messages: Messages, settings: Settings, say: Say = say_nothing
    ) -> Completion:
        """Generates the next turn of a dialogue. The call is cancelled if the client disconnects.

        Args:
          messages: The previous messages.
          settings: Sampling settings.
          say: Called with each piece of the reply's text.

        Raises:
          UserError: The messages cannot be answered; the client gets the error's text.
        """

    @abc.abstractmethod
    async def complete(
        self,
        prompt: str | list[int],
        settings: Settings,
        say: Say = say_nothing,
        *,
        add_special_tokens: bool,
    ) -> Completion:
        """Continues a prompt, given as text or as ids.

        Args:
          prompt: Used without a template.
          settings: Sampling settings.
          say: See `chat`.
          add_special_tokens: Whether to put the BOS token before a text; never added to ids.

        Raises:
          UserError: The prompt cannot be continued; the client gets the error's text.
        """


class FunctionEngine(Engine):
    """A plain function from messages to a reply, served like a model.

    Its tokens are words: usage counts them, and `max_tokens` limits them. Temperature, top-p and
    seed are ignored.
    """

    def __init__(
        self, model: str, reply: Callable[[Messages], str], *, max_context: int = 32_768
    ) -> None:
        """Stores the function.

        Args:
          model: The model name for clients.
          reply: Called in threads, several at once; raises `UserError` for messages it cannot
            answer. It cannot be interrupted: if a client disconnects, only a waiting call is
            cancelled.
          max_context: Limit on the tokens of a request; each message counts as one more.
        """
        self.model, self._reply, self._max_context = model, reply, max_context
        # A separate pool, so that slow functions do not block the default threads.
        self._threads = concurrent.futures.ThreadPoolExecutor(_NUM_THREADS, "replies")

    async def stop(self) -> None:
        """Cancels waiting calls."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def chat(
        self, messages: Messages, settings: Settings, say: Say = say_nothing
    ) -> Completion:
        """Returns the function's reply, cut at a stop string and after `max_tokens` words."""
        loop = asyncio.get_running_loop()
        completion = await loop.run_in_executor(self._threads, self._answer, messages, settings)
        if say is not say_nothing:
            for piece in re.findall(r"\s*\S+|\s+", completion.text):
                say(piece)
        return completion

    async def complete(
        self,
        prompt: str | list[int],
        settings: Settings,
        say: Say = say_nothing,
        *,
        add_special_tokens: bool,
    ) -> Completion:
        """Raises an error, since the function takes only messages."""
        raise RequestError(f"{self.model} takes only messages; use /v1/chat/completions.")

    def _answer(self, messages: Messages, settings: Settings) -> Completion:
        num_prompt_tokens = sum(len(message["content"].split()) for message in messages)
        if num_prompt_tokens + len(messages) > self._max_context:
            raise context_error(
                self._max_context, f"{num_prompt_tokens:,} in its {len(messages):,} messages"
            )
        text = self._reply(messages)
        text = text[: first_stop(text, settings.stop)]
        words, reason = text.split(), "stop"
        if settings.max_tokens is not None and len(words) > settings.max_tokens:
            words, reason = words[: settings.max_tokens], "length"
            text = " ".join(words)
        return Completion(
            text=text,
            finish_reason=reason,
            num_prompt_tokens=num_prompt_tokens,
            num_tokens=len(words),
        )


def context_error(
    max_context: int, found: str, *, param: str = "messages", way_out: str = ""
) -> RequestError:
    """Returns the error for a request that is too long, with OpenAI's code.

    Args:
      max_context: The context length in tokens.
      found: The tokens of the request, as text.
      param: The field to shorten.
      way_out: Another remedy, as text.
    """
    return RequestError(
        f"this model's maximum context length is {max_context:,} tokens, but the request has "
        f"{found}; {way_out}shorten the {param}.",
        param=param,
        code="context_length_exceeded",
    )


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Returns the start of the stop string that is completed first; None if there is none.

    >>> first_stop("one, two. three", [".", ","])
    3
    >>> first_stop("one, two. three", ["e, two. t", "two"])
    5
    """
    found = ((at + len(string), at) for string in stop if (at := text.find(string)) >= 0)
    return min(found, default=(0, None))[1]
