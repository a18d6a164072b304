"""Headless Chromium for tests of pages, and a record of every request that a page makes."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
PHONE = {"width": 360, "height": 740}
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# A server that refuses, and one that was killed.
_EXPECTED = re.compile(r"status of 4|ERR_CONNECTION_(REFUSED|RESET)|ERR_EMPTY_RESPONSE")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; missing = a failure, never a skipped test."""
    path = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    assert path, "there is no Chromium; scripts/chromium.sh installs it"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh browser profile, without cookies."""
    with browser.new_context(viewport={"width": 1200, "height": 800}) as context:
        context.set_default_timeout(15_000)
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A tab. Fails if a page has requested anything from another host, or a script has failed."""
    page = context.new_page()
    hosts: set[str] = set()
    errors: list[str] = []
    context.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or ""))
    page.on("pageerror", lambda error: errors.append(str(error)))
    # The console also has violations of the content security policy.
    page.on(
        "console",
        lambda said: (
            errors.append(said.text)
            if said.type == "error" and not _EXPECTED.search(said.text)
            else None
        ),
    )
    yield page
    assert hosts <= {"127.0.0.1", "localhost", ""}
    assert errors == []


def screenshot(page: Page, name: str, *, full: bool = False) -> None:
    """Takes a picture; with UPDATE_SCREENSHOTS=1 it replaces the one in `docs/images`."""
    picture = page.screenshot(full_page=full, animations="disabled")
    if os.environ.get("UPDATE_SCREENSHOTS"):
        (IMAGES / f"{name}.png").write_bytes(picture)
    assert picture[:4] == b"\x89PNG"


def overflows(page: Page) -> bool:
    """Whether the page can be scrolled sideways."""
    return page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )


def link_of(line: str) -> str:
    """The link in a line that the server printed."""
    found = re.search(r"http://127\.0\.0\.1:\d+/\?token=[\w-]+", line)
    assert found, line
    return found[0]
