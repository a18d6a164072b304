"""The pages in Chromium: search, filters, keys, growth, pairs, scores, hostile texts, phones."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import BrowserContext, Page, expect

from parrot_jax.api.scripted_server import Scripted, ScriptedServer, converse
from parrot_jax.collect.run import collect

from ..chromium import PHONE, overflows, screenshot
from .conftest import Server, row
from .test_jobs import FailsOnce, collection

pytestmark = pytest.mark.browser
Serve = Callable[..., Server]

QUESTIONS = (
    "How do I keep basil alive on a windowsill through the winter?",
    "Plan a weekend in Lisbon for two people who like museums.",
    "Why does bread dough rise faster on a warm day?",
    "Write a short letter to my landlord about the broken heating.",
    "What is the difference between a fjord and a bay?",
    "Explain compound interest with a small example.",
)
ANSWERS = (
    "Give it the brightest window you have, and water only when the top of the soil is dry.",
    "Start at the tile museum on Saturday, and keep Sunday for Belém.",
    "Yeast works faster when it is warm: it makes more gas in the same time.",
    "Dear landlord, the heating in my flat has been broken since Monday.",
    "A fjord was carved by a glacier and is deep; a bay is any wide inlet.",
    "100 at 5 % become 105 after a year, and 110.25 after two.",
)


def dialogues(count: int) -> str:
    """Lines with different lengths, stops, models and scores."""
    lines = []
    for n in range(count):
        texts = []
        for turn in range(1 + n % 4):
            place = (n + turn) % len(QUESTIONS)
            texts += [QUESTIONS[place], ANSWERS[place]]
        models = {"asker": ["parrot-ask"], "answerer": ["gpt-4" if n % 3 else "vicuna-13b"]}
        stop = ("max_turns", "thanks", "repeated_question")[n % 3]
        lines.append(row(n, *texts, collection={"stop": stop, "models": models}, score=n % 10 + 1))
    return "".join(lines)


def open_list(page: Page, server: Server, path: str = "/1") -> None:
    page.goto(server.link)
    expect(page.get_by_role("heading", level=1)).to_be_attached()
    if path != "/1":
        page.goto(server.url + path)


@pytest.fixture
def shown(serve: Serve, page: Page, tmp_path: Path) -> Server:
    path = tmp_path / "people.jsonl"
    path.write_text(dialogues(120) + "broken\n")
    server = serve(path.name)
    open_list(page, server)
    expect(page.locator(".counts")).to_contain_text("120 dialogues")
    return server


def rows(page: Page) -> list[int]:
    return [int(text) for text in page.locator(".rows .number").all_inner_texts()]


def expect_dialogue(page: Page, number: int) -> None:
    """Waits for a dialogue, and for the script that listens to keys."""
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Dialogue {number}")
    page.wait_for_load_state()


def test_search_filters_and_orders_are_in_the_address(shown: Server, page: Page) -> None:
    screenshot(page, "view-list")
    page.get_by_role("searchbox").fill('basil "top of the soil"')
    page.keyboard.press("Enter")
    expect(page.locator(".rows mark").first).to_have_text("basil")
    assert page.url.endswith("/1?q=basil+%22top+of+the+soil%22")
    before = int(page.locator(".counts strong").inner_text())
    page.get_by_text("Filters and order").click()
    screenshot(page, "view-filters")
    page.get_by_label("Stop reason").select_option("thanks")
    page.get_by_label("Questions: at least").fill("3")
    page.get_by_label("Order").select_option("-score")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".chip")).to_have_count(3)
    assert page.url.split("?")[1] == (
        "q=basil+%22top+of+the+soil%22&stop=thanks&min_turns=3&sort=-score"
    )
    found = int(page.locator(".counts strong").inner_text())
    assert 0 < found < before
    assert len(rows(page)) == found
    page.get_by_role("link", name="Remove the filter stop thanks").click()
    expect(page.locator(".chip")).to_have_count(2)
    page.get_by_role("searchbox").fill("nothing like this")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Nothing is found")).to_be_visible()
    page.get_by_text("Filters and order").click()
    page.get_by_role("link", name="Clear all").click()
    page.get_by_role("link", name="1 rejected row").click()
    expect(page.locator(".rows")).to_contain_text("people.jsonl:121")
    expect(page.locator(".rows")).to_contain_text("not valid JSON")


def test_walking_by_keys_alone(shown: Server, page: Page) -> None:
    keys = page.keyboard
    keys.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    keys.type("lisbon")
    keys.press("Enter")
    expect(page.locator(".rows mark").first).to_be_visible()
    page.wait_for_load_state()
    numbers = rows(page)
    assert len(numbers) == 40
    for key in ("j", "ArrowDown", "j", "k"):
        keys.press(key)
    expect(page.locator(f"#d{numbers[1]}")).to_be_focused()
    keys.press("Enter")
    expect_dialogue(page, numbers[1])
    screenshot(page, "view-dialogue")
    for key, number in (("j", numbers[2]), ("ArrowRight", numbers[3]), ("k", numbers[2])):
        keys.press(key)
        expect_dialogue(page, number)
    keys.press("u")
    expect(page.locator(f"#d{numbers[2]}")).to_be_focused()
    assert "q=lisbon" in page.url
    # Tab reaches everything, and the focus is visible.
    page.goto(f"{shown.url}/1/{numbers[2]}?q=lisbon")
    keys.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    seen = set()
    for _ in range(30):
        keys.press("Tab")
        seen.add(page.evaluate("document.activeElement.textContent.trim()"))
        assert page.evaluate(
            "document.activeElement === document.body"
            " || getComputedStyle(document.activeElement).outlineStyle !== 'none'"
            " || getComputedStyle(document.activeElement, '::after').outlineStyle !== 'none'"
        )
    assert {"List", "Previous", "Next", "1", "Metadata"} <= seen
    keys.press("Escape")
    expect(page.locator(f"#d{numbers[2]}")).to_be_focused()


def test_pages_of_the_list(shown: Server, page: Page) -> None:
    assert rows(page) == list(range(50))
    page.get_by_role("link", name="Later").click()
    expect(page.locator("#d50")).to_be_visible()
    page.get_by_role("link", name="Later").click()
    expect(page.locator("#d119")).to_be_visible()
    assert rows(page) == list(range(100, 120))
    page.get_by_role("link", name="Earlier").click()
    expect(page.locator("#d50")).to_be_visible()
    page.wait_for_load_state()
    assert rows(page) == list(range(50, 100))
    page.locator("#d99").focus()
    page.keyboard.press("j")  # beyond the last row
    expect(page.locator("#d100")).to_be_visible()


def test_a_file_that_grows(shown: Server, page: Page, tmp_path: Path) -> None:
    with (tmp_path / "people.jsonl").open("a") as file:
        file.write("".join(row(n, "a new question", "yes") for n in range(12)))
    link = page.locator("#news a")
    expect(link).to_have_text("12 new", timeout=20_000)
    screenshot(page, "view-news")
    link.click()
    expect(page.locator(".counts")).to_contain_text("132 dialogues")
    assert rows(page)[:2] == [131, 130]
    (tmp_path / "people.jsonl").write_text(row(0, "all is different"))
    expect(link).to_contain_text("The files have changed", timeout=20_000)
    link.click()
    expect(page.locator(".counts")).to_contain_text("1 dialogue")


def test_a_page_says_that_its_server_has_stopped(
    shown: Server, context: BrowserContext, page: Page
) -> None:
    # Another tab, whose console may have errors.
    tab = context.new_page()
    page.goto("about:blank")
    tab.goto(f"{shown.url}/1")
    shown.kill()
    expect(tab.locator("#news")).to_have_text("The server has stopped.", timeout=20_000)


class Slow(FailsOnce):
    """Answers the third turn only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()

    def __call__(self, body: dict[str, Any]) -> Scripted:
        late = len(body["messages"]) >= 3 and not self.may_go_on.is_set()
        if late:
            # The script runs in the server's only thread, so it must not wait here.
            return Scripted(status=503, text="later", headers={"Retry-After": "1"})
        return converse(body)


