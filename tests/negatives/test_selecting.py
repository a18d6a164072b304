"""`parrot negatives select` over real HTTP: rules, judge and measurement."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from parrot_jax.api.scripted_server import Scripted, ScriptedServer
from parrot_jax.cli import main

from .conftest import WriteConfig, WriteRivers, answer, read


def select(config: Path, *options: str) -> int:
    return main(["negatives", "select", str(config), *options])


def rules_config(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "rules.yaml"
    source = {"kind": "messages", "path": str(tmp_path / "dialogues.jsonl")}
    path.write_text(yaml.safe_dump({"out": str(tmp_path / "out"), "sources": [source]} | changes))
    return path


def test_rules_select_without_any_endpoint_and_count_the_rest(
    write_rivers: WriteRivers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rivers(3)
    with open(path, "a") as file:
        file.write("no JSON\n")
        for id_, last in (("r0", "Why is it?"), ("u", None), ("x", "I'm sorry, but I can't help.")):
            turns = ["Hi", "Hello", "And its delta?", last or "It ends there."]
            messages = [
                {"role": ("user", "assistant")[n % 2], "content": text}
                for n, text in enumerate(turns[: 4 if last else 3])
            ]
            file.write(json.dumps({"id": id_, "messages": messages}) + "\n")
        german = ["Wo liegt der Fluss Donau genau?", "In Europa.", "Und wie lang ist sie?", "Sehr."]
        messages = [
            {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(german)
        ]
        file.write(json.dumps({"id": "d", "messages": messages}) + "\n")
    assert select(rules_config(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert f"{path}:4: not valid JSON" in printed
    assert "3 of 9 later questions are selected\n  3: pronoun\n6 are left out\n" in printed
    for reason in (
        "3: no rule", "1: another dialogue has its id", "1: its answer is a refusal",
        "1: another language than the rules know",
    ):  # fmt: skip
        assert f"  {reason}\n" in printed
    found = json.loads((tmp_path / "out" / "select_summary.json").read_text())
    assert found["broken"] == {"not valid JSON": 1}
    rows = read(tmp_path / "out" / "selected.jsonl")
    assert {(row["dialogue"], row["turn"], row["why"]) for row in rows} == {
        (f"r{number}", 2, "pronoun") for number in range(3)
    }
    assert all(re.fullmatch("[0-9a-f]{64}", row["sha256"]) for row in rows)


def test_a_larger_selection_contains_the_smaller_one_whatever_the_order_of_the_file(
    write_rivers: WriteRivers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rivers(20)
    assert select(rules_config(tmp_path)) == 0
    all_rows = read(tmp_path / "out" / "selected.jsonl")
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    assert select(rules_config(tmp_path), "--limit", "5") == 0
    assert read(tmp_path / "out" / "selected.jsonl") == all_rows[:5]
    assert "5 of 40 later questions are selected" in (printed := capsys.readouterr().out)
    assert "  15: beyond the limit\n" in printed
    assert select(rules_config(tmp_path), "--limit", "5", "--seed", "1") == 0
    assert read(tmp_path / "out" / "selected.jsonl") != all_rows[:5]


def judge(body: dict[str, Any]) -> Scripted:
    """Every third river is judged independent, and about one the judge gives no verdict."""
    number = int(re.search(r"river (\d+)", body["messages"][0]["content"])[1])  # type: ignore[index]
    if number == 7:
        return Scripted(text="I cannot say.")
    return Scripted(text="[[N]]" if number % 3 == 0 else "It has a pronoun. [[Y]]")


def test_a_judge_confirms_what_the_rules_select(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_rivers(10)
    with ScriptedServer(judge) as server:
        config = write_config("endpoint", server.url, method="judge")
        assert select(config) == 0
        printed = capsys.readouterr().out
        assert select(config) == 0  # nothing is asked twice
    assert len(server.bodies) == 10
    assert "5 of 20 later questions are selected\n  5: judge, pronoun\n" in printed
    assert "  4: judged independent\n" in printed
    assert "  1: no verdict: no [[Y]], [[N]] in the reply\n" in printed
    (row, *_) = read(tmp_path / "out" / "selected.jsonl")
    assert (row["why"], row["rule"]) == ("judge", "pronoun")
    # The judge sees the earlier questions and the question, never the answers.
    (text,) = (message["content"] for message in server.bodies[0]["messages"])
    assert re.search(r"\[1\] Where is river \d\?\n", text)
    assert "==== last message ====\nHow long is it?\n" in text
    assert "w0" not in text


def test_the_judge_stops_when_enough_are_selected(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_rivers(60)
    with ScriptedServer(judge) as server:
        config = write_config("endpoint", server.url, method="judge")
        assert select(config, "--limit", "6") == 0
        few = read(tmp_path / "out" / "selected.jsonl")
        asked = len(server.bodies)
        assert asked < 25
        assert "beyond the limit" in capsys.readouterr().out
        assert select(config, "--limit", "30") == 0
    assert read(tmp_path / "out" / "selected.jsonl")[:6] == few
    assert len(few) == 6


def test_measured_selects_where_the_answer_without_the_dialogue_differs(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_rivers(2, messages=[
        {"role": "system", "content": "Be brief."},
        *({"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(
            ["Where is it?", "There.", "How long?", "Long.", "Is 2 a prime?", "Yes."]
        )),
    ])  # fmt: skip

    def script(body: dict[str, Any]) -> Scripted:
        last = body["messages"][-1]["content"]
        return Scripted(text="Yes, 2 is a prime.") if "prime" in last else answer(body)

    with ScriptedServer(script) as server:
        assert select(write_config("endpoint", server.url, method="measured")) == 0
    printed = capsys.readouterr().out
    assert "2 of 4 later questions are selected\n  2: measured\n" in printed
    assert "  2: same answer alone\n" in printed
    assert [(r["turn"], r["similarity"]) for r in read(tmp_path / "out" / "selected.jsonl")] == [
        (2, 0.0), (2, 0.0),
    ]  # fmt: skip
    asked = [[message["content"] for message in body["messages"]] for body in server.bodies]
    assert ["Be brief.", "Where is it?", "There.", "How long?"] in asked
    assert ["Be brief.", "How long?"] in asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "judge", "endpoint": None}, "`judge` and `measured` need an endpoint"),
        ({"method": "rules"}, "`rules` takes none"),
        ({"method": "measured", "prompt": "a.jinja"}, "method is measured, which has no prompt"),
        ({"method": "judge", "limit": 0}, "limit is 0; it must be at least 1"),
        ({"method": "measured", "context_similarity": 0.0}, "it must be in (0, 100]"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    changes: dict[str, Any], message: str, write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = write_config("endpoint", "http://127.0.0.1:1/v1")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    assert select(path) == 2
    assert message in capsys.readouterr().err


def test_options_can_replace_the_judge_by_the_rules(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path
) -> None:
    write_rivers(1)
    config = write_config("endpoint", "http://127.0.0.1:1/v1", method="judge")
    # As a comment of configs/select/context_gpt4.yaml says.
    assert select(config, "--method", "rules", "--endpoint", "null") == 0
    assert len(read(tmp_path / "out" / "selected.jsonl")) == 1


def test_another_judge_may_not_continue(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_rivers(3)
    prompt = tmp_path / "own.jinja"
    prompt.write_text("{{ earlier[0] }} {{ question }}")
    with ScriptedServer(judge) as server:
        config = write_config("endpoint", server.url, method="judge")
        assert select(config) == 0
        for options, change in (
            (["--endpoint.model", "other"], "model: 'org/m' -> 'other'"),
            (["--prompt", str(prompt)], "judge.prompt_text: sha256"),
            (["--method", "measured"], "method: judge -> measured"),
        ):
            assert select(config, *options) == 2
            assert change in capsys.readouterr().err
        assert select(config, "--limit", "1") == 0
    assert len(server.bodies) == 3
