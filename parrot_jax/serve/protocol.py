"""OpenAI's wire format: parsing of requests. Does not import jax.

Requests are parsed strictly. Fields that are null or do not affect the reply are accepted. A field
of OpenAI or vLLM that this server does not support is rejected unless it has its default value
(`n: 1`). Any other field is an error that suggests the nearest known one. Parsing takes linear time
and ends at the first error.
"""

import difflib
import json
import secrets
from typing import Annotated, Any, TypeVar

import pydantic
import pydantic_core
from pydantic import BaseModel, ConfigDict, Field

from parrot_jax.dialogue.json_stream import parse_json
from parrot_jax.serve.engine import Messages, RequestError, Settings
from parrot_jax.serve.messages import read_messages, says_nothing, shown

_MAX_STOP_STRINGS = 4

# JSON parsing holds the GIL, and nested lists take a hundred times as long as text. This limit
# allows 60,000 messages, which take some tenths of a second.
_MAX_MARKS = 2**19

_CHANGE_NOTHING = frozenset(
    {
        "metadata", "parallel_tool_calls", "priority", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "request_id", "safety_identifier", "service_tier", "store",
        "user",
    }
)  # fmt: skip

# Unsupported fields with the values that are accepted, besides null, because they change nothing.
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
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
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


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: each for name, each in value.items() if not says_nothing(each)}
    return value


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    include_usage: bool | None = None
    """Whether the stream ends with a chunk with the usage."""
    include_obfuscation: bool | None = None
    """Padding that hides the size of chunks; accepted, but never added."""


class _Request(BaseModel):
    """Fields of both endpoints."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = None
    """A model listed by `/v1/models`; default: the served model."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Used modulo 2^32; default: a random seed."""
    stop: (
        Annotated[
            list[Annotated[str, Field(min_length=1)]],
            Field(max_length=_MAX_STOP_STRINGS),
            pydantic.BeforeValidator(_one_or_many),
        ]
        | None
    ) = None
    """Up to four strings."""
    return_token_ids: bool | None = None
    """vLLM's: adds the ids of prompt and reply to the response; not supported for streams."""
    stream: bool | None = None
    """Whether to send the reply in pieces while it is generated."""
    stream_options: Annotated[_StreamOptions | None, pydantic.BeforeValidator(_without_empty)] = (
        None
    )

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def settings(self) -> Settings:
        """Returns the settings, with OpenAI's defaults and a seed."""
        return Settings(
            max_tokens=self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=secrets.randbits(32) if self.seed is None else self.seed % 2**32,
            stop=tuple(self.stop or ()),
        )


class ChatRequest(_Request):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[Messages, pydantic.BeforeValidator(read_messages)]
    """May be empty for an asker, which then opens the dialogue."""


class CompletionRequest(_Request):
    """The body of `/v1/completions`."""

    prompt: Annotated[str | list[int], pydantic.BeforeValidator(_text_or_ids)]
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    add_special_tokens: bool | None = True
    """vLLM's: puts the BOS token before a text."""


RequestT = TypeVar("RequestT", bound=_Request)


def read_chat_request(body: bytes) -> ChatRequest:
    """Parses the body of `/v1/chat/completions`.

    Raises:
      RequestError: The body is not JSON, or a field is unknown, unsupported, missing or invalid.
    """
    fields = _read_fields(body, ChatRequest)
    # OpenAI's newer name for `max_tokens`.
    newer = fields.pop("max_completion_tokens", None)
    if newer is not None and fields.get("max_tokens") is not None:
        raise RequestError(
            "`max_tokens` and `max_completion_tokens` mean the same; set only one of them.",
            param="max_completion_tokens",
        )
    if newer is not None:
        fields["max_tokens"] = newer
    return _checked(fields, ChatRequest)


def read_completion_request(body: bytes) -> CompletionRequest:
    """Parses the body of `/v1/completions`.

    Raises:
      RequestError: See `read_chat_request`.
    """
    return _checked(_read_fields(body, CompletionRequest), CompletionRequest)


def _read_fields(body: bytes, request_type: type[_Request]) -> dict[str, Any]:
    """Returns the known fields of the request type; checks all others."""
    if sum(body.count(mark) for mark in (b"[", b"{", b'"')) > _MAX_MARKS:
        raise RequestError(
            f"the body has more than {_MAX_MARKS:,} brackets, braces and quotes; send fewer "
            "messages."
        )
    try:
        # pydantic rejects lone surrogates and huge numbers, `parse_json` duplicate keys.
        fields = pydantic_core.from_json(body, allow_inf_nan=False)
        parse_json(body)
    except ValueError as error:
        raise RequestError(f"the body is not valid JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise RequestError(f"the body must be a JSON object, not {shown(fields)}.")
    known = {*request_type.model_fields, "max_completion_tokens"}
    for name, value in fields.items():
        if name in known or name in _CHANGE_NOTHING or value is None:
            continue
        if name not in _NOT_SUPPORTED:
            raise RequestError(f"unknown field `{name[:60]}`; {_hint(name, known)}", param=name)
        _check_is_default(name, value)
    return {name: fields[name] for name in known if name in fields}


def _hint(name: str, known: set[str]) -> str:
    # Limit the name, since the cost grows with it.
    near = difflib.get_close_matches(name[:60], {*known, *_NOT_SUPPORTED}, n=1)
    return f"did you mean `{near[0]}`?" if near else f"the fields are {', '.join(sorted(known))}."


def _check_is_default(name: str, value: Any) -> None:
    allowed = _NOT_SUPPORTED[name]
    # In Python 1 == True, but not in JSON.
    if not any(value == ok and isinstance(value, bool) == isinstance(ok, bool) for ok in allowed):
        instead = " or ".join(["omit it", *(f"set it to {json.dumps(ok)}" for ok in allowed)])
        raise RequestError(
            f"`{name}` is {shown(value)}, which this server does not support; {instead}.",
            param=name,
            code="unsupported_value",
        )


def _checked(fields: dict[str, Any], request_type: type[RequestT]) -> RequestT:
    try:
        request = request_type.model_validate(fields)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "missing":
            raise RequestError(f"`{name}` is missing.", param=name) from None
        message = problem["msg"].removeprefix("Value error, ")
        raise RequestError(
            f"`{name}`: {message}, found {shown(problem['input'])}.", param=name
        ) from None
    if request.stream and request.return_token_ids:
        raise RequestError(
            "`return_token_ids` is not supported for streams; omit it or `stream`.",
            param="return_token_ids",
        )
    return request