def test_a_collection_that_grows(serve: Serve, page: Page, tmp_path: Path) -> None:
    script = Slow()
    with ScriptedServer(script) as scripted:
        config = collection(
            tmp_path, scripted.url, max_turns=3,
            retries={"max_attempts": 200, "first_delay_s": 0.2, "max_delay_s": 0.2},
        )  # fmt: skip
        collecting = threading.Thread(target=collect, args=(config,))
        collecting.start()
        try:
            journal = tmp_path / "out" / "journal.sqlite"
            while not journal.exists():
                time.sleep(0.05)
            server = serve("out")
            open_list(page, server)
            expect(page.locator(".counts, #news")).to_contain_text(
                ["2 dialogues", ""], timeout=20_000
            )
            page.goto(f"{server.url}/1/0")
            expect(page.locator(".tag.flag").first).to_have_text("not ended")
            script.may_go_on.set()
            link = page.locator("#news a")
            expect(link).to_have_text("This dialogue has changed: show it", timeout=20_000)
        finally:
            script.may_go_on.set()
            collecting.join()
        page.wait_for_timeout(3000)
        page.goto(f"{server.url}/1/0")
        expect(page.locator(".turn")).to_have_count(6)
        expect(page.locator(".counts")).to_contain_text("max_turns")
        expect(page.locator(".turn .facts").nth(1)).to_contain_text("answerer: scripted")
        screenshot(page, "view-collection")


