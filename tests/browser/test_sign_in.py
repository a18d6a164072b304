"""Only a browser that opened a one-time link of the terminal sees a page; no other site does."""

import http.client
import json
from collections.abc import Iterator

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from parrot_jax.browser.pages import MAX_BODY_BYTES, make_pages_app, read_body
from parrot_jax.browser.sign_in import Links
from parrot_jax.serve.background import BackgroundServer, open_port


async def start(request: Request) -> Response:
    return JSONResponse({"path": request.url.path, "query": dict(request.query_params)})


async def keep(request: Request) -> Response:
    return JSONResponse(dict(await read_body(request)))


class Client:
    """Plain HTTP, with or without the cookie."""

    def __init__(self, port: int, links: Links, told: list[str]) -> None:
        self.port, self.links, self.told = port, links, told
        self.cookie = ""

    def ask(
        self, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie} | (headers or {})
        method = "GET" if body is None else "POST"
        connection.request(method, path, body, {k: v for k, v in sent.items() if v})
        response = connection.getresponse()
        found = response.status, response.headers, response.read()
        connection.close()
        return found

    def sign_in(self) -> None:
        status, headers, _ = self.ask(f"/{self.links.query}")
        assert (status, headers["location"]) == (303, "/")
        self.cookie = headers["set-cookie"].split(";")[0]


@pytest.fixture
def client() -> Iterator[Client]:
    told: list[str] = []
    links = Links(told.append)
    app = make_pages_app(
        [Route("/", start), Route("/a/{rest:path}", start), Route("/keep", keep, methods=["POST"])],
        links,
        "parrot_jax.browser",
    )
    with open_port() as listener:
        port = listener.getsockname()[1]
        with BackgroundServer(app, listener):
            yield Client(port, links, told)


@pytest.mark.parametrize("path", ["/", "/a/b", "/static/pages.css", "/?token=wrong", "/?token="])
def test_without_a_session_nothing_is_shown(client: Client, path: str) -> None:
    status, headers, body = client.ask(path)
    assert status == 403
    assert b"Open the link that the terminal shows" in body
    assert "set-cookie" not in headers


def test_a_link_works_once_and_the_next_one_is_announced(client: Client) -> None:
    first = client.links.query
    client.sign_in()
    assert client.told == [client.links.query] != [first]
    assert client.ask("/")[0] == 200
    other = Client(client.port, client.links, client.told)
    assert other.ask(f"/{first}")[0] == 403  # somebody who saw it in a history
    other.sign_in()
    assert other.ask("/")[0] == client.ask("/")[0] == 200


def test_cookies_of_programs_on_other_ports_do_no_harm(client: Client) -> None:
    client.sign_in()
    for other in ('state={"a": 1}', 'a="', "a b=c", "a", "=", "path=/", "a=\x80", "parrot-1=x"):
        assert client.ask("/", {"Cookie": f"{other}; {client.cookie}; {other}"})[0] == 200, other
        assert client.ask("/", {"Cookie": f"{other}; {client.cookie}x; {other}"})[0] == 403, other


def test_the_address_loses_the_token_and_keeps_the_rest(client: Client) -> None:
    query = client.links.query
    status, headers, _ = client.ask(f"/a/x%20y{query}&page=2")
    assert (status, headers["location"]) == (303, "/a/x%20y?page=2")
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=Strict" in headers["set-cookie"]
    client.cookie = headers["set-cookie"].split(";")[0]
    # Opened once more in the same browser, with a token that is used up.
    assert client.ask(f"/a/x{query}")[0] == 303
    assert json.loads(client.ask("/a/x%20y?page=2")[2]) == {
        "path": "/a/x y", "query": {"page": "2"},
    }  # fmt: skip


def test_a_link_cannot_lead_to_another_site(client: Client) -> None:
    _, headers, _ = client.ask(f"//evil.example/{client.links.query}")
    assert headers["location"] == "/evil.example/"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Origin": "https://attacker.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_neither_read_nor_write(
    client: Client, headers: dict[str, str]
) -> None:
    client.sign_in()
    assert client.ask("/", headers)[0] == 403
    typed = {"Content-Type": "application/json"}
    assert client.ask("/keep", typed | headers, b'{"a": 1}')[0] == 403
    assert client.ask("/keep", typed, b'{"a": 1}')[0] == 200


def test_a_form_of_any_site_cannot_write(client: Client) -> None:
    client.sign_in()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert client.ask("/keep", {"Content-Type": kind}, b'{"a": 1}')[0] == 415


def test_bodies_are_bounded_and_must_be_objects(client: Client) -> None:
    client.sign_in()
    typed = {"Content-Type": "application/json"}
    for body, status, said in (
        (b'{"a": "' + b"x" * MAX_BODY_BYTES + b'"}', 413, "larger than 262,144 bytes"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"[1]", 400, "not a JSON object"),
        (b"\xff", 400, "not JSON"),
    ):
        found, _, reply = client.ask("/keep", typed, body)
        assert (found, said in json.loads(reply)["error"]) == (status, True)


def test_every_reply_forbids_foreign_scripts_frames_and_copies(client: Client) -> None:
    client.sign_in()
    for path in ("/", "/static/pages.css", "/missing"):
        _, headers, _ = client.ask(path)
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"


def test_a_person_sees_a_page_and_a_script_sees_json(client: Client) -> None:
    client.sign_in()
    status, headers, body = client.ask("/<b>", {"Accept": "text/html"})
    assert (status, b"<b>" in body) == (404, False)
    assert headers["content-type"].startswith("text/html")
    assert json.loads(client.ask("/missing")[2]) == {"error": "Not Found"}
