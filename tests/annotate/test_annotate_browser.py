"""People annotate in a real browser: by keys, with kills, hostile texts, and on a narrow screen."""

import http.server
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from parrot_jax.cli import main

from ..chromium import PHONE, overflows, screenshot
from .conftest import Start, items_of, short_dialogues, write, write_dialogues

pytestmark = pytest.mark.browser

PAUSE_MS = 450
"""A little more than the pause in which keys are ignored after an item appears."""

SEA = [
    "What should I see on a weekend in Lisbon?",
    "Start in Alfama, the oldest quarter. Take tram 28 early, before the queues, and "
    "walk down from the castle. On Sunday, visit Belém: the monastery, the tower, and the custard "
    "tarts.",
    "Is the tram worth it with two small kids?",
    "Yes, if you board at the first stop, Martim Moniz, before nine. Later it is too crowded for a "
    "pram. The funicular at Bica is shorter and more fun for children.",
    "and how do we get to the first stop from the airport",
]
HOSTILE = (
    '<script>document.title="owned"</script><img src=x onerror=document.title="owned">'
    "\x1b[31mred\x1b[0m \u202egnp.exe <b>bold</b> 'quoted' \x07"
)


def rows(out: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(out) as db:
        found = db.execute("SELECT annotator, item, value FROM verdicts ORDER BY id").fetchall()
    db.close()
    return found


def sign_in(page: Page, link: str, name: str) -> None:
    """By keyboard alone: the field for the name has the focus."""
    page.goto(link)
    expect(page.locator("#annotator")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    expect(page.locator(".marked").first).to_be_focused()


def press(page: Page, key: str, done: str) -> None:
    """Presses a key and waits for the progress."""
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press(key)
    expect(page.locator("#count")).to_have_text(done)


def test_thirty_questions_by_keys_with_a_reload_an_undo_and_a_kill(
    start: Start, page: Page, tmp_path: Path
) -> None:
    out = tmp_path / "a.sqlite"
    files = [short_dialogues(tmp_path / f"{name}.jsonl", 15) for name in ("own", "other")]
    arguments = [*files, "--out", out, "--port", 0]
    server = start(*arguments)
    sign_in(page, server.link, "Ada")
    keys = "hnhsh" * 6
    words = {"h": "human-like", "n": "not", "s": "skip"}
    for number, key in enumerate(keys[:10], 1):
        press(page, key, f"{number} of 30")
    page.reload()
    expect(page.locator("#count")).to_have_text("10 of 30")
    expect(page.locator(".item")).to_have_attribute("data-item", "11")
    press(page, "u", "9 of 30")
    expect(page.locator("#said")).to_have_text("Taken back: Human-like.")
    expect(page.locator(".item")).to_have_attribute("data-item", "10")
    press(page, "n", "10 of 30")
    # A key that is held down or pressed twice is one verdict.
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("h")
    page.keyboard.press("h")
    page.keyboard.down("h")
    page.keyboard.down("h")
    page.keyboard.up("h")
    expect(page.locator("#count")).to_have_text("11 of 30")
    page.wait_for_timeout(PAUSE_MS)
    expect(page.locator("#count")).to_have_text("11 of 30")
    server.kill()
    page.keyboard.press("n")
    expect(page.locator("#problem")).to_contain_text("Not saved: the server does not answer")
    expect(page.locator("[data-value=not]")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#count")).to_have_text("11 of 30")
    screenshot(page, "annotate-unsaved")
    assert len(rows(out)) == 13  # 10, an undo, and two more
    again = start(*[*arguments[:-1], server.port])
    page.locator("#retry").click()
    expect(page.locator("#problem")).to_contain_text("open its new link in this browser")
    other = page.context.new_page()
    other.goto(again.link)
    other.close()
    page.locator("#retry").click()
    expect(page.locator("#problem")).to_have_text("")
    expect(page.locator("#count")).to_have_text("12 of 30")
    for number, key in enumerate(keys[12:], 13):
        press(page, key, f"{number} of 30")
    expect(page.locator(".item h2")).to_have_text("Nothing is left for you")
    expect(page.locator("[data-value=not]")).to_be_disabled()
    given = [words[key] for key in keys]
    given[9:12] = ["not", "human-like", "not"]
    kept: dict[int, str] = {}
    for _, item, value in rows(out):
        kept[item] = value  # a row without a value takes back the one before
    assert [kept[item] for item in range(1, 31)] == given


def test_two_annotators_and_two_tabs(start: Start, page: Page, tmp_path: Path) -> None:
    out = tmp_path / "a.sqlite"
    server = start(short_dialogues(tmp_path / "own.jsonl", 4), "--out", out)
    sign_in(page, server.link, "Ada")
    press(page, "h", "1 of 4")
    tab = page.context.new_page()
    tab.goto(page.url)
    press(tab, "n", "2 of 4")
    # The first tab still shows item 2, which is judged by now.
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("h")
    expect(page.locator("#problem")).to_contain_text("this question has the verdict “not” already")
    expect(page.locator(".item")).to_have_attribute("data-item", "3")
    page.go_back()
    page.go_forward()
    expect(page.locator(".item")).to_have_attribute("data-item", "3")
    tab.goto(f"http://127.0.0.1:{server.port}/")
    expect(tab.locator(".people li")).to_contain_text("2 of 4")
    expect(tab.locator("#annotator")).to_be_focused()
    tab.keyboard.type("Grace")
    tab.keyboard.press("Enter")
    expect(tab.locator("#count")).to_have_text("0 of 4")
    press(tab, "n", "1 of 4")
    tab.close()
    assert rows(out) == [
        ("Ada", 1, "human-like"), ("Ada", 2, "not"), ("Grace", 1, "not"),
    ]  # fmt: skip


def test_texts_of_dialogues_are_shown_as_text(start: Start, page: Page, tmp_path: Path) -> None:
    hostile = write_dialogues(tmp_path / "d.jsonl", [[HOSTILE, HOSTILE, f"? {HOSTILE}"]])
    server = start(hostile, "--out", tmp_path / "a.sqlite")
    sign_in(page, server.link, "<b>Ada</b>")
    for text in page.locator(".text").all_text_contents():
        assert HOSTILE[:70] in text
        assert "␛[31mred␛[0m \ufffdgnp.exe <b>bold</b>" in text
        assert text.endswith("␇")
    assert page.locator(".text *").count() == 0
    assert "owned" not in page.title()
    press(page, "h", "1 of 1")  # the next part of the page comes by the script
    page.keyboard.press("Tab")
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("u")
    expect(page.locator(".marked .text")).to_contain_text("? <script>")
    assert page.locator(".text *").count() == 0
    assert "owned" not in page.title()
    for element in page.locator(".text").all():
        assert element.get_attribute("dir") == "auto"


def test_buttons_can_be_reached_and_pressed_by_keyboard_alone(
    start: Start, page: Page, tmp_path: Path
) -> None:
    server = start(short_dialogues(tmp_path / "own.jsonl", 2), "--out", tmp_path / "a.sqlite")
    sign_in(page, server.link, "Ada")
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    expect(focused).to_contain_text("Human-like")
    assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    press(page, "Enter", "1 of 2")
    expect(page.locator("#said")).to_have_text("Saved: Not human-like.")
    assert page.locator(":focus").evaluate("e => e.classList.contains('marked')")
    names = page.locator("button:visible").evaluate_all("all => all.map(e => e.ariaKeyShortcuts)")
    assert names == ["h", "n", "s", "u"]


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_pictures_of_all_pages(
    look: str,
    start: Start,
    page: Page,
    tmp_path: Path,
) -> None:
    page.emulate_media(color_scheme="dark" if look == "dark" else "light")
    if look == "phone":
        page.set_viewport_size(PHONE)  # pyright: ignore[reportArgumentType]
    dialogues = write_dialogues(tmp_path / "d.jsonl", [SEA[: 2 * n + 3] for n in (1, 1)])
    server = start(dialogues, "--out", tmp_path / "a.sqlite", "--per-dialogue", 2)
    page.goto(server.link)
    expect(page.locator("#annotator")).to_be_focused()
    page.keyboard.type("Ada")
    screenshot(page, f"annotate-start-{look}")
    assert not overflows(page)
    page.keyboard.press("Enter")
    expect(page.locator(".marked")).to_be_focused()
    press(page, "h", "1 of 2")
    screenshot(page, f"annotate-question-{look}")
    assert not overflows(page)
    answers = [
        write_dialogues(tmp_path / f"{name}.jsonl", [[SEA[0], text, SEA[2], text + " " + SEA[3]]])
        for name, text in (("m", SEA[1]), ("n", "Lisbon has many sights, such as the castle."))
    ]
    for task in ("grade", "compare"):
        other = start(*answers, "--task", task, "--out", tmp_path / f"{task}.sqlite")
        sign_in(page, other.link, "Ada")
        screenshot(page, f"annotate-{task}-{look}")
        assert not overflows(page)


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_the_report_is_a_page_that_loads_nothing(look: str, page: Page, tmp_path: Path) -> None:
    items = items_of(*[("parrot_ask",)] * 16, *[("self_chat",)] * 16)
    verdicts = {"Ada": "hhhhhhnhhhhhshhn" + "nnhnnhnnnhnnnnnh"}
    verdicts["Grace"] = "hhhhhhnhhnhhhhhn" + "nnhnnnnnhhnnnnhn"
    verdicts["Lin"] = "hhnhhhnhhhhhhhhh" + "nnhnnhnnnhhsn..."
    path = write(tmp_path / "a.sqlite", "human-like", items, verdicts)
    assert main(["annotate", "report", str(path), "--out", str(tmp_path / "report.html")]) == 0
    page.emulate_media(color_scheme="dark" if look == "dark" else "light")
    if look == "phone":
        page.set_viewport_size(PHONE)  # pyright: ignore[reportArgumentType]
    page.goto((tmp_path / "report.html").as_uri())
    screenshot(page, f"annotate-report-{look}", full=True)
    assert not overflows(page)


def test_review_in_the_browser_writes_what_the_terminal_would(
    start: Start, page: Page, built: Path
) -> None:
    server = start(built, "--task", "review")
    sign_in(page, server.link, "Ada")
    expect(page.locator(".note")).to_contain_text("Dialogue 81 (math), question 2, by ask.")
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("e")
    expect(page.locator("#text")).to_have_value("Q2 of 81?")
    screenshot(page, "annotate-review")
    page.keyboard.press("Escape")
    expect(page.locator("#edit")).to_be_hidden()
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("e")
    page.keyboard.press("Control+a")
    page.keyboard.type(" ")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#problem")).to_have_text(
        "Not saved: an edit needs a text; type another one."
    )
    page.locator("#text").focus()
    page.keyboard.type("Why that?")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#said")).to_have_text("Saved: Edit.")
    assert '"Why that?"' in built.read_text()
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("u")
    expect(page.locator(".marked .text")).to_have_text("Q2 of 81?")
    assert '"Why that?"' not in built.read_text()


ATTACK = """<!DOCTYPE html><iframe id=frame src="http://127.0.0.1:{port}/"></iframe>
<form id=form method=post enctype="text/plain" target="other"
action="http://127.0.0.1:{port}/verdict">
<input name='{{"annotator": "Ada", "item": "1", "value": "not", "text": "' value='"}}'></form>
<iframe name="other"></iframe>
<script>
const body = JSON.stringify({{annotator: "Ada", item: "1", value: "not"}});
const to = "http://127.0.0.1:{port}/";
const json = {{"Content-Type": "application/json"}};
const all = {{credentials: "include"}};
const tries = [
  fetch(to + "judge?annotator=Ada", all).then(reply => reply.text()),
  fetch(to + "judge?annotator=Ada", {{...all, mode: "no-cors"}}).then(reply => reply.text()),
  fetch(to + "verdict", {{...all, method: "POST", headers: json, body}}).then(r => r.text()),
  fetch(to + "verdict", {{...all, method: "POST", mode: "no-cors", body}}).then(r => r.text()),
];
document.getElementById("form").submit();
Promise.allSettled(tries).then(found => {{
  document.title = "read: " + found.map(one => one.value || "").join("");
}});
</script>"""
"""A page of another port of this machine, to which the browser sends the same cookies."""


def test_a_page_of_another_site_neither_reads_nor_writes(
    start: Start, page: Page, tmp_path: Path
) -> None:
    out = tmp_path / "a.sqlite"
    server = start(short_dialogues(tmp_path / "own.jsonl", 2), "--out", out)
    sign_in(page, server.link, "Ada")
    assert page.evaluate("document.cookie") == ""  # scripts cannot read the session

    class Foreign(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(ATTACK.format(port=server.port).encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Foreign) as foreign:
        threading.Thread(target=foreign.serve_forever, daemon=True).start()
        tab = page.context.new_page()
        tab.goto(f"http://127.0.0.1:{foreign.server_port}/")
        expect(tab).to_have_title("read: ")
        tab.wait_for_load_state("networkidle")
        for frame in tab.frames[1:]:
            assert "Your name" not in frame.content()
        tab.close()
        foreign.shutdown()
    assert rows(out) == []
    press(page, "h", "1 of 2")
