"""One endpoint, over real HTTP: what is sent, and what each fault on the way becomes."""

import asyncio
import json
from typing import Any

import pytest

from parrot_jax.api.config import EndpointConfig
from parrot_jax.api.endpoint import Endpoint, request_body
from parrot_jax.api.replies import Outcome, Response
from parrot_jax.api.scripted_server import Scripted, ScriptedServer, converse
from parrot_jax.core.errors import UserError
from parrot_jax.core.open_files import allow_connections

MESSAGES = [{"role": "user", "content": "Hi, 세계"}]
KEY = "sk-0123456789"


def send(url: str, **settings: Any) -> Response:
    async def once() -> Response:
        config = EndpointConfig(base_url=url, model="m", **settings)
        async with Endpoint(config) as endpoint:
            return await endpoint.send(request_body(config, MESSAGES, seed=5))

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
        # Without a named variable none is sent, whatever the environment holds.
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


def test_a_key_that_is_missing_or_no_key_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EndpointConfig(base_url="http://host/v1", model="m", api_key_env="PARROT_TEST_KEY")
    monkeypatch.delenv("PARROT_TEST_KEY", raising=False)
    with pytest.raises(UserError, match="variable PARROT_TEST_KEY is not set"):
        Endpoint(config)
    monkeypatch.setenv("PARROT_TEST_KEY", "se cret\n")
    with pytest.raises(UserError, match="holds characters that no key has") as error:
        Endpoint(config)
    assert "cret" not in str(error.value)


def test_the_scripted_server_says_the_same_to_the_same_request() -> None:
    with ScriptedServer() as server:
        first, second = send(server.url), send(server.url)
        other = send(server.url + "/../v2")
    assert first.body == second.body
    assert json.loads(first.body or "")["model"] == "scripted"
    assert other.status == 404


def test_as_many_requests_are_in_flight_as_are_sent() -> None:
    """The client's own limit is 1,000; the time of all others would run while they wait."""
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
            await all_are_here.wait()  # no reply before the last request has come
            writer.write(reply.encode())
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=2048)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            config = EndpointConfig(base_url=url, model="m", timeout_s=30.0)
            async with Endpoint(config) as endpoint:
                request = request_body(config, MESSAGES, seed=5)
                responses = await asyncio.gather(*(endpoint.send(request) for _ in range(count)))
            all_are_here.set()
        return responses

    allow_connections(2 * count, wanted_by="this test")
    assert {response.reply.outcome for response in asyncio.run(run())} == {Outcome.COMPLETE}
