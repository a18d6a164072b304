"""The client of one endpoint over real HTTP: the request, and the result of each fault."""

import asyncio
import base64
import contextlib
import json
import re
import urllib.parse
import zlib
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api import endpoint, faulty_server
from parrot_jax.api.endpoint import Endpoint, request_body
from parrot_jax.api.endpoint_config import EndpointConfig
from parrot_jax.api.faulty_server import LOSSES, ODDITIES, REFUSALS
from parrot_jax.api.replies import Outcome, Response, Usage
from parrot_jax.api.scripted_server import Scripted, ScriptedServer, converse
from parrot_jax.core.errors import UserError
from parrot_jax.core.open_files import allow_connections

MESSAGES = [{"role": "user", "content": "Hi, 세계"}]
KEY = "sk-0123456789"


def send(url: str, **settings: Any) -> Response:
    async def once() -> Response:
        config = EndpointConfig(base_url=url, model="m", **settings)
        async with Endpoint(config) as client:
            return await client.send(request_body(config, MESSAGES, seed=5))

    return asyncio.run(once())


def scripted(**what: Any) -> ScriptedServer:
    return ScriptedServer(lambda _: Scripted(**what))


def test_the_body_holds_what_the_config_names_and_no_more() -> None:
    with ScriptedServer() as server:
        response = send(server.url, temperature=0.7, max_tokens=9)
        plain = send(server.url)
    full, bare = server.bodies
    assert full == {
        "model": "m", "messages": MESSAGES, "temperature": 0.7, "max_tokens": 9, "seed": 5
    }  # fmt: skip
    assert bare == {"model": "m", "messages": MESSAGES, "seed": 5}
    assert response.reply == plain.reply == (Outcome.COMPLETE, converse(full).text, None)


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ({"status": 500, "text": "boom"}, "HTTP 500: boom"),
        ({"status": 429, "text": "slow down", "headers": {"retry-after": "3"}}, "slow down"),
        ({"body": "<html>"}, "HTTP 200, but the body has no"),
        ({"hangs_up": True}, "Not enough data"),
        ({"delay_s": 1.0}, "no reply within 0.2 s"),
    ],
)
def test_a_fault_is_a_response_that_says_why_and_is_not_retried(
    what: dict[str, Any], error: str
) -> None:
    with scripted(**what) as server:
        response = send(server.url, timeout_s=0.2 if "delay_s" in what else 30.0)
    assert response.reply == (Outcome.FAILED, "", None)
    assert error in (response.error or "")
    assert response.may_pass
    assert response.retry_after_s == (3 if "headers" in what else None)
    assert len(server.bodies) == 1


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PARROT_TEST_KEY", faulty_server.KEY)
    return "PARROT_TEST_KEY"


