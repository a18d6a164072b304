"""Streams have the reply's text and OpenAI's format; a disconnect cancels the work."""

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.model.generate import PART_STEPS
from parrot_jax.serve import app
from parrot_jax.serve.app import make_app
from parrot_jax.serve.background import BackgroundServer
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
HELLO: Any = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "bye"}]


def events(url: str, body: dict[str, Any]) -> tuple[http.client.HTTPResponse, list[str]]:
    """Returns the response to a streaming request, and its events without `data: `."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", f"{parts.path}/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read().decode("ascii")
    connection.close()
    *lines, rest = text.split("\n\n")
    assert rest == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return response, [line.removeprefix("data: ") for line in lines]


def streamed(chunks: Any) -> tuple[list[str], str]:
    """Returns the pieces of text and the finish reason."""
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    pieces = [c.text if hasattr(c, "text") else c.delta.content or "" for c in choices]
    return pieces, choices[-1].finish_reason


# ---- a trained model ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0, "max_tokens": 30},
        {"temperature": 1.5, "seed": 3, "max_tokens": 60},
        {"temperature": 1.5, "seed": 4, "max_tokens": 60},
        {"temperature": 3.0, "seed": 5, "max_tokens": 40, "stop": ["e", "question w"]},
        {"temperature": 1.5, "seed": 6},
        {"temperature": 1.5, "seed": 7, "max_tokens": 1},
    ],
)
def test_a_stream_says_what_the_whole_reply_says(
    client: openai.OpenAI, settings: dict[str, Any]
) -> None:
    whole = client.chat.completions.create(model="asker", messages=HELLO, **settings)
    chunks = list(
        client.chat.completions.create(
            model="asker", messages=HELLO, stream=True,
            stream_options={"include_usage": True}, **settings,
        )
    )  # fmt: skip
    pieces, reason = streamed(chunks)
    assert "".join(pieces) == whole.choices[0].message.content
    assert reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_continued_prompt_is_streamed_with_its_spaces(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {
        "model": "asker", "prompt": "what about", "temperature": 2.0, "seed": 2, "max_tokens": 40,
    }  # fmt: skip
    whole = client.completions.create(**settings).choices[0]
    pieces, reason = streamed(client.completions.create(**settings, stream=True))
    assert ("".join(pieces), reason) == (whole.text, whole.finish_reason)
    assert len([piece for piece in pieces if piece]) > 2


def test_text_comes_while_the_device_still_writes(client: openai.OpenAI) -> None:
    # Some of 30 replies need several parts; each part with text is a piece.
    for seed in range(30):
        chunks = client.chat.completions.create(
            model="asker", messages=HELLO, stream=True, temperature=3.0, seed=seed, max_tokens=64,
            stream_options={"include_usage": True},
        )  # fmt: skip
        *text, last = list(chunks)
        assert last.usage is not None
        num_pieces = sum(bool(c.choices[0].delta.content) for c in text)
        assert num_pieces <= -(-last.usage.completion_tokens // PART_STEPS)
        if num_pieces > 3:
            return
    pytest.fail("no reply came in pieces")


@pytest.mark.slow
def test_many_streams_at_once_say_what_each_says_alone(asker: str, client: openai.OpenAI) -> None:
    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=asker, api_key="none", max_retries=0) as many:

            async def one(seed: int) -> str:
                stream = await many.chat.completions.create(
                    model="asker", messages=HELLO, stream=True, temperature=1.5, seed=seed,
                    max_tokens=24,
                )  # fmt: skip
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*map(one, range(20)))

    alone = [
        client.chat.completions.create(
            model="asker", messages=HELLO, temperature=1.5, seed=seed, max_tokens=24
        ).choices[0].message.content
        for seed in range(20)
    ]  # fmt: skip
    assert asyncio.run(all_at_once()) == alone


def test_a_request_that_is_refused_has_a_status_also_as_a_stream(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(
            model="asker", messages=HELLO, stream=True, max_tokens=10_000
        )
    assert error.value.code == "context_length_exceeded"


# ---- format -------------------------------------------------------------------------------------


def answer(messages: Messages) -> str:
    if messages[-1]["content"] == "?":
        raise UserError("that is no question; ask something.")
    return "Two\u2028words,  and more. "


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with BackgroundServer(make_app(FunctionEngine("world", answer))) as server:
        yield server.url


def test_the_events_are_those_of_openai(url: str) -> None:
    asked = {"messages": HELLO[:1], "stream": True, "stream_options": {"include_usage": True}}
    response, lines = events(url, asked)
    assert response.getheader("content-type") == "text/event-stream; charset=utf-8"
    assert lines[-1] == "[DONE]"
    opening, *pieces, end, usage = [json.loads(line) for line in lines[:-1]]
    assert opening["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
         "finish_reason": None}
    ]  # fmt: skip
    assert [piece["choices"][0]["delta"] for piece in pieces] == [
        {"content": text} for text in ("Two", "\u2028words,", "  and", " more.", " ")
    ]
    assert end["choices"][0]["delta"] == {}
    assert end["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
    assert all(chunk["usage"] is None for chunk in (opening, *pieces, end))
    assert {chunk["object"] for chunk in (opening, *pieces, end, usage)} == {
        "chat.completion.chunk"
    }
    # Without the option, no chunk has the key `usage`.
    without = events(url, {"messages": HELLO[:1], "stream": True})[1]
    assert len(without) == len(lines) - 1
    assert not any("usage" in line for line in without)


def test_an_error_before_the_first_piece_is_no_stream(url: str, send: Send) -> None:
    asked = {"messages": [{"role": "user", "content": "?"}], "stream": True}
    status, body = send(f"{url}/chat/completions", asked)
    assert (status, body["error"]["message"]) == (400, "that is no question; ask something.")


class Drip(Engine):
    """Sends a word at once and another when allowed to, or then fails."""

    def __init__(self, *, fails: bool = False) -> None:
        self.model, self.fails = "drip", fails
        self.began, self.left, self.may_go_on = (threading.Event() for _ in range(3))

    async def chat(
        self, messages: Messages, settings: Settings, say: Say = say_nothing
    ) -> Completion:
        say("one")
        self.began.set()
        try:
            while not self.may_go_on.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.left.set()
            raise
        if self.fails:
            raise KeyError("secret internals")
        say(" two")
        return Completion(text="one two", finish_reason="stop", num_prompt_tokens=1, num_tokens=2)

    async def complete(
        self,
        prompt: str | list[int],
        settings: Settings,
        say: Say = say_nothing,
        *,
        add_special_tokens: bool,
    ) -> Completion:
        raise NotImplementedError


def test_a_piece_is_sent_before_the_next_one_is_made() -> None:
    drip = Drip()
    with (
        BackgroundServer(make_app(drip)) as server,
        stock_client(server.url) as client,
    ):
        stream = client.chat.completions.create(model="drip", messages=HELLO, stream=True)
        assert next(stream).choices[0].delta.content == ""
        assert next(stream).choices[0].delta.content == "one"
        drip.may_go_on.set()
        assert streamed(stream) == ([" two", ""], "stop")


def test_a_client_that_leaves_a_stream_frees_its_work() -> None:
    drip = Drip()
    with BackgroundServer(make_app(drip)) as server:
        address = urlsplit(server.url)
        assert address.hostname is not None
        body = json.dumps({"messages": HELLO, "stream": True}).encode()
        with socket.create_connection((address.hostname, address.port or 0)) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            while b"one" not in connection.recv(4096):
                pass
            assert not drip.left.is_set()
        assert drip.left.wait(timeout=10)


def test_an_error_in_the_middle_is_the_last_event(caplog: pytest.LogCaptureFixture) -> None:
    drip = Drip(fails=True)
    drip.may_go_on.set()
    with BackgroundServer(make_app(drip)) as server:
        _, lines = events(server.url, {"messages": HELLO, "stream": True})
        assert json.loads(lines[-1])["error"]["message"].startswith("internal error")
        assert "[DONE]" not in lines
        assert "secret" not in "".join(lines)
        assert "secret internals" in caplog.text
        with stock_client(server.url) as client:
            stream = client.chat.completions.create(model="drip", messages=HELLO, stream=True)
            with pytest.raises(openai.APIError, match="internal error"):
                list(stream)


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_has_a_time(stream: bool, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "REQUEST_S", 0.3)
    drip = Drip()
    with BackgroundServer(make_app(drip)) as server:
        if stream:
            error = json.loads(events(server.url, {"messages": HELLO, "stream": True})[1][-1])
        else:
            status, error = send(f"{server.url}/chat/completions", {"messages": HELLO})
            assert status == 504
        assert error["error"]["code"] == "timeout"
        assert error["error"]["message"].startswith("the reply was not complete after 0.3 s;")
        assert drip.left.wait(timeout=10)


def test_a_stopping_server_ends_its_streams_with_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from parrot_jax.serve import background

    monkeypatch.setattr(background, "GRACE_S", 1)
    drip = Drip()
    seen: list[list[str]] = []
    with BackgroundServer(make_app(drip)) as server:
        asked = {"messages": HELLO, "stream": True}
        thread = threading.Thread(target=lambda: seen.append(events(server.url, asked)[1]))
        thread.start()
        assert drip.began.wait(timeout=10)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 10
    thread.join()
    assert json.loads(seen[0][-1])["error"]["message"] == "the server is stopping."
