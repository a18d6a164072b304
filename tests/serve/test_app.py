"""The application around a plain function: routes, errors, bugs, disconnects, shutdown."""

import asyncio
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from parrot_jax.core.errors import RunError, UserError
from parrot_jax.serve import background
from parrot_jax.serve.app import MAX_BODY_BYTES, make_app
from parrot_jax.serve.background import BackgroundServer, open_port
from parrot_jax.serve.engine import (
    Completion,
    Engine,
    FunctionEngine,
    Messages,
    Say,
    Settings,
    say_nothing,
)

from ..stock_client import stock_client

Send = Callable[..., tuple[int, Any]]


def answer(messages: Messages) -> str:
    """Echoes the message; `?` is a user error, `??` a bug."""
    heard = messages[-1]["content"]
    if heard == "?":
        raise UserError("that is no question; ask something.")
    if heard == "??":
        raise KeyError("secret internals")
    return f"you said {heard}. Is that so?"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with BackgroundServer(make_app(FunctionEngine("world", answer))) as server:
        yield server.url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with stock_client(url) as client:
        yield client


def post(body: bytes, path: str = "/v1/chat/completions") -> bytes:
    """Returns the bytes of an HTTP request."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_a_function_is_served_like_a_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["world"]
    reply = client.chat.completions.create(model="world", messages=said("two words"))
    assert reply.choices[0].message.content == "you said two words. Is that so?"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (2, 7)
    assert reply.usage.total_tokens == 9


def test_a_functions_reply_is_cut_like_a_models(client: openai.OpenAI) -> None:
    settings: Any = {"model": "world", "messages": said("hi")}
    stopped = client.chat.completions.create(**settings, stop=["that", "."]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("you said hi", "stop")
    cut = client.chat.completions.create(**settings, max_tokens=4).choices[0]
    assert (cut.message.content, cut.finish_reason) == ("you said hi. Is", "length")


def test_curl_talks_to_it(url: str) -> None:
    body = json.dumps({"messages": said("hi")})
    curl = ["curl", "--silent", "--show-error", f"{url}/chat/completions", "--json", body]
    done = subprocess.run(curl, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"].startswith("you said hi")


def test_health_has_no_body(url: str, send: Send) -> None:
    assert send(url.removesuffix("/v1") + "/health", method="GET") == (200, None)


def test_what_the_function_refuses_is_a_400_with_its_reason(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="that is no question; ask something"):
        client.chat.completions.create(model="world", messages=said("?"))
    with pytest.raises(openai.BadRequestError, match="use /v1/chat/completions"):
        client.completions.create(model="world", prompt="hi")


def test_an_unknown_model_is_a_404_that_names_the_known_one(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-5'; .* 'world'") as error:
        client.chat.completions.create(model="gpt-5", messages=said("hi"))
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_a_model_is_retrieved_by_its_name_whatever_it_is() -> None:
    app = make_app(FunctionEngine("lab/asker 13b%2F", answer))
    with (
        BackgroundServer(app) as server,
        stock_client(server.url) as client,
    ):
        assert client.models.retrieve("lab/asker 13b%2F") == client.models.list().data[0]
        for unknown in ("lab", "asker 13b", "lab/asker 13b%2F/", "x" * 5000):
            with pytest.raises(openai.NotFoundError, match="no model .*; .* 'lab/") as error:
                client.models.retrieve(unknown)
            assert error.value.code == "model_not_found"
            assert len(str(error.value)) < 1000


def test_a_message_that_was_received_can_be_sent_back(client: openai.OpenAI) -> None:
    messages = said("hi")
    for _ in range(2):
        reply = client.chat.completions.create(model="world", messages=messages)
        messages.append(reply.choices[0].message.model_dump())
        messages.append({"role": "user", "content": [{"type": "text", "text": "and?"}]})
    last = client.chat.completions.create(model="world", messages=messages)
    assert last.choices[0].message.content == "you said and?. Is that so?"
    assert last.choices[0].message.refusal is None


def test_malformed_json_and_wrong_routes_are_answered_in_openais_shape(
    url: str, send: Send
) -> None:
    status, body = send(f"{url}/chat/completions", b'{"messages": [')
    assert status == 400
    assert body["error"]["message"].startswith("the body is not valid JSON")
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["type"] == "invalid_request_error"
    status, body = send(f"{url}/embeddings", {})
    assert status == 404
    assert "use POST /v1/chat/completions" in body["error"]["message"]
    status, body = send(f"{url}/completions", method="GET")
    assert status == 405
    assert "method not allowed" in body["error"]["message"]
    # No redirect, since its target would come from the Host header.
    assert send(f"{url}/chat/completions/", {})[0] == 404


def test_a_body_that_is_too_large_is_not_read(url: str, send: Send) -> None:
    status, body = send(f"{url}/chat/completions", b" " * (MAX_BODY_BYTES + 1))
    assert status == 413
    assert "larger than 4,194,304 bytes" in body["error"]["message"]
    assert send(f"{url}/chat/completions", b" " * MAX_BODY_BYTES)[0] == 400


def test_a_request_that_is_too_long_for_a_function_is_refused_before_it_is_called() -> None:
    heard: list[int] = []
    engine = FunctionEngine("short", lambda m: str(heard.append(len(m))), max_context=10)
    with (
        BackgroundServer(make_app(engine)) as server,
        stock_client(server.url) as client,
    ):
        client.chat.completions.create(model="short", messages=said("one two three") * 2)
        with pytest.raises(
            openai.BadRequestError, match="is 10 tokens, .* 9 in its 3 messages"
        ) as e:
            client.chat.completions.create(model="short", messages=said("one two three") * 3)
    assert e.value.code == "context_length_exceeded"
    assert heard == [2]


def test_a_bug_is_a_500_without_internals_and_a_traceback_in_the_log(
    client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(model="world", messages=said("??"))
    assert error.value.body == {
        "message": "internal error; see the server's log.",
        "type": "server_error",
        "param": None,
        "code": None,
    }
    ((_, _, message),) = caplog.record_tuples
    assert message == "POST /v1/chat/completions: internal error"
    assert "secret internals" in caplog.text
    # The connection is still usable.
    assert client.chat.completions.create(model="world", messages=said("hi")).choices


def test_a_client_that_hangs_up_in_its_body_disturbs_nobody(
    url: str, client: openai.OpenAI
) -> None:
    parts = urlsplit(url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 0)) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
    assert client.chat.completions.create(model="world", messages=said("hi")).choices


class Slow(Engine):
    """Replies when allowed to; records cancellation."""

    def __init__(self) -> None:
        self.model = "slow"
        self.began, self.left, self.may_answer = (threading.Event() for _ in range(3))

    async def chat(
        self, messages: Messages, settings: Settings, say: Say = say_nothing
    ) -> Completion:
        self.began.set()
        try:
            while not self.may_answer.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.left.set()
            raise
        return Completion(text="yes", finish_reason="stop", num_prompt_tokens=1, num_tokens=1)

    async def complete(
        self,
        prompt: str | list[int],
        settings: Settings,
        say: Say = say_nothing,
        *,
        add_special_tokens: bool,
    ) -> Completion:
        raise NotImplementedError


def in_thread(send: Send, url: str) -> tuple[threading.Thread, list[tuple[int, Any]]]:
    answers: list[tuple[int, Any]] = []
    thread = threading.Thread(
        target=lambda: answers.append(send(f"{url}/chat/completions", {"messages": said("hi")}))
    )
    thread.start()
    return thread, answers


def test_the_work_of_a_client_that_hangs_up_is_cancelled() -> None:
    slow = Slow()
    with BackgroundServer(make_app(slow)) as server:
        parts = urlsplit(server.url)
        assert parts.hostname is not None
        body = json.dumps({"messages": said("hi")}).encode()
        with socket.create_connection((parts.hostname, parts.port or 0)) as connection:
            connection.sendall(post(body))
            assert slow.began.wait(timeout=10)
            assert not slow.left.is_set()
        assert slow.left.wait(timeout=10)


def test_a_stopping_server_finishes_what_is_in_flight(send: Send) -> None:
    slow = Slow()
    with BackgroundServer(make_app(slow)) as server:
        thread, answers = in_thread(send, server.url)
        assert slow.began.wait(timeout=10)
        threading.Timer(0.3, slow.may_answer.set).start()
    thread.join()
    ((status, body),) = answers
    assert (status, body["choices"][0]["message"]["content"]) == (200, "yes")


def test_what_takes_too_long_is_told_that_the_server_stops(
    send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "GRACE_S", 1)
    slow = Slow()
    with BackgroundServer(make_app(slow)) as server:
        thread, answers = in_thread(send, server.url)
        assert slow.began.wait(timeout=10)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 10
    thread.join()
    ((status, body),) = answers
    assert (status, body["error"]["message"]) == (503, "the server is stopping.")


def test_connections_send_small_writes_at_once() -> None:
    with (
        open_port() as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use_and_a_foreign_host_are_one_line_each() -> None:
    with open_port() as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 is in use; choose another"):
            open_port(port=port)
    for port in (-1, 65536):
        with pytest.raises(UserError, match=f"port {port} does not exist; give one of 0 to 65535"):
            open_port(port=port)
    with pytest.raises(UserError, match="cannot open port 0 on 203.0.113.1: .*; check --host"):
        open_port("203.0.113.1")


def test_an_application_that_cannot_start_is_an_error_of_the_run() -> None:
    class Broken(Slow):
        async def start(self) -> None:
            raise RuntimeError("no device")

    with pytest.raises(RunError, match="did not start"), BackgroundServer(make_app(Broken())):
        pass
