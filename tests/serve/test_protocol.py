"""Parsing of requests: strict types, clear errors, OpenAI's defaults."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from parrot_jax.serve.engine import Completion, RequestError, Settings
from parrot_jax.serve.protocol import read_chat_request, read_completion_request
from parrot_jax.serve.replies import ResponseFormat, error_response

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> Any:
    return read_chat_request(json.dumps({"messages": HELLO} | fields).encode())


def refused(body: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read_chat_request(body)
    assert caught.value.status == 400
    return caught.value


def test_the_defaults_are_those_of_openai() -> None:
    first, second = chat().settings(), chat(temperature=None, stop=None).settings()
    assert (first.max_tokens, first.temperature, first.top_p, first.stop) == (None, 1.0, 1.0, ())
    assert first.seed != second.seed  # random; equal once in 4 billion runs
    completion = read_completion_request(b'{"prompt": "hello"}')
    assert completion.settings().max_tokens == 16
    assert completion.add_special_tokens


def test_every_setting_arrives() -> None:
    asked = chat(max_tokens=5, temperature=0, top_p=0.5, seed=3, stop=["a", "b"])
    assert asked.settings() == Settings(
        max_tokens=5, temperature=0.0, top_p=0.5, seed=3, stop=("a", "b")
    )
    assert chat(stop="a").settings().stop == ("a",)
    assert chat(seed=2**32 + 3).settings().seed == 3
    assert chat(seed=-1).settings().seed == 2**32 - 1


def test_max_completion_tokens_is_another_name_of_max_tokens() -> None:
    assert chat(max_completion_tokens=5).settings().max_tokens == 5
    error = refused(b'{"messages": [], "max_tokens": 5, "max_completion_tokens": 6}')
    assert "mean the same; set only one of them" in str(error)


def test_fields_that_change_nothing_are_accepted() -> None:
    chat(user="me", store=True, metadata={"a": "b"}, n=1, stream=False, tools=[], tool_choice=None)
    chat(frequency_penalty=0.0, response_format={"type": "text"}, top_k=-1, logprobs=False)
    chat(parallel_tool_calls=True, stop=[], stream=None, stream_options=None, n=None, qqq=None)
    chat(stream_options={"include_usage": True}, reasoning_effort=None, verbosity="medium")


def test_a_client_may_send_back_what_it_got() -> None:
    got = ResponseFormat("world", is_chat=True).whole(
        Completion(text="hello", finish_reason="stop", num_prompt_tokens=1, num_tokens=1)
    )
    message = ChatCompletion.model_validate(got).choices[0].message
    asked = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": "hi", "name": "Ada"},
            message.model_dump(),
            {"role": "user", "content": [{"type": "text", "text": "two"},
                                         {"type": "text", "text": "lines"}]},
            message.model_dump() | {"tool_calls": [], "audio": None, "annotations": [],
                                    "provider_specific_fields": {}, "reasoning_content": ""},
        ]
    )  # fmt: skip
    assert asked.messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "two\nlines"},
        {"role": "assistant", "content": "hello"},
    ]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"n": 2}, "n", "`n` is 2, which this server does not support; omit it or set it to 1."),
        ({"n": True}, "n", "`n` is true"),
        ({"stream": "yes"}, "stream", "valid boolean"),
        ({"stream_options": {"x": 1}, "stream": True}, "stream_options.x", "not permitted"),
        ({"stream": True, "return_token_ids": True}, "return_token_ids", "not supported for"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "is 0.5"),
        ({"logprobs": True}, "logprobs", "does not support"),
        ({"tools": [{"type": "function"}]}, "tools", '`tools` is [{"type": "function"}]'),
        ({"response_format": {"type": "json_object"}}, "response_format", "json_object"),
        ({"audio": {"voice": "x"}}, "audio", "support; omit it."),
        ({"max_token": 5}, "max_token", "unknown field `max_token`; did you mean `max_tokens`?"),
        ({"qqq": 5}, "qqq", "unknown field `qqq`; the fields are max_completion_tokens,"),
        ({"max_tokens": "5"}, "max_tokens", '`max_tokens`: Input should be a valid integer, found'),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1, found 0"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0, found -1"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0, found 0"),
        ({"top_p": 1.5}, "top_p", "less than or equal to 1"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"temperature": 10**400}, "temperature", "valid number"),
        ({"messages": None}, "messages", "`messages` must be a list of messages, found null."),
        ({"messages": ["hi"]}, "messages.0", 'message 1 must be an object, found "hi".'),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role",
         'message 1 has the role "tool"; use system, user or assistant.'),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "its `content` is missing"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content",
         "message 1 has no text: its `content` is null."),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
         "messages.0.content.0", "has a part that is not text"),
        ({"messages": [*HELLO, {"role": "user", "content": "x", "tool_calls": [1]}]},
         "messages.1.tool_calls", "message 2 has `tool_calls`: [1], which this server does not"),
        ({"messages": [{"role": "assistant", "content": "", "refusal": "no"}]},
         "messages.0.refusal", "does not support"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field(fields: dict[str, Any], param: str, message: str) -> None:
    error = refused(json.dumps({"messages": HELLO} | fields).encode())
    assert error.param == param
    assert message in str(error)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON: EOF while parsing a value at line 1 column 0"),
        (b'{"messages": [', "not valid JSON"),
        (b'{"temperature": NaN}', "not valid JSON"),
        (b'{"user": "\\ud800"}', "not valid JSON"),
        (b'{"user": "\xff"}', "not valid JSON"),
        (b'{"seed": 1, "seed": 2}', "not valid JSON: the key 'seed' appears twice in one object"),
        (b"[" * 100_000, "recursion limit exceeded"),
        (b"[1, 2]", "must be a JSON object, not [1, 2]"),
        (b"{}", "`messages` is missing"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "number out of range"),
        (b'{"messages": [' + b"[]," * 600_000 + b"1]}", "more than 524,288 brackets"),
    ],
)
def test_a_body_that_is_no_request(body: bytes, message: str) -> None:
    assert message in str(refused(body))


@pytest.mark.parametrize("prompt", [["a", "b"], [[1, 2]], [1, "a"], [1.5], 7, None])
def test_a_completion_continues_one_prompt(prompt: Any) -> None:
    with pytest.raises(RequestError, match="one prompt: a text, or a list of token ids"):
        read_completion_request(json.dumps({"prompt": prompt}).encode())


def test_a_long_value_is_shown_in_part() -> None:
    error = refused(json.dumps({"messages": [], "max_tokens": "9" * 5000}).encode())
    assert str(error).endswith(f'found "{"9" * 59}....')


def test_what_cannot_be_quoted_is_quoted_in_part() -> None:
    # Errors that would quote megabytes, or a number that Python refuses to print.
    for fields in (
        {"k" * 1_000_000: 1},
        {"tools": [{"type": "x" * 1_000_000}]},
        {"messages": [{"role": "user", "content": "x", "k" * 1_000_000: 1}]},
        {"messages": [{"role": "y" * 1_000_000, "content": "x"}]},
        {"max_tokens": -(10**4200)},
    ):
        error = refused(json.dumps({"messages": HELLO} | fields).encode())
        body = error_response(str(error), status=400, param=error.param)
        assert 50 < len(json.dumps(body)) < 1000
