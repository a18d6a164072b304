"""What a request may say: strict types, clear refusals, OpenAI's defaults."""

import json
from typing import Any

import pytest

from parrot_jax.serve.protocol import read_chat_request, read_completion_request
from parrot_jax.serve.speaker import RequestError, Settings

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
    assert first.seed != second.seed  # a fresh one each; equal once in 4 billion runs
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
    assert "mean the same; give one of them" in str(error)


def test_fields_that_change_nothing_are_accepted() -> None:
    chat(user="me", store=True, metadata={"a": "b"}, n=1, stream=False, tools=[], tool_choice=None)
    chat(frequency_penalty=0.0, response_format={"type": "text"}, top_k=-1, logprobs=False)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"n": 2}, "n", "`n` is 2, which this server does not support; leave it out or give 1."),
        ({"n": True}, "n", "`n` is true"),
        ({"stream": True}, "stream", "leave it out or give false"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "is 0.5"),
        ({"logprobs": True}, "logprobs", "does not support"),
        ({"tools": [{"type": "function"}]}, "tools", '`tools` is [{"type": "function"}]'),
        ({"response_format": {"type": "json_object"}}, "response_format", "json_object"),
        ({"verbosity": "low"}, "verbosity", "support; leave it out."),
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
        ({"messages": None}, "messages", "valid list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role",
         "'system', 'user' or 'assistant'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "`messages.0.content` is missing"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "found null"),
        ({"messages": [*HELLO, {"role": "user", "content": "x", "name": "y"}]}, "messages.1.name",
         "not permitted"),
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
        (b"[" * 100_000, "recursion limit exceeded"),
        (b"[1, 2]", "must be a JSON object, not [1, 2]"),
        (b"{}", "`messages` is missing"),
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
