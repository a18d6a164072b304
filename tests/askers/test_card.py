"""`parrot evaluate asker` over real HTTP, on askers whose mistakes are known."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parrot_jax.api.scripted_server import Scripted, ScriptedServer
from parrot_jax.cli import main
from parrot_jax.data.prepare import read_split
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.writers import write_messages
from parrot_jax.train.perplexity import TURN_NLL_DTYPE, summarise
from parrot_jax.train.run_folder import RunFolder

from .conftest import END, Script, as_people, dice

Endpoint = Callable[..., Path]


def evaluate(out: Path, *askers: Path, reference: Path, options: tuple[str, ...] = ()) -> int:
    given = ["--reference", str(reference), "--out", str(out), *options]
    return main(["evaluate", "asker", *map(str, askers), *given])


def card_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "card.json").read_text())


def value(column: dict[str, Any], key: str) -> float:
    return column["measures"][key]["value"]


def mistaken(people: list[Dialogue], shares: dict[str, float]) -> Script:
    """Askers by model name: each says what the person said, but answers at a share of turns."""
    find = as_people(people)

    def reply(body: dict[str, Any]) -> Scripted:
        said, share = find(body["messages"]), shares[body["model"]]
        # The same places for all: with a higher share, there are more.
        if said != END and dice(body["messages"]) < share:
            said = f"Certainly! {people[len(said) % len(people)].turns[1].text}"
        return Scripted(text=said)

    return reply


@pytest.mark.nightly
def test_askers_with_more_bad_turns_rank_lower(
    people: list[Dialogue], reference: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    shares = {"none": 0.0, "tenth": 0.1, "third": 0.3, "most": 0.6}
    with ScriptedServer(mistaken(people, shares)) as server:
        files = [endpoint(name, server.url, end_token=END) for name in shares]
        assert evaluate(tmp_path / "card", *files, reference=reference) == 0
    card = card_of(tmp_path / "card")
    askers = dict(zip(shares, card["askers"], strict=True))
    for key in ("naturalness_auc", "answer_like", "role_drift"):
        values = [value(askers[name], key) for name in shares]
        assert values == sorted(values), key
        assert values[-1] - values[0] > 0.2, key
    # The perfect asker says what people say: nothing can tell them apart.
    assert value(askers["none"], "naturalness_auc") == 0.5
    for key in ("words", "repeats", "self_rouge", "topic_shifts", "intent_overlap"):
        assert value(askers["none"], key) == value(card["people"], key)
    later = [(d, turn) for d in people for turn in range(2, min(d.num_rounds, 10) + 1)]
    for name, share in shares.items():
        bad = sum(dice(dialogue.messages()[: 2 * turn - 1]) < share for dialogue, turn in later)
        assert askers[name]["questions"] == len(later)
        assert math.isclose(value(askers[name], "answer_like"), bad / len(later))


def test_ends_are_right_where_people_ended(
    people: list[Dialogue], reference: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    find = as_people(people)

    def reply(body: dict[str, Any]) -> Scripted:
        """Always ends where people do, and where it is the third question."""
        said = find(body["messages"])
        return Scripted(text="" if said == END or len(body["messages"]) == 5 else said)

    with ScriptedServer(reply) as server:
        assert evaluate(tmp_path / "card", endpoint("a", server.url), reference=reference) == 0
    (asker,) = card_of(tmp_path / "card")["askers"]
    ended = sum(dialogue.num_rounds < 10 for dialogue in people)
    wrong = sum(dialogue.num_rounds >= 3 for dialogue in people)
    assert value(asker, "end_precision") == ended / (ended + wrong)
    assert value(asker, "end_recall") == 1
    assert value(asker, "end_f1") == 2 * ended / (2 * ended + wrong)
    shares = {one["turn"]: one["share"] for one in asker["lasting"]}
    assert shares[2] == sum(dialogue.num_rounds >= 2 for dialogue in people) / len(people)
    assert shares[3] == 0


def test_replies_without_a_question_are_counted_and_never_measured(
    people: list[Dialogue],
    reference: Path,
    endpoint: Endpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    find = as_people(people)

    def reply(body: dict[str, Any]) -> Scripted:
        chance = dice("fault", body["messages"])
        said = find(body["messages"])
        if chance < 0.1:
            return Scripted(text="I", finish_reason="content_filter")
        if chance < 0.2:
            return Scripted(text="<think>What would they ask?</think>")
        if chance < 0.3:
            return Scripted(status=400, text="too long", code="context_length_exceeded")
        if chance < 0.4:
            return Scripted(text=said, finish_reason="length")
        return Scripted(text=said)

    with ScriptedServer(reply) as server:
        file = endpoint("a", server.url, end_token=END, max_tokens=64)
        assert evaluate(tmp_path / "card", file, reference=reference) == 0
    (asker,) = card_of(tmp_path / "card")["askers"]
    assert sorted(asker["missing"]) == ["context_full", "filtered", "only reasoning"]
    rows = [
        json.loads(line)
        for line in (tmp_path / "card" / "a" / "questions.jsonl").read_text().splitlines()
    ]
    assert len(rows) == asker["questions"] + asker["ended"] + sum(asker["missing"].values())
    assert asker["cut"] == sum(row["cut"] for row in rows) > 0
    assert asker["measures"]["words"]["num"] == asker["questions"]
    assert re.search(r"missing +why", capsys.readouterr().out)


def test_formats_of_other_askers(
    people: list[Dialogue], endpoint: Endpoint, tmp_path: Path
) -> None:
    """UserLM and SFTUser get the intent as system message; a chat model gets a prompt."""
    reference = tmp_path / "two.jsonl"
    with reference.open("w") as file:
        for number, dialogue in enumerate(people[:2]):
            row = {"id": dialogue.id, "messages": dialogue.messages()[1:3]}
            file.write(json.dumps(row | ({"intent": "Find Oria."} if number else {})) + "\n")
    prompt = tmp_path / "prompt.jinja"
    prompt.write_text("You asked {{ first_question }} Ask on.")
    with ScriptedServer(lambda _: Scripted(text=f"And then? {END}")) as server:
        files = [
            endpoint("userlm", server.url, intent=True, end_token=END, first_turn=True),
            endpoint("prompted", server.url, prompt=str(prompt)),
        ]
        assert evaluate(tmp_path / "card", *files, reference=reference) == 0
        bodies = {"userlm": [], "prompted": []}
        for body in server.bodies:
            bodies[body["model"]].append([(m["role"], m["content"]) for m in body["messages"]])
    firsts = [dialogue.turns[0].text for dialogue in people[:2]]
    answers = [dialogue.turns[1].text for dialogue in people[:2]]
    intents = [firsts[0], "Find Oria."]
    assert sorted(bodies["userlm"]) == sorted(
        [("system", intent), *history]
        for intent, first, answer in zip(intents, firsts, answers, strict=True)
        for history in ([], [("user", first), ("assistant", answer)])
    )
    assert sorted(bodies["prompted"]) == sorted(
        [("user", first), ("assistant", answer), ("user", f"You asked {first} Ask on.")]
        for first, answer in zip(firsts, answers, strict=True)
    )
    userlm, prompted = card_of(tmp_path / "card")["askers"]
    assert (userlm["ended"], userlm["questions"]) == (4, 0)  # the text before the token is no turn
    assert (prompted["ended"], prompted["questions"]) == (0, 2)


@pytest.mark.slow
def test_a_folder_with_another_askers_questions_is_refused(
    people: list[Dialogue],
    reference: Path,
    endpoint: Endpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ScriptedServer(mistaken(people, {"a": 0.0})) as server:
        file = endpoint("a", server.url, end_token=END)
        assert evaluate(tmp_path / "card", file, reference=reference) == 0
        asked = len(server.bodies)
        before = (tmp_path / "card" / "card.json").read_bytes()
        assert evaluate(tmp_path / "card", file, reference=reference) == 0  # asks nothing again
        assert len(server.bodies) == asked
        assert (tmp_path / "card" / "card.json").read_bytes() == before
        capsys.readouterr()
        file = endpoint("a", server.url, end_token=END, temperature=0.5)
        assert evaluate(tmp_path / "card", file, reference=reference) == 2
    assert "another asker or other settings (temperature: None -> 0.5)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_folder_is_served_and_its_perplexity_is_that_of_training(
    trained_run: Path, tmp_path: Path
) -> None:
    held_out = tmp_path / "held_out.jsonl"
    write_messages(held_out, read_split(RunFolder(trained_run).load_config().data, "eval"))
    out = tmp_path / "card"
    options = ("--max-tokens", "16", "--sample", "null", "--max-turns", "100")
    assert evaluate(out, trained_run, reference=held_out, options=options) == 0
    (asker,) = card_of(out)["askers"]
    last = sorted((trained_run / "results").glob("eval-*.npy"))[-1]
    expected = summarise(np.load(last).astype(TURN_NLL_DTYPE))
    assert asker["perplexity"]["later"]["value"] == pytest.approx(expected["user_ppl"], rel=1e-5)
    assert asker["perplexity"]["2"]["value"] == pytest.approx(
        expected["user_ppl_by_turn"][1], rel=1e-5
    )
    page = (out / "card.html").read_text()
    assert "Report card of an asker" in page
    assert "Perplexity" in page


def test_people_are_measured_at_the_places_of_askers_without_a_first_turn(
    people: list[Dialogue], reference: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Beside an asker of first questions, which are long here, the others stay as they were."""
    find = as_people(people)

    def reply(body: dict[str, Any]) -> Scripted:
        first = len(body["messages"]) == 1
        return Scripted(text="Please tell me about Oria. " * 9 if first else find(body["messages"]))

    columns = []
    with ScriptedServer(reply) as server:
        later = endpoint("later", server.url, end_token=END)
        both = endpoint("both", server.url, end_token=END, first_turn=True)
        for number, files in enumerate(([later], [later, both])):
            out = tmp_path / f"card{number}"
            assert evaluate(out, *files, reference=reference, options=("--sample", "4")) == 0
            columns.append([*card_of(out)["askers"], card_of(out)["people"]])
    expected = columns[0][0]["words_quantiles"]
    assert [one["words_quantiles"] for some in columns for one in some] == [expected] * 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sample", "1"), "sample is 1; it must be at least 2"),
        (("--max-turns", "1"), "max_turns is 1; it must be at least 2"),
        (("--temperature", "-1"), "temperature is -1.0"),
    ],
)
def test_wrong_options(
    options: tuple[str, ...], said: str, reference: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert evaluate(tmp_path / "c", tmp_path, reference=reference, options=options) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("askers", "said"),
    [
        (["people.yaml"], "people.yaml would have the name of the column people; rename it"),
        ([".a.yaml", "a.yaml"], "would share the folder a; rename one of them"),
        (["p/q/a.yaml", "r/q/a.yaml", "p-q/a.yaml"], "would share the folder p-q-a"),
    ],
)
def test_names_that_mean_two_things(
    askers: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path / "c", *map(Path, askers), reference=tmp_path / "none.jsonl") == 2
    assert said in capsys.readouterr().err
