"""OpenAI's wire format: what requests may say, what replies and errors look like. Loads no jax.

Requests are read strictly. A field that changes no reply is accepted. A field that OpenAI or vLLM
has and this server has not is refused, unless it asks for what happens anyway (`n: 1`). Any other
field is an error that names the nearest known one.
"""

import difflib
import json
import secrets
import time
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import pydantic_core
from pydantic import BaseModel, ConfigDict, Field

from parrot_jax.serve.speaker import Completion, Messages, RequestError, Settings

_MAX_STOP_STRINGS = 4

_CHANGE_NOTHING = frozenset(
    {
        "metadata", "parallel_tool_calls", "priority", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "request_id", "safety_identifier", "service_tier", "store",
        "stream_options", "user",
    }
)  # fmt: skip

# What is not supported, with the values that ask for nothing; null always is such a value.
_NOT_SUPPORTED: dict[str, tuple[Any, ...]] = {
    # OpenAI's
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "stream": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
    # vLLM's
    "add_generation_prompt": (True,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "repetition_penalty": (1,),
    "skip_special_tokens": (True,),
    "stop_token_ids": ([],),
    "top_k": (0, -1),
    "use_beam_search": (False,),
}


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _text_or_ids(value: Any) -> Any:
    is_ids = isinstance(value, list) and all(type(item) is int for item in value)
    if not (is_ids or isinstance(value, str)):
        raise ValueError("Input should be one prompt: a text, or a list of token ids")
    return value


class _Request(BaseModel):
    """What both endpoints take."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = None
    """As `/v1/models` lists it; absent = the one that there is."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Seeds that differ by a multiple of 2^32 are the same; absent = a fresh one."""
    stop: (
        Annotated[
            list[Annotated[str, Field(min_length=1)]],
            Field(max_length=_MAX_STOP_STRINGS),
            pydantic.BeforeValidator(_one_or_many),
        ]
        | None
    ) = None
    """A string or up to four."""
    return_token_ids: bool | None = None
    """vLLM's: adds the ids of prompt and reply to the response."""

    def settings(self) -> Settings:
        """The settings, with OpenAI's defaults and a seed."""
        return Settings(
            max_tokens=self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=secrets.randbits(32) if self.seed is None else self.seed % 2**32,
            stop=tuple(self.stop or ()),
        )


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(_Request):
    """The body of `/v1/chat/completions`."""

    messages: list[_Message]
    """May be empty: an asker then opens the dialogue."""

    def plain_messages(self) -> Messages:
        """The messages as plain dicts."""
        return [message.model_dump() for message in self.messages]


class CompletionRequest(_Request):
    """The body of `/v1/completions`."""

    prompt: Annotated[str | list[int], pydantic.BeforeValidator(_text_or_ids)]
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    add_special_tokens: bool = True
    """vLLM's: put the BOS token in front of a text."""


RequestT = TypeVar("RequestT", bound=_Request)


def read_chat_request(body: bytes) -> ChatRequest:
    """Reads the body of `/v1/chat/completions`.

    Raises:
      RequestError: It is not JSON, or a field is unknown, unsupported, missing or of a wrong type.
    """
    fields = _read_fields(body, ChatRequest)
    # The newer of OpenAI's two names for one thing.
    newer = fields.pop("max_completion_tokens", None)
    if newer is not None and fields.get("max_tokens") is not None:
        raise RequestError(
            "`max_tokens` and `max_completion_tokens` mean the same; give one of them.",
            param="max_completion_tokens",
        )
    if newer is not None:
        fields["max_tokens"] = newer
    return _checked(fields, ChatRequest)


def read_completion_request(body: bytes) -> CompletionRequest:
    """Reads the body of `/v1/completions`.

    Raises:
      RequestError: As in `read_chat_request`.
    """
    return _checked(_read_fields(body, CompletionRequest), CompletionRequest)


def chat_response(model: str, completion: Completion, *, with_ids: bool) -> dict[str, Any]:
    """The body that answers `/v1/chat/completions`."""
    # Whoever speaks, the role is the assistant's, as in vLLM: a client that collects flips it.
    said = {"message": {"role": "assistant", "content": completion.text}}
    return _response("chat.completion", "chatcmpl", model, said, completion, with_ids=with_ids)


def completion_response(model: str, completion: Completion, *, with_ids: bool) -> dict[str, Any]:
    """The body that answers `/v1/completions`."""
    said = {"text": completion.text}
    return _response("text_completion", "cmpl", model, said, completion, with_ids=with_ids)


def models_response(model: str, created: int) -> dict[str, Any]:
    """The body that answers `/v1/models`; `created` in seconds since 1970."""
    card = {"id": model, "object": "model", "created": created, "owned_by": "parrot_jax"}
    return {"object": "list", "data": [card]}


def error_response(
    message: str, *, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an answer with an HTTP status of 400 or more."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _response(
    kind: str,
    id_prefix: str,
    model: str,
    said: dict[str, Any],
    completion: Completion,
    *,
    with_ids: bool,
) -> dict[str, Any]:
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": completion.finish_reason}
    response = {
        "id": f"{id_prefix}-{secrets.token_hex(16)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": completion.num_prompt_tokens,
            "completion_tokens": completion.num_tokens,
            "total_tokens": completion.num_prompt_tokens + completion.num_tokens,
        },
    }
    if with_ids:
        # vLLM has the prompt's ids in the response of a chat, and in the choice of a completion.
        choice["token_ids"] = completion.ids
        (response if "message" in said else choice)["prompt_token_ids"] = completion.prompt_ids
    return response


def _read_fields(body: bytes, request_type: type[_Request]) -> dict[str, Any]:
    """The fields that the request type knows; the others have been accepted or refused."""
    try:
        fields = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not valid JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise RequestError(f"the body must be a JSON object, not {_shown(fields)}.")
    known = {*request_type.model_fields, "max_completion_tokens"}
    for name in [name for name in fields if name not in known | _CHANGE_NOTHING]:
        if name not in _NOT_SUPPORTED:
            near = difflib.get_close_matches(name, {*known, *_NOT_SUPPORTED}, n=1)
            names = ", ".join(sorted(known))
            hint = f"did you mean `{near[0]}`?" if near else f"the fields are {names}."
            raise RequestError(f"unknown field `{name}`; {hint}", param=name)
        _check_asks_for_nothing(name, fields[name])
    return {name: value for name, value in fields.items() if name in known}


def _check_asks_for_nothing(name: str, value: Any) -> None:
    allowed = (None, *_NOT_SUPPORTED[name])
    # In Python 1 == True, in JSON it is not.
    if not any(value == ok and isinstance(value, bool) == isinstance(ok, bool) for ok in allowed):
        instead = " or ".join(["leave it out", *(f"give {json.dumps(ok)}" for ok in allowed[1:])])
        raise RequestError(
            f"`{name}` is {_shown(value)}, which this server does not support; {instead}.",
            param=name,
            code="unsupported_value",
        )


def _checked(fields: dict[str, Any], request_type: type[RequestT]) -> RequestT:
    try:
        return request_type.model_validate(fields)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "missing":
            raise RequestError(f"`{name}` is missing.", param=name) from None
        message = problem["msg"].removeprefix("Value error, ")
        raise RequestError(
            f"`{name}`: {message}, found {_shown(problem['input'])}.", param=name
        ) from None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."
