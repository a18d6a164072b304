"""What a response is worth: a reply, the end of the context, or a failure that may pass or not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.api.replies import Outcome, Usage, no_response, read_response


def success(content: Any, finish_reason: Any = "stop") -> str:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


@pytest.mark.parametrize(
    ("content", "finish_reason", "reply"),
    [
        (" Hello. \n", "stop", (Outcome.COMPLETE, "Hello.")),
        ("", "stop", (Outcome.COMPLETE, "")),
        (None, "stop", (Outcome.COMPLETE, "")),
        ("Hel", "length", (Outcome.CUT, "Hel")),
        ("", "content_filter", (Outcome.FILTERED, "")),
    ],
)
def test_a_reply_says_how_it_ended(content: Any, finish_reason: str, reply: Any) -> None:
    response = read_response(200, success(content, finish_reason))
    assert response.reply[:2] == reply
    assert response.usage == Usage(7, 3)
    assert response.error is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("<html>Bad gateway</html>", r"no choices\[0\].*: <html>Bad gateway"),
        ("", r"no choices\[0\]"),
        ('{"choices": []}', r"no choices\[0\]"),
        (success("x", "tool_calls"), "finish_reason is 'tool_calls', which is none of stop"),
        (success("x", None), "finish_reason is None"),
        (success("x", ["stop"]), "finish_reason is .'stop'."),
        (success(["x"]), "content is no text"),
        (success("\ud800"), "not valid Unicode"),
    ],
)
def test_a_success_without_a_usable_text_is_a_failure_that_may_pass(body: str, error: str) -> None:
    response = read_response(200, body)
    assert response.reply == (Outcome.FAILED, "", None)
    assert response.may_pass
    with pytest.raises(ValueError, match=error):
        raise ValueError(response.error)


@pytest.mark.parametrize(
    ("status", "code", "may_pass"),
    [
        (401, "invalid_api_key", False),
        (404, "model_not_found", False),
        (408, None, True),
        (429, "rate_limit_exceeded", True),
        (429, "insufficient_quota", False),
        (500, None, True),
        (503, None, True),
    ],
)
def test_errors_that_waiting_mends_may_pass(status: int, code: Any, may_pass: bool) -> None:
    response = read_response(status, json.dumps({"error": {"message": "no", "code": code}}))
    assert response.reply.outcome is Outcome.FAILED
    assert response.error == f"HTTP {status}: no"
    assert response.may_pass == may_pass


@pytest.mark.parametrize("status", [400, 406, 413, 422])
def test_what_speaks_of_the_request_is_the_last_word_on_it(status: int) -> None:
    response = read_response(status, '{"error": {"message": "this one I cannot"}}')
    assert response.reply == (Outcome.REJECTED, "", None)
    assert response.error == f"HTTP {status}: this one I cannot"


def test_what_may_have_been_billed() -> None:
    # A reply, with or without a text that can be used, and one that was lost on the way.
    for response in (read_response(200, success("x")), read_response(200, ""), no_response("eof")):
        assert response.may_be_billed
    for response in (read_response(500, ""), read_response(429, ""), read_response(400, "")):
        assert not response.may_be_billed
    assert not no_response("nobody listens", was_sent=False).may_be_billed
    # A body that holds no reply may hold the bill.
    assert read_response(200, success("x", "tool_calls")).usage == Usage(7, 3)
    assert read_response(200, '{"usage": {"prompt_tokens": 7}}').usage is None


@pytest.mark.parametrize(
    "error",
    [
        # OpenAI
        {"error": {"message": "This model's maximum context length is 8192 tokens. However, ...",
                   "type": "invalid_request_error", "code": "context_length_exceeded"}},
        # vLLM, by age
        {"object": "error", "message": "This model's maximum context length is 4096 tokens.",
         "type": "BadRequestError", "param": None, "code": 400},
        {"error": {"message": "max_tokens must be at least 1, got -186.",
                   "type": "BadRequestError", "code": 400}},
        # llama.cpp
        {"error": {"code": 400, "message": "the request exceeds the available context size",
                   "type": "exceed_context_size_error"}},
    ],
)  # fmt: skip
def test_a_full_context_is_the_last_word_and_no_failure(error: dict[str, Any]) -> None:
    assert read_response(400, json.dumps(error)).reply == (Outcome.CONTEXT_FULL, "", None)


def test_long_errors_are_cut_to_one_line() -> None:
    error = read_response(500, "a\nb " * 1000).error
    assert error is not None
    assert error.startswith("HTTP 500: a b a b ")
    assert len(error) == 303


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(
    st.sampled_from([200, 204, 302, 400, 401, 429, 500]),
    st.text() | st.builds(success, json_values, json_values) | json_values.map(
        lambda error: json.dumps({"error": error})
    ),
)  # fmt: skip
def test_whatever_a_server_says_is_a_reply_or_a_failure_with_a_reason(
    status: int, body: str
) -> None:
    response = read_response(status, body)
    assert (response.reply.outcome is Outcome.COMPLETE) == (response.error is None)
    # What goes into the journal must be valid text.
    assert response.reply.text == response.reply.text.strip()
    (response.reply.text + (response.error or "")).encode("utf-8")