def test_pairs_side_by_side_and_stacked(serve: Serve, page: Page, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        json.dumps(
            {"prompt": QUESTIONS[2], "chosen": ANSWERS[2], "rejected": "Because it is bread."}
        )
        + "\n"
    )
    server = serve(path.name)
    open_list(page, server, "/1/0")
    sides = page.locator(".pair > section")
    left, right = (sides.nth(n).bounding_box() for n in (0, 1))
    assert left is not None
    assert right is not None
    assert left["y"] == right["y"]
    assert left["x"] < right["x"]
    expect(sides.nth(1)).to_contain_text("rejected answer")
    screenshot(page, "view-pair")
    page.set_viewport_size(PHONE)
    left, right = (sides.nth(n).bounding_box() for n in (0, 1))
    assert left is not None
    assert right is not None
    assert left["x"] == right["x"]
    assert left["y"] < right["y"]
    assert not overflows(page)


def test_scores_of_an_evaluation(serve: Serve, page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "judged"
    choice = {"index": 0, "turns": list(ANSWERS[:2])}
    for name, lines in {
        "question.jsonl": [{"question_id": 1, "category": "writing", "turns": list(QUESTIONS[:2])}],
        "model_answer/m.jsonl": [{"question_id": 1, "model_id": "m", "choices": [choice]}],
        "model_judgment/gpt-4_single.jsonl": [
            {"question_id": 1, "model": "m", "judge": ["gpt-4", "single-v1"], "turn": turn,
             "judgment": f"It is good. Rating: [[{score}]]", "score": score}
            for turn, score in ((1, 9), (2, 4))
        ],
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    server = serve("judged")
    open_list(page, server)
    expect(page.locator(".rows .score")).to_have_text("score 6.5")
    page.goto(f"{server.url}/1/0")
    assert [one.inner_text() for one in page.locator(".scores tbody .number").all()] == ["9", "4"]
    assert page.locator("meter").first.get_attribute("value") == "9.0"
    note = page.locator("details", has_text="gpt-4: 9")
    note.locator("summary").click()
    expect(note).to_contain_text("Rating: [[9]]")
    screenshot(page, "view-scores")


def test_live_text_of_a_config(
    serve: Serve,
    page: Page,
    tmp_path: Path,
    tiny_tokenizer: Path,
) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(row(0, "the river", "of Velora", "and its hills", "be brief"))
    values = {
        "data": {
            "sources": [{"kind": "messages", "path": "a.jsonl"}], "eval_fraction": 0.0,
            "tokenizer": str(tiny_tokenizer), "row_tokens": 128,
            "mask": {"loss_roles": ["user"], "skip_first_turn": True},
        }
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    server = serve("config.yaml")
    open_list(page, server, "/1/0")
    live = page.locator(".window .live")
    expect(live).to_have_text("and its hills</s>")
    colour = live.evaluate("element => getComputedStyle(element).color")
    assert colour == "rgb(19, 108, 52)"
    screenshot(page, "view-live-text")


HOSTILE = (
    "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<a href='javascript:1'>x</a> {{ 7 * 7 }} \x1b[31mred\x1b[0m \u202egnp.exe \x00 end"
)


def test_hostile_texts_are_text(serve: Serve, page: Page, tmp_path: Path) -> None:
    path = tmp_path / "<b>bad&.jsonl"
    path.write_text(
        row(0, HOSTILE, HOSTILE, collection={"stop": HOSTILE, "models": {"asker": [HOSTILE]}},
            **{"<i>key": HOSTILE})
        + json.dumps({"messages": [{"role": "<script>alert(1)</script>", "content": "x"}]}) + "\n"
    )  # fmt: skip
    server = serve(path.name)
    for address in ("/1", "/1?q=%3Cscript%3E", "/1/0?q=end", "/1/rejected"):
        open_list(page, server) if address == "/1" else page.goto(server.url + address)
        assert page.title() != "owned"
        assert page.locator("main script, main img, main b, main i").count() == 0
        if address == "/1/0?q=end":
            text = page.locator(".turn .text").first.inner_text()
            assert "<script>document.title = 'owned'</script><img src=x" in text
            assert "{{ 7 * 7 }} ␛[31mred␛[0m \ufffdgnp.exe ␀ end" in text
            assert page.locator(".turn .text").first.get_attribute("dir") == "auto"
            expect(page.locator("mark").first).to_have_text("end")
    page.goto(f"{server.url}/1/0")
    page.locator(".tag").first.click()  # a filter with this text
    expect(page.locator(".rows li")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_and_in_the_dark(
    shown: Server,
    page: Page,
    scheme: Any,
) -> None:
    page.emulate_media(color_scheme=scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    if scheme == "dark":
        page.goto(f"{shown.url}/1?q=basil&sort=-words")
        screenshot(page, "view-list-dark")
        page.goto(f"{shown.url}/1/3?q=basil")
        screenshot(page, "view-dialogue-dark")
    page.set_viewport_size(PHONE)
    for name, address in {
        "list": "/1?q=basil&stop=thanks", "dialogue": "/1/3?q=basil", "rejected": "/1/rejected",
    }.items():  # fmt: skip
        page.goto(shown.url + address)
        assert not overflows(page)
        if scheme == "light" and name != "rejected":
            screenshot(page, f"view-{name}-phone")


def test_a_sample_opens_without_a_server(
    shown: Server,
    page: Page,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from parrot_jax.cli import main

    page.goto("about:blank")
    shown.kill()
    monkeypatch.chdir(tmp_path)
    assert main(["view", "people.jsonl", "--html", "sample.html", "--sample", "5"]) == 0
    page.goto((tmp_path / "sample.html").as_uri())
    assert page.locator("section > h2").count() == 5
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.turn.user')).borderLeftWidth")
        == "4px"
    )
    screenshot(page, "view-sample")
    page.set_viewport_size(PHONE)
    assert not overflows(page)
    page.locator(".rows a").nth(2).click()
    assert page.url.endswith("#dialogue-3")


def test_two_paths_are_two_tabs(serve: Serve, page: Page, tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 5)):
        (tmp_path / f"{name}.jsonl").write_text(dialogues(count))
    server = serve("a.jsonl", "b.jsonl")
    open_list(page, server)
    expect(page.locator(".counts")).to_contain_text("3 dialogues")
    page.get_by_role("navigation", name="Paths").get_by_role("link", name="b").click()
    expect(page.locator(".counts")).to_contain_text("5 dialogues")
    expect(page.locator("[aria-current]")).to_have_text("b")
