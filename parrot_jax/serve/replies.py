"""OpenAI's wire format: replies, whole or as server-sent events, and errors."""

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

from parrot_jax.serve.engine import Completion

_ERROR_CHARS, _PARAM_CHARS = 600, 100

DONE = b"data: [DONE]\n\n"
"""The last event of a complete stream."""


class ResponseFormat:
    """Formats one reply to a chat or completion request; all its parts share an id."""

    def __init__(
        self, model: str, *, is_chat: bool, with_ids: bool = False, with_usage: bool = False
    ) -> None:
        """Creates the id.

        Args:
          model: The model's name.
          is_chat: Whether to use the chat format; else the completion format.
          with_ids: Whether to add the ids of prompt and reply, as vLLM does.
          with_usage: Whether a stream ends with the usage.
        """
        self._is_chat, self._with_ids, self._with_usage = is_chat, with_ids, with_usage
        self._common = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(16)}",
            "object": "chat.completion" if is_chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, completion: Completion) -> dict[str, Any]:
        """Returns the body of the response."""
        # The role is always `assistant`, also for an asker, as in vLLM.
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        content = {"message": message} if self._is_chat else {"text": completion.text}
        response = self._common | {
            "choices": [_choice(content, completion.finish_reason)],
            "usage": _usage(completion),
        }
        if self._with_ids:
            # vLLM puts the prompt's ids into the response for a chat, into the choice for a
            # completion.
            (choice,) = response["choices"]
            choice["token_ids"] = completion.ids
            (response if self._is_chat else choice)["prompt_token_ids"] = completion.prompt_ids
        return response

    def opening(self) -> bytes:
        """Returns the event before the first piece; empty for completions."""
        if not self._is_chat:
            return b""
        return self._chunk([_choice({"delta": {"role": "assistant", "content": ""}}, None)])

    def piece(self, text: str) -> bytes:
        """Returns the event of a piece of text."""
        return self._chunk([_choice(self._delta(text), None)])

    def closing(self, completion: Completion) -> Iterator[bytes]:
        """Yields the events after the last piece."""
        delta = {"delta": {}} if self._is_chat else self._delta("")
        yield self._chunk([_choice(delta, completion.finish_reason)])
        if self._with_usage:
            yield self._chunk([], _usage(completion))
        yield DONE

    def _delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}} if self._is_chat else {"text": text}

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        chunk = self._common | {"choices": choices}
        if self._is_chat:
            chunk["object"] = "chat.completion.chunk"
        if self._with_usage:
            chunk["usage"] = usage
        return event(chunk)


def event(data: Any) -> bytes:
    """Formats a server-sent event. ASCII only, since some clients break lines at U+2028."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def model_card(model: str, created: int) -> dict[str, Any]:
    """Returns a model's entry in `/v1/models`; `created` in seconds since 1970."""
    return {"id": model, "object": "model", "created": created, "owned_by": "parrot_jax"}


def error_response(
    message: str, *, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Returns the body of an error reply, limited in length."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    if len(message) > _ERROR_CHARS:
        message = f"{message[:_ERROR_CHARS]}..."
    param = param if param is None else param[:_PARAM_CHARS]
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _choice(content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}


def _usage(completion: Completion) -> dict[str, int]:
    return {
        "prompt_tokens": completion.num_prompt_tokens,
        "completion_tokens": completion.num_tokens,
        "total_tokens": completion.num_prompt_tokens + completion.num_tokens,
    }
