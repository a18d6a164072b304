"""Parsing of responses: replies, full contexts, temporary and permanent failures."""

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
        (success("\ud800"), "not valid Unicode"),
        (success("a\0b"), "not valid Unicode"),
        (success("Hel", "error"), "finish_reason is 'error'"),
        (success("", None), "no finish_reason and no text"),
    ],
)
def test_a_success_without_a_usable_text_is_a_failure_that_may_pass(body: str, error: str) -> None:
    response = read_response(200, body)
    assert response.reply == (Outcome.FAILED, "", None)
    assert response.may_pass
    with pytest.raises(ValueError, match=error):
        raise ValueError(response.error)


@pytest.mark.parametrize(
    ("finish_reason", "outcome"),
    [
        *((name, Outcome.COMPLETE) for name in ("eos", "eos_token", "EOS", "end_turn", "STOP")),
        *((name, Outcome.COMPLETE) for name in ("FinishReason.STOP", "stop_sequence", "COMPLETE")),
        *((name, Outcome.CUT) for name in ("max_tokens", "MAX_TOKENS", "max-length")),
        *((name, Outcome.FILTERED) for name in ("SAFETY", "content_filtered", "refusal")),
    ],
)
def test_other_names_of_how_a_reply_ended(finish_reason: str, outcome: Outcome) -> None:
    assert read_response(200, success("Hello.", finish_reason)).reply == (outcome, "Hello.", None)


@pytest.mark.parametrize("reason", ["vanished", ["stop"], 3, "stop and more"])
def test_an_unknown_end_is_not_paid_for_again(reason: Any) -> None:
    response = read_response(200, success("Hello.", reason))
    assert response.reply == (Outcome.FAILED, "", None)
    assert not response.may_pass
    assert f"finish_reason is {reason!r}, which is unknown" in (response.error or "")


def test_where_no_end_is_said_the_limit_decides() -> None:
    def outcome(limit: int | None) -> Outcome:
        request = {"max_tokens": limit}
        return read_response(200, success("Hello.", None), request=request).reply.outcome

    # "Hello." has 6 bytes, thus at most 6 tokens; the server counted 3.
    assert [outcome(n) for n in (None, 7, 4, 3)] == [*[Outcome.COMPLETE] * 3, Outcome.CUT]
    body = json.dumps({"choices": [{"message": {"content": "Hello."}}]})
    assert read_response(200, body).reply.text == "Hello."
    unknown = read_response(200, body, request={"max_completion_tokens": 6})
    assert (unknown.reply.outcome, unknown.may_pass) == (Outcome.FAILED, False)


def test_a_tool_call_is_the_last_word_and_no_text() -> None:
    response = read_response(200, success("Let me look.", "tool_calls"))
    assert response.reply == (Outcome.REJECTED, "", None)
    assert "finish_reason is 'tool_calls', and no tool was offered" in (response.error or "")


def test_text_in_parts_is_joined_and_other_parts_are_not_paid_for_again() -> None:
    text = {"type": "text", "text": " Hel"}
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Well"}]}
    parts = [thought, text, {"type": "text", "text": "lo. "}]
    assert read_response(200, success(parts)).reply == (Outcome.COMPLETE, "Hello.", None)
    for content in (["x"], [text, {"type": "image_url", "image_url": "x"}], {"a": 1}, 5):
        response = read_response(200, success(content))
        assert "content is not text" in (response.error or "")
        assert not response.may_pass


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2}, Usage(5, 2)),
        # Impossible counts: the request has 16 bytes, the response about 200.
        ({"prompt_tokens": 2**53 - 1, "completion_tokens": 2}, None),
        ({"prompt_tokens": 1_000_000, "completion_tokens": 2}, None),
        ({"prompt_tokens": 5, "completion_tokens": 2**53 - 1}, None),
        ({"prompt_tokens": 5, "completion_tokens": 1_000_000}, None),
        ({"prompt_tokens": -1, "completion_tokens": 2}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),  # "Hello." has at least 1 token
        ({"prompt_tokens": 5.0, "completion_tokens": 2}, None),
        # Possible with the server's own instructions and hidden reasoning.
        ({"prompt_tokens": 2_000, "completion_tokens": 30_000}, Usage(2_000, 30_000)),
    ],
)
def test_tokens_that_no_call_can_have_are_unknown(usage: Any, counted: Usage | None) -> None:
    body = json.loads(success("Hello."))
    response = read_response(200, json.dumps({**body, "usage": usage}), request={"messages": []})
    assert response.reply.text == "Hello."
    assert response.usage == counted


def test_a_long_prompt_may_have_as_many_tokens_as_bytes() -> None:
    request = {"messages": [{"content": "x" * 500_000}]}
    usage = {"prompt_tokens": 400_000, "completion_tokens": 2}
    body = json.dumps({**json.loads(success("Hello.")), "usage": usage})
    assert read_response(200, body, request=request).usage == Usage(400_000, 2)
    assert read_response(200, body, request={"messages": []}).usage is None


def test_an_error_that_comes_with_a_success() -> None:
    def response(error: Any) -> Any:
        return read_response(200, json.dumps({"error": error}))

    down = response({"code": 502, "message": "the provider is down"})
    assert (down.reply.outcome, down.may_pass, down.may_be_billed) == (Outcome.FAILED, True, True)
    assert down.error == "HTTP 200, but the body is an error: the provider is down"
    broke = response({"code": 402, "message": "Insufficient credits"})
    assert (broke.reply.outcome, broke.may_pass) == (Outcome.FAILED, False)
    flagged = response({"code": 403, "message": "Your input was flagged"})
    assert flagged.reply.outcome is Outcome.FILTERED
    assert response("what?").may_pass


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
    response = read_response(status, '{"error": {"message": "cannot process this request"}}')
    assert response.reply == (Outcome.REJECTED, "", None)
    assert response.error == f"HTTP {status}: cannot process this request"


def test_what_may_have_been_billed() -> None:
    # A reply, one without usable text, and one that was lost.
    for response in (read_response(200, success("x")), read_response(200, ""), no_response("eof")):
        assert response.may_be_billed
    for response in (read_response(500, ""), read_response(429, ""), read_response(400, "")):
        assert not response.may_be_billed
    assert not no_response("nobody listens", was_sent=False).may_be_billed
    # A body without a usable reply may still have token counts.
    assert read_response(200, success("x", "vanished")).usage == Usage(7, 3)
    assert read_response(200, '{"usage": {"prompt_tokens": 7}}').usage is None


@pytest.mark.parametrize(
    "error",
    [
        # OpenAI
        {"error": {"message": "This model's maximum context length is 8192 tokens. However, ...",
                   "type": "invalid_request_error", "code": "context_length_exceeded"}},
        # vLLM, older and newer
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


@pytest.mark.parametrize("found", ["4096", "4,096"])
def test_max_tokens_that_fill_the_whole_context_are_the_requests_fault(found: str) -> None:
    # `parrot serve` writes thousands with a comma; read as 4, any limit would fill it.
    message = f"this model's maximum context length is {found} tokens, but the request has 5,000"
    body = json.dumps({"error": {"message": message, "code": "context_length_exceeded"}})
    assert (
        read_response(400, body, request={"max_tokens": 128}).reply.outcome is Outcome.CONTEXT_FULL
    )
    assert read_response(400, body, request={"max_tokens": 4096}).reply.outcome is Outcome.REJECTED


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
    # The journal stores only valid text.
    assert response.reply.text == response.reply.text.strip()
    (response.reply.text + (response.error or "")).encode("utf-8")
