"""Requests of foreign web pages are rejected, also with DNS rebinding."""

import http.client
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from parrot_jax.serve.app import make_app
from parrot_jax.serve.background import BackgroundServer
from parrot_jax.serve.engine import FunctionEngine

BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}]})


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """The messages that reached the function."""
    return []


@pytest.fixture(scope="module")
def port(asked: list[str]) -> Iterator[int]:
    def reply(messages: list[dict[str, str]]) -> str:
        asked.append(messages[-1]["content"])
        return "yes"

    app = make_app(FunctionEngine("world", reply), ["models.example"])
    with BackgroundServer(app) as server:
        yield urlsplit(server.url).port or 0


def ask(
    port: int, headers: dict[str, str], method: str = "POST", path: str = "/v1/chat/completions"
) -> tuple[int, dict[str, str], str]:
    """Returns status, headers and body; omits empty headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Host": f"localhost:{port}", "Content-Type": "application/json"} | headers
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers.items():
        if value:
            connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(BODY)))
    connection.endheaders(BODY.encode())
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, body


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"},
        {"Host": "LOCALHOST.:80"},
        {"Host": "127.0.0.1:{port}"},
        {"Host": "127.3.2.1"},
        {"Host": "[::1]:{port}"},
        {"Host": "app.localhost:1"},
        {"Host": "Models.example:8000"},
        {"Content-Type": "application/json; charset=utf-7"},
        {"Content-Type": "Application/JSON"},
        {"Origin": "http://localhost:{port}", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Content-Encoding": "identity"},
    ],
)
def test_programs_and_own_pages_may_ask(port: int, headers: dict[str, str]) -> None:
    headers = {name: value.format(port=port) for name, value in headers.items()}
    assert ask(port, headers)[0] == 200


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        (
            {"Host": "attacker.example"},
            403,
            "this server does not accept the host 'attacker.example'",
        ),
        ({"Host": "attacker.example:{port}"}, 403, "add the host to --allowed-hosts"),
        ({"Host": "localhost.attacker.example"}, 403, "host 'localhost.attacker.example'"),
        ({"Host": "localhost@attacker.example"}, 403, "this server does not accept the host"),
        ({"Host": "10.0.0.1"}, 403, "this server does not accept the host '10.0.0.1'"),
        ({"Host": "localhost:80:80"}, 403, "this server does not accept the host"),
        ({"Host": "a" * 9000}, 403, "this server does not accept the host"),
        ({"Origin": "https://attacker.example"}, 403, "pages of 'https://attacker.example'"),
        ({"Origin": "http://localhost:1"}, 403, "pages of 'http://localhost:1'"),
        ({"Origin": "null"}, 403, "pages of 'null'"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "pages of other sites"),
        ({"Sec-Fetch-Site": "same-site"}, 403, "pages of other sites"),
        ({"Content-Type": "text/plain"}, 415, "Content-Type is 'text/plain'; it must be"),
        ({"Content-Type": "text/plain; application/json"}, 415, "it must be `application/json`"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "it must be"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415, "it must be"),
        ({"Content-Type": ""}, 415, "the header Content-Type is missing"),
        ({"Content-Encoding": "gzip"}, 415, "Content-Encoding is 'gzip'; send the body un"),
    ],
)
def test_others_are_refused_before_anything_is_done(
    port: int, asked: list[str], headers: dict[str, str], status: int, message: str
) -> None:
    before = len(asked)
    headers = {name: value.format(port=port) for name, value in headers.items()}
    seen, answer, body = ask(port, headers)
    assert seen == status
    error = json.loads(body)["error"]
    assert message in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(body) < 1000
    assert len(asked) == before
    assert not any(name.startswith("access-control") for name in answer)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/health"])
@pytest.mark.parametrize("origin", ["https://attacker.example", "http://localhost:{port}"])
def test_no_page_is_given_leave_to_ask(port: int, path: str, origin: str) -> None:
    headers = {
        "Origin": origin.format(port=port),
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    status, answer, _ = ask(port, headers, "OPTIONS", path)
    assert status in (403, 405)
    assert not any(name.startswith("access-control") for name in answer)


def test_every_path_is_guarded(port: int) -> None:
    for path in ("/health", "/v1/models", "/v1/models/world", "/elsewhere"):
        assert ask(port, {"Host": "attacker.example"}, "GET", path)[0] == 403


def test_a_server_for_all_addresses_is_asked_by_any_address_but_not_by_any_name() -> None:
    app = make_app(FunctionEngine("world", lambda _: "yes"), ["0.0.0.0", "asker"])
    with BackgroundServer(app) as server:
        port = urlsplit(server.url).port or 0
        for host, status in (
            ("192.168.1.7:8000", 200), ("[fe80::1]", 200), ("asker:8000", 200),
            ("localhost", 200), ("attacker.example", 403),
        ):  # fmt: skip
            assert ask(port, {"Host": host})[0] == status
