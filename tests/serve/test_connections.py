"""Limits on the connections, time and memory of a client."""

import contextlib
import http.client
import json
import logging
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.serve import app, connections
from parrot_jax.serve.app import MAX_BODY_BYTES, make_app
from parrot_jax.serve.background import BackgroundServer
from parrot_jax.serve.engine import FunctionEngine

HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
)
HELLO = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    app = make_app(FunctionEngine("world", lambda messages: messages[-1]["content"]))
    with BackgroundServer(app) as server:
        parts = urlsplit(server.url)
        yield parts.hostname or "", parts.port or 0


def health(address: tuple[str, int]) -> int:
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.request("GET", "/health")
    with contextlib.closing(connection):
        return connection.getresponse().status


def num_connections(server: BackgroundServer) -> int:
    """Returns the number of open connections of the server."""
    return len(server._server.server_state.connections)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def send_until_cut(connection: socket.socket, data: bytes, *, pause_s: float = 0) -> int:
    """Sends until the server closes; returns the number of bytes sent."""
    sent = 0
    deadline = time.monotonic() + 30
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < deadline:
            connection.sendall(data)
            sent += len(data)
            time.sleep(pause_s)
        pytest.fail("it was never cut")
    return sent


def answer(connection: socket.socket) -> tuple[int, Any]:
    """Returns status and body of the response before the connection ends."""
    connection.settimeout(30)
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes the connection within 30 s."""
    connection.settimeout(30)
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(65536):
            pass
    return True


def test_a_head_has_a_time(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    with socket.create_connection(address) as silent, socket.create_connection(address) as slow:
        slow.sendall(HEAD)
        status, body = answer(slow)
        assert (status, body["error"]["type"]) == (408, "invalid_request_error")
        assert "the head of the request was not complete after 0.3 s" in body["error"]["message"]
        assert is_closed(slow)
        assert is_closed(silent)


def test_a_byte_now_and_then_gives_a_head_no_more_time(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
    with socket.create_connection(address) as first:
        first.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert send_until_cut(first, b"G", pause_s=0.02) < 1000


def test_a_body_has_a_time(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_S", 0.3)
    monkeypatch.setattr(connections, "LINGER_S", 0.3)
    with socket.create_connection(address) as slow:
        slow.sendall(HEAD + b"Content-Length: 9999\r\n\r\n{")
        status, body = answer(slow)
        assert status == 408
        assert "the body of the request was not complete after 0.3 s" in body["error"]["message"]
        assert is_closed(slow)


def test_a_client_that_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WRITE_S", 0.3)
    server = BackgroundServer(make_app(FunctionEngine("long", lambda _: "x" * 10_000_000)))
    with server:
        parts = urlsplit(server.url)
        with socket.create_connection((parts.hostname or "", parts.port or 0)) as deaf:
            deaf.sendall(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(HELLO), HELLO))
            wait_for(lambda: num_connections(server) == 1)
            wait_for(lambda: num_connections(server) == 0)


def test_the_body_that_is_too_large_is_read_on_for_a_while(address: tuple[str, int]) -> None:
    for framing in (b"Content-Length: %d\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
        size = 100 * 2**20
        with socket.create_connection(address) as connection:
            connection.sendall(HEAD + (framing % size if b"%" in framing else framing))
            data = b" " * 2**20
            for _ in range(100):
                connection.sendall(b"100000\r\n" + data + b"\r\n" if b"chunk" in framing else data)
            if b"chunk" in framing:
                connection.sendall(b"0\r\n\r\n")
            status, body = answer(connection)
        assert (status, body["error"]["message"][:22]) == (413, "the request is larger ")
        assert health(address) == 200


def test_a_body_without_end_is_cut(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_DRAIN_S", 0.5)
    monkeypatch.setattr(connections, "LINGER_S", 0.5)
    with socket.create_connection(address) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
        assert send_until_cut(connection, chunk) > MAX_BODY_BYTES
    assert health(address) == 200


def test_bodies_that_are_held_leave_room_for_small_ones(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MAX_BODIES_BYTES", 400_000)
    half = HEAD + b"Content-Length: 999999\r\n\r\n" + b" " * 150_000
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(address)) for _ in range(3)]
        for connection in held:
            connection.sendall(half)
        ((refused,), _, _) = select.select(held, [], [], 30)
        status, body = answer(refused)
        assert (status, body["error"]["code"]) == (503, "overloaded")
        small = stack.enter_context(socket.create_connection(address))
        small.sendall(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(HELLO), HELLO))
        assert answer(small)[0] == 200


def test_idle_connections_and_half_sent_requests_leave_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Above the limit, the oldest connections are closed."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 50)
    server = BackgroundServer(make_app(FunctionEngine("world", lambda _: "yes")))
    with server, contextlib.ExitStack() as stack:
        parts = urlsplit(server.url)
        address = parts.hostname or "", parts.port or 0
        halves = (b"", HEAD, HEAD + b"Content-Length: 9999\r\n\r\n{")
        for number in range(150):
            connection = stack.enter_context(socket.create_connection(address))
            with contextlib.suppress(OSError):
                connection.sendall(halves[number % 3])
            if number % 50 == 49:
                assert health(address) == 200


def test_the_limit_of_open_files_is_raised() -> None:
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
        with BackgroundServer(make_app(FunctionEngine("world", lambda _: "yes"))):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 4096
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (now, most))


def test_another_request_before_the_reply_does_not_hide_that_the_client_left() -> None:
    began, may_answer = threading.Event(), threading.Event()

    def reply(_: Any) -> str:
        began.set()
        may_answer.wait(timeout=30)
        return "yes"

    request = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(HELLO), HELLO)
    server = BackgroundServer(make_app(FunctionEngine("slow", reply)))
    with server:
        parts = urlsplit(server.url)
        address = parts.hostname or "", parts.port or 0
        with socket.create_connection(address) as connection:
            connection.sendall(request + request)
            assert began.wait(timeout=10)
            connection.sendall(request * 1000)
            assert num_connections(server) == 1
        wait_for(lambda: num_connections(server) == 0)
        may_answer.set()


HEAVY = {
    "messages": b'{"messages": ['
    + b'{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"},' * 20_000
    + b'{"role": "user", "content": "hi"}]}',
    "lists in lists": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "many lists": b'{"messages": [' + b"[],"
    * 1_300_000 + b"1]}",
    "a long number": b'{"messages": [], "seed": ' + b"9" * 4_000_000 + b"}",
    "keys of a message": b'{"messages": [{"role": "user", "content": "x",'
    + b",".join(b'"%d": 1' % number for number in range(200_000)) + b"}]}",
    "unknown keys": b"{" + b",".join(b'"%d": 1' % number for number in range(200_000)) + b"}",
    "one long key": b'{"' + b"k" * 4_000_000 + b'": 1}',
    "a text": b'{"messages": [{"role": "user", "content": "' + b"a " * 2_000_000 + b'"}]}',
    "ids": b'{"prompt": [' + b"1," * 2_000_000 + b"1]}",
}  # fmt: skip


@pytest.mark.parametrize("name", HEAVY)
def test_no_body_keeps_others_waiting(address: tuple[str, int], name: str) -> None:
    """Rejected with a short error, while the event loop stays responsive."""
    body = HEAVY[name]
    assert len(body) <= MAX_BODY_BYTES
    path = b"/v1/completions" if name == "ids" else b"/v1/chat/completions"
    head = HEAD.replace(b"/v1/chat/completions", path)
    with socket.create_connection(address) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        while True:
            assert health(address) == 200
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.recv(1, socket.MSG_PEEK)
                break
        status, answered = answer(connection)
    assert status in (400, 413)
    assert len(json.dumps(answered)) < 1000


@given(
    head=st.lists(
        st.sampled_from(
            [b"POST ", b"GET ", b"/v1/chat/completions", b" HTTP/1.1", b"\r\n", b"\0", b"\xff",
             b"Host: localhost", b"Content-Length: 5", b"Content-Length: -1", b":", b"{",
             b"Transfer-Encoding: chunked", b"Content-Type: application/json", b"5\r\n{}\r\n",
             b"Expect: 100-continue", b"Connection: upgrade\r\nUpgrade: websocket",
             b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
        ),
        max_size=14,
    )
)  # fmt: skip
def test_no_bytes_get_a_5xx(head: list[bytes], fuzzed: tuple[str, int]) -> None:
    with socket.create_connection(fuzzed) as connection:
        connection.sendall(b"".join(head))
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        connection.settimeout(30)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                said += data
    assert said == b"" or said[9:10] in (b"1", b"2", b"4"), said
    assert len(said) < 20_000


@given(
    fields=st.dictionaries(
        st.sampled_from(
            ["model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop", "stream",
             "stream_options", "n", "tools", "logit_bias", "response_format", "prompt", "x"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
            | st.just({"role": "user", "content": "hi"}),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "y"]), inner),
            max_leaves=6,
        ),
        max_size=4,
    )
)  # fmt: skip
def test_no_json_gets_a_5xx(fields: dict[str, Any], fuzzed: tuple[str, int]) -> None:
    body = json.dumps(fields).encode()
    for path in ("/v1/chat/completions", "/v1/completions"):
        connection = http.client.HTTPConnection(*fuzzed, timeout=30)
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        said = response.read()
        connection.close()
        assert response.status in (200, 400, 404), (fields, said)
        assert len(said) < 2000


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[tuple[str, int]]:
    engine = FunctionEngine("world", lambda messages: "yes")
    with BackgroundServer(make_app(engine)) as server:
        parts = urlsplit(server.url)
        yield parts.hostname or "", parts.port or 0


def test_no_secret_and_no_mark_of_a_client_is_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)

    def fails(_: Any) -> str:
        raise KeyError("a bug")

    with BackgroundServer(make_app(FunctionEngine("world", fails))) as server:
        parts = urlsplit(server.url)
        address = parts.hostname or "", parts.port or 0
        secret = b"Authorization: Bearer sk-secret\r\n"
        for request in (
            HEAD + secret + b"Content-Length: %d\r\n\r\n%s" % (len(HELLO), HELLO),
            HEAD + secret + b"Content-Length: 1\r\n\r\n{",
            b"BAD\x1b[2J " + secret + b"\r\n",
            HEAD + secret + b"Transfer-Encoding: chunked\r\n\r\nsk-secret\r\n",
        ):
            with socket.create_connection(address) as connection:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                is_closed(connection)
    out, err = capfd.readouterr()
    for text in (caplog.text, out, err):
        assert "sk-secret" not in text
        assert "\x1b" not in text
