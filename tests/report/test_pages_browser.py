"""Pages that commands write, in Chromium: whole on any screen, without requests, text as text."""

import itertools
import random
from pathlib import Path

import pytest
from playwright.sync_api import Page

from parrot_jax.api.scripted_server import Scripted, ScriptedServer
from parrot_jax.askers.asking import Questions
from parrot_jax.askers.card import make_card
from parrot_jax.askers.perplexity import Loss
from parrot_jax.askers.reference import Reference, Said
from parrot_jax.askers.writing import write_card
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.run import collect
from parrot_jax.core.config import config_from_dict
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.writers import write_messages
from parrot_jax.runs.writing import write_report
from parrot_jax.world.facts import make_world
from parrot_jax.world.people import people_dialogues

from ..chromium import PHONE, browser, context, overflows, page, screenshot  # noqa: F401

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\x1b[31m \u202eevil"


@pytest.fixture(scope="module")
def people() -> list[Dialogue]:
    return list(people_dialogues(make_world("easy", 0), "people", 60))


def card(people: list[Dialogue], folder: Path) -> Path:
    """Two askers: one forgets some questions, one writes like an answerer."""
    reference = Reference(people, ["en"] * len(people), 10)
    dice = random.Random(0)
    said = reference.said(first_turn=False)
    good = [one._replace(text=None, ended=True) if dice.random() < 0.1 else one for one in said]
    answer = f"Certainly! It is a large place with old towns. {HOSTILE}"
    bad = [Said(one.place, answer) if dice.random() < 0.5 else one for one in said]
    asked = [
        Questions(name=name, said=some, first_turn=False, requests="")
        for name, some in (("parrot-ask", good), ("prompted", bad))
    ]
    losses = [
        Loss(number, turn, 10, 10 * (1 + 1 / turn) + number % 3)
        for number in range(len(people))
        for turn in range(2, 9)
    ]
    write_card(make_card(reference, asked, {"parrot-ask": losses}, seed=0), folder)
    return folder / "card.html"


def collection(people: list[Dialogue], folder: Path) -> Path:
    firsts = folder / "firsts.jsonl"
    write_messages(firsts, [Dialogue(turns=d.turns[:1], id=d.id) for d in people[:12]])
    numbers = itertools.count()

    def reply(body: dict) -> Scripted:
        is_answer = body["messages"][-1]["role"] == "user"
        others = people[next(numbers) % len(people)]
        text = others.turns[1 if is_answer else 0].text
        return Scripted(text=HOSTILE if len(body["messages"]) == 5 else text)

    with ScriptedServer(reply) as server:
        speaker = {"base_url": server.url, "model": "m"}
        config = {
            "out": str(folder / "collection"), "asker": speaker, "answerer": speaker,
            "max_turns": 4, "beginnings": [{"kind": "messages", "path": str(firsts)}],
            "stops": {"language_switch": None},
        }  # fmt: skip
        collect(config_from_dict(CollectConfig, config, where="test"))
    write_report([str(folder / "collection")], folder / "collection.html")
    return folder / "collection.html"


def training(trained_run: Path, folder: Path) -> Path:
    write_report([str(trained_run)], folder / "training.html")
    return folder / "training.html"


@pytest.mark.parametrize("name", ["asker-card", "report-collection", "report-training"])
def test_a_page_is_whole_on_any_screen(
    page: Page,  # noqa: F811
    name: str,
    people: list[Dialogue],
    trained_run: Path,
    tmp_path: Path,
) -> None:
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    path = {
        "asker-card": lambda: card(people, tmp_path),
        "report-collection": lambda: collection(people, tmp_path),
        "report-training": lambda: training(trained_run, tmp_path),
    }[name]()
    page.goto(path.as_uri())
    assert page.locator("h1").count() == 1
    assert page.locator("svg:visible").count() > 0
    # What an asker or a model wrote is text: no element, no script, no request for its image.
    assert page.locator("img, script").count() == 0
    if name != "report-training":
        assert page.get_by_text("<script>alert(2)</script>").first.is_visible()
        assert "\u202e" not in page.content()
    screenshot(page, name)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.set_viewport_size(PHONE)
    assert not overflows(page)
    assert page.locator("svg:visible").count() > 0
    assert asked == []
