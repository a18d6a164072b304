"""Whatever answers requests: a trained model, or a plain function. Loads no jax."""

import abc
import asyncio
import concurrent.futures
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from parrot_jax.core.errors import UserError

_NUM_THREADS = 8  # of functions that answer

Messages = list[dict[str, str]]
"""OpenAI's messages, checked to hold `role` (system, user or assistant) and `content`, and nothing
else. Their order is the speaker's business."""


Say = Callable[[str], None]
"""Takes the next piece of a reply's text, in the event loop."""


def say_nothing(_: str) -> None:
    """For who waits for the whole reply."""


class RequestError(UserError):
    """A request that gets an error for an answer, and which one.

    Any other `UserError` that a speaker raises is answered with status 400.

    Attributes:
      status: The HTTP status, 400 to 599.
      param: The field of the request that is wrong.
      code: OpenAI's word for the error, which programs look at, e.g. `context_length_exceeded`.
    """

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        """Keeps what the answer will say."""
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a reply is to be made."""

    max_tokens: int | None
    """Most tokens of the reply, >= 1; None = as many as there is room for."""
    temperature: float
    """>= 0; 0 = the likeliest token each time."""
    top_p: float
    """Sample among the likeliest tokens that hold this probability, in (0, 1]."""
    seed: int
    """In [0, 2^32); the same seed gives the same reply."""
    stop: tuple[str, ...]
    """The reply ends before the first of these strings; none is empty."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A reply, and what it took."""

    text: str
    """What the client gets; an asker's empty text says that it has nothing more to ask."""
    finish_reason: Literal["stop", "length"]
    """`stop` = the speaker ended its turn or wrote a stop string, `length` = it was cut."""
    num_prompt_tokens: int
    """Tokens of the prompt, headers and BOS included."""
    num_tokens: int
    """Tokens of the reply as vLLM counts them: with the terminator, or through the token that
    completed the stop string."""
    prompt_ids: tuple[int, ...] | None = None
    """The ids behind which the reply was written; None where the speaker knows no ids."""
    ids: tuple[int, ...] | None = None
    """The `num_tokens` ids of the reply."""


class Speaker(abc.ABC):
    """What stands behind the server. All methods run in its event loop and must not block it.

    Attributes:
      model: The name under which clients ask for it.
    """

    model: str

    async def start(self) -> None:  # noqa: B027 - many speakers have nothing to start
        """Called once, before the first request."""

    async def stop(self) -> None:  # noqa: B027
        """Called once, after the last request."""

    @abc.abstractmethod
    async def chat(
        self, messages: Messages, settings: Settings, say: Say = say_nothing
    ) -> Completion:
        """The next turn of a dialogue. A client that hangs up cancels the call.

        Args:
          messages: The turns before it.
          settings: How to write.
          say: Called with the reply's text piece by piece; the pieces, joined, are its text.

        Raises:
          UserError: These messages cannot be answered; the client gets the text.
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
        """What follows a prompt, given as text or as ids.

        Args:
          prompt: Not rendered by any template.
          settings: How to write.
          say: As in `chat`.
          add_special_tokens: Whether a text gets the BOS token in front; ids never do.

        Raises:
          UserError: The prompt cannot be continued; the client gets the text.
        """


class FunctionSpeaker(Speaker):
    """A plain function from messages to a reply, served like a model.

    Its tokens are words between white space: usage counts them, and `max_tokens` limits them.
    Temperature, top-p and seed mean nothing to it.
    """

    def __init__(
        self, model: str, reply: Callable[[Messages], str], *, max_context: int = 32_768
    ) -> None:
        """Keeps the function.

        Args:
          model: The name under which clients ask for it.
          reply: Called in threads, several at once; raises `UserError` for messages it cannot
            answer. It cannot be interrupted: a client that hangs up gets rid of a call that
            waits, not of one that runs.
          max_context: Most tokens of a request, and one more for each message.
        """
        self.model, self._reply, self._max_context = model, reply, max_context
        # Of its own: slow functions must not keep others from the threads of the process.
        self._threads = concurrent.futures.ThreadPoolExecutor(_NUM_THREADS, "replies")

    async def stop(self) -> None:
        """Drops what waits."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def chat(
        self, messages: Messages, settings: Settings, say: Say = say_nothing
    ) -> Completion:
        """The function's reply, cut at a stop string and at `max_tokens` words."""
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
        """Refused: there is no text that the function could continue."""
        raise RequestError(f"{self.model} answers messages only; use /v1/chat/completions.")

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
    """A request that is too long, with the code that programs look for.

    Args:
      max_context: What there is room for.
      found: How many tokens the request has, and where.
      param: The field to shorten.
      way_out: What else to do.
    """
    return RequestError(
        f"this model's maximum context length is {max_context:,} tokens, but the request has "
        f"{found}; {way_out}shorten the {param}.",
        param=param,
        code="context_length_exceeded",
    )


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop string begins that is complete first; None = there is none.

    >>> first_stop("one, two. three", [".", ","])
    3
    >>> first_stop("one, two. three", ["e, two. t", "two"])
    5
    """
    found = ((at + len(string), at) for string in stop if (at := text.find(string)) >= 0)
    return min(found, default=(0, None))[1]