@pytest.mark.parametrize("fault", [*REFUSALS, *LOSSES])
def test_whatever_comes_back_is_a_failed_attempt_that_may_pass(
    fault: str, key: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    what = REFUSALS[fault] if fault in REFUSALS else Scripted(**{"text": "Hello.", **LOSSES[fault]})
    # Two faults never end. The others end at once, but may take longer on a busy machine.
    timeout_s = 1.0 if fault in ("time-out", "trickling bytes") else 30.0
    with ScriptedServer(lambda _: what) as server:
        response = send(server.url, api_key_env=key, timeout_s=timeout_s)
    assert response.reply == (Outcome.FAILED, "", None)
    assert response.may_pass
    assert response.error
    # A server error is not billed; an accepted request may be, however its reply was lost.
    assert response.may_be_billed == (fault in LOSSES)
    assert len(server.bodies) == 1
    # All of it is valid text for journal, terminal and logs, and the key appears nowhere.
    shown = f"{response!r} {caplog.text} {capfd.readouterr()}"
    shown.encode()
    (response.body or "").encode()
    assert faulty_server.KEY not in shown
    assert faulty_server.KEY[3:] not in str(response.body).replace("\\", "")
    assert len(response.body or "") <= 70_000


@pytest.mark.parametrize("fault", ODDITIES)
def test_an_odd_reply_is_a_reply(fault: str, key: str) -> None:
    with scripted(text="Olá, 세계", **ODDITIES[fault]) as server:
        response = send(server.url, api_key_env=key)
    assert response.reply == (Outcome.COMPLETE, "Olá, 세계", None)
    assert response.usage == (None if "usage" in ODDITIES[fault] else Usage(0, 2))


def test_a_body_without_end_is_cut_off_at_once() -> None:
    with scripted(body="[", endless=b" " * 65_536) as server:
        response = send(server.url, timeout_s=60.0)
    assert response.error == "the reply is longer than 4,194,304 bytes"
    assert response.body is None


def test_a_reply_in_gzip_is_read() -> None:
    body = json.dumps({"choices": [{"finish_reason": "stop", "message": {"content": "Yes."}}]})
    packed = {"body": zlib.compress(body.encode(), wbits=31)}
    with scripted(**packed, headers={"content-encoding": "gzip"}) as server:
        assert send(server.url).reply.text == "Yes."


def test_tls_with_a_server_that_speaks_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_CONNECT_S", 0.5)
    with ScriptedServer() as server:  # the server waits for the rest of a request
        response = send(server.url.replace("http://", "https://"))
    assert response.reply.outcome is Outcome.FAILED
    assert not response.may_be_billed


def test_a_handshake_that_takes_too_long_costs_nothing() -> None:
    with ScriptedServer() as server:
        response = send(server.url.replace("http://", "https://"), timeout_s=0.3)
    assert (response.error, response.may_be_billed) == ("no connection within 0.3 s", False)
    with ScriptedServer(delay_s=5.0) as server:
        response = send(server.url, timeout_s=0.3)
    assert (response.error, response.may_be_billed) == ("no reply within 0.3 s", True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int, key: str) -> None:
    with ScriptedServer() as other:
        to = f"{other.url}/chat/completions?key={faulty_server.KEY}"
        with scripted(status=status, headers={"location": to}) as server:
            response = send(server.url, api_key_env=key)
    assert other.bodies == []
    assert (response.reply.outcome, response.may_pass) == (Outcome.FAILED, False)
    where = f"{other.url}/chat/completions?key=[api key]"
    assert f"HTTP {status}: redirect to {where}, which is not followed" in str(response.error)


def test_nothing_is_sent_but_what_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORG_ID", "PROJECT_ID", "API_KEY", "WEBHOOK_SECRET", "ADMIN_KEY"):
        monkeypatch.setenv(f"OPENAI_{name}", f"secret-{name}")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-custom: secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/secret")
    with ScriptedServer() as server:
        assert send(server.url).status == 200
    (head,) = server.heads
    names = {line.partition(":")[0].lower() for line in head.split("\r\n")[1:] if line}
    assert "secret" not in head
    assert names == {
        "host", "accept", "accept-encoding", "connection", "content-length", "content-type",
        "user-agent",
    }  # fmt: skip


def test_netrc_names_no_password_for_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with ScriptedServer() as server:
        send(server.url)
    assert "authorization" not in server.heads[0].lower()


PROXIES = [
    ("ALL_PROXY", "socks5://me:secret@127.0.0.1:9", "names a socks5 proxy for api.example"),
    ("HTTP_PROXY", "ftp://127.0.0.1:9", "names a ftp proxy for api.example"),
    ("HTTP_PROXY", "http://", "names an address that cannot be read|names a http proxy"),
    ("HTTP_PROXY", "http://me:secret@host:port", "names a http proxy|cannot be read"),
]


@pytest.mark.parametrize(("name", "address", "message"), PROXIES)
def test_a_proxy_that_cannot_be_used_is_one_line_before_anything_is_sent(
    name: str, address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, address)
    config = EndpointConfig(base_url="http://api.example/v1", model="m")
    with pytest.raises(UserError, match=message) as error:
        Endpoint(config)
    assert "secret" not in str(error.value)
    # Local servers are called without a proxy, and so are hosts in NO_PROXY.
    with ScriptedServer() as server:
        assert send(server.url).status == 200
    monkeypatch.setenv("NO_PROXY", "api.example")
    Endpoint(config)


# Raised by the transport of `openai`:
@pytest.mark.filterwarnings("ignore:BasicAuth is deprecated", "ignore:The 'proxy_auth' parameter")
def test_a_proxy_that_is_down_is_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer() as server:
        address = server.url.removeprefix("http://").removesuffix("/v1")
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{address}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    response = send("https://api.example/v1")
    assert (response.reply.outcome, response.may_be_billed) == (Outcome.FAILED, False)
    assert "secret" not in repr(response)


def test_certificates_that_are_not_there_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(UserError, match="SSL_CERT_FILE"):
        Endpoint(EndpointConfig(base_url="https://api.example/v1", model="m"))


def test_the_limit_has_another_name_no_seed_is_sent_and_fields_are_added() -> None:
    with ScriptedServer() as server:
        send(
            server.url, max_tokens=9, max_tokens_field="max_completion_tokens", send_seed=False,
            extra_body={"reasoning_effort": "low"},
        )  # fmt: skip
    assert server.bodies == [
        {"model": "m", "messages": MESSAGES, "max_completion_tokens": 9, "reasoning_effort": "low"}
    ]


def test_nobody_listens() -> None:
    with ScriptedServer() as server:
        url = server.url
    response = send(url)
    assert response.status is None
    assert "Cannot connect to host" in (response.error or "")
    assert not response.may_be_billed


def test_what_the_headers_say() -> None:
    headers = {
        "retry-after-ms": "1500", "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s",
    }  # fmt: skip
    with scripted(text="Hi", headers=headers) as server:
        response = send(server.url)
    assert response.retry_after_s == 1.5
    assert response.request_limit == (60, 59, 1.0)
    assert response.token_limit is None
    assert response.model == "scripted"


def test_the_key_comes_from_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARROT_TEST_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    with ScriptedServer(key=KEY) as server:
        assert send(server.url, api_key_env="PARROT_TEST_KEY").status == 200
        # Without `api_key_env` no key is sent, whatever the environment has.
        response = send(server.url)
    assert response.error == "HTTP 401: Incorrect API key provided:"


def test_a_key_that_a_server_echoes_stands_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARROT_TEST_KEY", KEY)
    with ScriptedServer(key="another") as server:
        refused = send(server.url, api_key_env="PARROT_TEST_KEY")
    with scripted(text=f"your key is {KEY}") as server:
        said = send(server.url, api_key_env="PARROT_TEST_KEY")
    assert refused.error == "HTTP 401: Incorrect API key provided: [api key]"
    assert said.reply.text == "your key is [api key]"
    assert KEY not in repr(refused) + repr(said)


ESCAPED = "".join(f"\\u{ord(char):04X}" for char in KEY)
SAID = [
    KEY,
    f"{KEY[:6]}\n  {KEY[6:]}",
    ESCAPED,  # JSON inside JSON
    urllib.parse.quote(KEY, safe="").replace("-", "%2D"),
    KEY.replace("-", "&#45;"),
    KEY.replace("-", "&#x2D;"),
    base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    base64.b64encode(f"Authorization: Bearer {KEY}".encode()).decode(),
]


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_no_form_of_the_key_is_kept(
    said: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARROT_TEST_KEY", KEY)
    message = {"content": said, KEY: said}
    value = {"choices": [{"finish_reason": "stop", "message": message}], "model": said}
    body = json.dumps({**value, "error": {"message": said}}).replace("-", "\\u002d")
    with scripted(status=status, body=body) as server:
        response = send(server.url, api_key_env="PARROT_TEST_KEY")
    assert "[api key]" in (response.reply.text if status == 200 else response.error or "")
    assert said not in repr(response)
    assert KEY not in repr(response)
    kept = json.loads(response.body or "")
    assert "[api key]" in kept["model"]
    assert said not in repr(kept)


def test_a_key_in_the_config_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARROT_TEST_KEY", KEY)
    named = {"model": "m", "api_key_env": "PARROT_TEST_KEY"}
    for config in (
        EndpointConfig(base_url=f"http://host/{KEY}/v1", **named),
        EndpointConfig(base_url="http://host/v1", extra_body={"user": {"key": KEY}}, **named),
    ):
        with pytest.raises(UserError, match="the key of PARROT_TEST_KEY is in") as error:
            Endpoint(config)
        assert KEY not in str(error.value)


def test_a_key_that_is_missing_or_no_key_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EndpointConfig(base_url="http://host/v1", model="m", api_key_env="PARROT_TEST_KEY")
    monkeypatch.delenv("PARROT_TEST_KEY", raising=False)
    with pytest.raises(UserError, match="variable PARROT_TEST_KEY is not set"):
        Endpoint(config)
    monkeypatch.setenv("PARROT_TEST_KEY", "se cret\n")
    with pytest.raises(UserError, match="has spaces or non-ASCII characters") as error:
        Endpoint(config)
    assert "cret" not in str(error.value)


def test_the_scripted_server_says_the_same_to_the_same_request() -> None:
    with ScriptedServer() as server:
        first, second = send(server.url), send(server.url)
        other = send(server.url + "/../v2")
    assert first.body == second.body
    assert json.loads(first.body or "")["model"] == "scripted"
    assert other.status == 404


def reply_of(text: str) -> bytes:
    body = json.dumps({"choices": [{"finish_reason": "stop", "message": {"content": text}}]})
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nset-cookie: a={text}\r\n\r\n"
    return (head + body).encode()


def test_what_nobody_asked_for_is_no_reply_to_the_next_request_and_no_cookie_is_kept() -> None:
    heads: list[bytes] = []

    async def run() -> list[str]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    heads.append(await reader.readuntil(b"\r\n\r\n"))
                    length = re.search(rb"content-length: (\d+)", heads[-1], re.I)
                    assert length is not None
                    await reader.readexactly(int(length[1]))
                    writer.write(reply_of(f"answer-{len(heads)}"))
                    await writer.drain()
                    await asyncio.sleep(0.05)
                    writer.write(reply_of("of-nobody"))
                    await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            config = EndpointConfig(base_url=url, model="m")
            said = []
            async with Endpoint(config) as client:
                for _ in range(3):
                    response = await client.send(request_body(config, MESSAGES, seed=5))
                    said.append(response.reply.text)
                    await asyncio.sleep(0.3)
        return said

    assert asyncio.run(run()) == ["answer-1", "answer-2", "answer-3"]
    assert not any(b"cookie" in head.lower() for head in heads)


def test_a_date_that_no_calendar_has_loses_no_reply() -> None:
    headers = {"retry-after": "Fri, 31 Dec 99999999999999999999 00:00:00 GMT"}
    with scripted(text="Hi", headers=headers) as server:
        assert send(server.url).reply.text == "Hi"


def test_a_key_in_pieces_or_at_the_end_of_what_is_kept_stands_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARROT_TEST_KEY", KEY)
    parts = [{"type": "text", "text": part} for part in ("It is ", KEY[:6], KEY[6:])]
    body = json.dumps({"choices": [{"finish_reason": "stop", "message": {"content": parts}}]})
    with scripted(body=body) as server:
        response = send(server.url, api_key_env="PARROT_TEST_KEY")
    assert (response.reply.text, response.body) == ("It is [api key]", None)
    # If reading stops inside a key, its beginning is not kept.
    with scripted(
        status=400, body="e" * (endpoint.MAX_ERROR_BYTES - 5), endless=KEY.encode()
    ) as server:
        body = send(server.url, api_key_env="PARROT_TEST_KEY").body or ""
    assert endpoint.MAX_ERROR_BYTES - 4096 - len(KEY) < len(body)
    assert "sk-" not in body


def test_as_many_requests_are_in_flight_as_are_sent() -> None:
    """By default the client allows 1,000; further requests would time out while they wait."""
    count = 1100
    body = json.dumps({"choices": [{"finish_reason": "stop", "message": {"content": "Yes."}}]})
    reply = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n{body}"

    async def run() -> list[Response]:
        arrived = 0
        all_are_here = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal arrived
            await reader.readuntil(b"\r\n\r\n")
            arrived += 1
            if arrived == count:
                all_are_here.set()
            await all_are_here.wait()  # no reply before the last request has arrived
            writer.write(reply.encode())
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=2048)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            config = EndpointConfig(base_url=url, model="m", timeout_s=30.0)
            async with Endpoint(config) as client:
                request = request_body(config, MESSAGES, seed=5)
                responses = await asyncio.gather(*(client.send(request) for _ in range(count)))
            all_are_here.set()
        return responses

    allow_connections(2 * count, wanted_by="this test")
    assert {response.reply.outcome for response in asyncio.run(run())} == {Outcome.COMPLETE}
