"""`parrot negatives build` over real HTTP: requests, pairs, drop reasons, faults, quotas."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from parrot_jax.api.faulty_server import KEY, FaultyScript
from parrot_jax.api.prompts import packaged_prompt
from parrot_jax.api.scripted_server import Scripted, ScriptedServer
from parrot_jax.cli import main

from .conftest import WriteConfig, WriteRivers, answer, read, words

KINDS = ["neglect", "hallucination", "misunderstanding"]


def build(config: Path, *options: str) -> int:
    return main(["negatives", "build", str(config), *options])


def summary(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "out" / "summary.json").read_text())


def write_prompts(tmp_path: Path) -> dict[str, str]:
    """A short prompt for each kind."""
    for kind in KINDS:
        (tmp_path / f"{kind}.jinja").write_text(f"{kind.upper()}: {{{{ question }}}}")
    return {kind: str(tmp_path / f"{kind}.jinja") for kind in KINDS}


def test_each_strategy_sends_exactly_these_messages(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path
) -> None:
    said = ["Where is the Oria?", "In Velora.", "How long is it?", "90 km."]
    write_rivers(1, messages=[
        {"role": "system", "content": "Be brief."},
        *({"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)),
    ])  # fmt: skip
    with ScriptedServer(answer) as server:
        config = write_config("generator", server.url, prompts=write_prompts(tmp_path))
        assert build(config) == 0
    system = ("system", "Be brief.")
    history = [("user", "Where is the Oria?"), ("assistant", "In Velora.")]
    sent = [[(m["role"], m["content"]) for m in body["messages"]] for body in server.bodies]
    assert sorted(sent) == sorted([
        [system, ("user", "NEGLECT: How long is it?")],
        [system, ("user", "HALLUCINATION: How long is it?")],
        [system, *history, ("user", "MISUNDERSTANDING: How long is it?")],
    ])  # fmt: skip


def test_the_packaged_prompts_have_the_question_and_neglect_is_nothing_else() -> None:
    texts = {
        kind: packaged_prompt("parrot_jax.negatives", f"{kind}_v1.jinja").render(question="And it?")
        for kind in KINDS
    }
    assert texts["neglect"] == "And it?"
    for kind in KINDS[1:]:
        assert "\n----\nAnd it?\n----\n" in texts[kind]


def test_pairs_are_in_the_form_of_trl(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = write_rivers(3)
    path.write_text(path.read_text() + "no JSON\n")
    with ScriptedServer(answer) as server:
        config = write_config("generator", server.url)
        assert build(config) == 0
        assert build(config) == 0  # nothing is asked twice
    assert len(server.bodies) == 9
    pairs = read(tmp_path / "out" / "pairs")
    assert Counter(pair["kind"] for pair in pairs) == dict.fromkeys(KINDS, 3)
    for pair in pairs:
        # TRL's conversational preference form with an explicit prompt.
        assert [message["role"] for message in pair["prompt"]] == ["user", "assistant", "user"]
        for side in ("chosen", "rejected"):
            ((role, text),) = [(m["role"], m["content"]) for m in pair[side]]
            assert role == "assistant"
            assert text.strip()
        number = int(pair["dialogue_id"].removeprefix("r"))
        assert pair["prompt"][0]["content"] == f"Where is river {number}?"
        assert pair["chosen"][0]["content"] == words(number, 1)
        assert pair["id"] == f"r{number}/2/{pair['kind']}"
        assert (pair["turn"], pair["similarity"]) == (2, 0.0)
        packaged = packaged_prompt("parrot_jax.negatives", f"{pair['kind']}_v1.jinja")
        assert pair["prompt_hash"] == packaged.sha256
        assert pair["models"] == {"chosen": "gpt-4o", "rejected": "scripted"}
    assert "neglect: 3 pairs, 0 dropped" in capsys.readouterr().out
    assert summary(tmp_path)["pairs"] == dict.fromkeys(KINDS, 3)
    assert summary(tmp_path)["broken"] == {"not valid JSON": 1}
    assert read(tmp_path / "out" / "dropped.jsonl") == []


def test_a_pair_has_the_weight_of_its_chosen_answer(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path
) -> None:
    write_rivers(1, weight=0.25)
    with ScriptedServer(answer) as server:
        assert build(write_config("generator", server.url, kinds=["neglect"])) == 0
    (pair,) = read(tmp_path / "out" / "pairs")
    assert pair["weight"] == 0.25


LONG = "The lake is deep and cold and the people there fish for trout in the early morning. "
CHOSEN = "It is 90 km long, and it ends in the wide sea near the old town of Velora."
DROPPED = {
    "empty": (Scripted(text=""), KINDS),
    "only reasoning": (Scripted(text="<think>It is long.</think>"), KINDS),
    "cut at the token limit": (Scripted(text=LONG, finish_reason="length"), KINDS),
    "filtered": (Scripted(text="It", finish_reason="content_filter"), KINDS),
    "no words": (Scripted(text="..."), KINDS),
    "mark of an image or the like": (Scripted(text="See <image> for a map of it."), KINDS),
    "equal to the chosen answer": (Scripted(text=CHOSEN), KINDS),
    "too close to the chosen answer": (Scripted(text=CHOSEN + " Yes, really."), KINDS),
    "refusal": (Scripted(text="I'm sorry, but I can't talk about this topic."), KINDS),
    "asks back": (Scripted(text="Could you tell me which river you mean?"), KINDS[1:]),
    "mentions its task": (Scripted(text="As instructed, here is something else: fish."), KINDS),
    "sensitive: e-mail": (Scripted(text="Write to ada.lovelace@rivers.org about it."), KINDS),
    "another language": (
        Scripted(text="Der Fluss ist sehr lang und fließt durch viele alte Städte bis ins Meer."),
        KINDS,
    ),
}


@pytest.mark.parametrize("reason", DROPPED)
def test_a_negative_is_dropped_with_its_reason(
    reason: str, write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path
) -> None:
    reply, kinds = DROPPED[reason]
    said = ["Where is the Oria?", "In Velora.", "How long is it?", CHOSEN]
    path = write_rivers(1, messages=[
        {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)
    ])  # fmt: skip
    # A dialogue with usable replies, or the run would stop.
    other = {"id": "other", "messages": [
        {"role": ("user", "assistant")[n % 2], "content": text}
        for n, text in enumerate(["Where is it?", "There.", "And the other one?", "Also there."])
    ]}  # fmt: skip
    path.write_text(json.dumps(other) + "\n" + path.read_text())

    def script(body: dict[str, Any]) -> Scripted:
        return (
            reply if "How long is it?" in body["messages"][-1]["content"] else Scripted(text=LONG)
        )

    with ScriptedServer(script) as server:
        assert build(write_config("generator", server.url)) == 0
    rows = read(tmp_path / "out" / "dropped.jsonl")
    assert {row["id"]: row["reason"] for row in rows} == {f"r0/2/{kind}": reason for kind in kinds}
    assert summary(tmp_path)["dropped"] == {
        kind: {reason: 1} if kind in kinds else {} for kind in KINDS
    }
    pairs = read(tmp_path / "out" / "pairs")
    assert {pair["id"] for pair in pairs} == {f"other/2/{kind}" for kind in KINDS} | {
        f"r0/2/{kind}" for kind in KINDS if kind not in kinds
    }


def test_a_model_that_repeats_its_prompt_makes_no_pairs(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path
) -> None:
    write_rivers(1)

    def echo(body: dict[str, Any]) -> Scripted:
        return Scripted(text=f"You said: {body['messages'][-1]['content'].lower()}")

    with ScriptedServer(echo) as server:
        assert build(write_config("generator", server.url)) == 0
    assert [row["reason"] for row in read(tmp_path / "out" / "dropped.jsonl")] == [
        "repeats its prompt", "repeats its prompt", "repeats its prompt"
    ]  # fmt: skip


def test_a_rejected_request_drops_its_negative_only(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path
) -> None:
    write_rivers(4)

    def script(body: dict[str, Any]) -> Scripted:
        is_bad = body["messages"][0]["content"] == "Where is river 2?"
        return Scripted(status=400, text="no rivers") if is_bad else answer(body)

    with ScriptedServer(script) as server:
        assert build(write_config("generator", server.url)) == 0
    (row,) = read(tmp_path / "out" / "dropped.jsonl")
    assert (row["id"], row["reason"]) == ("r2/2/misunderstanding", "rejected by the endpoint")
    assert len(read(tmp_path / "out" / "pairs")) == 11


def test_further_questions_fill_a_kind_until_there_are_enough(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path
) -> None:
    write_rivers(40)

    def script(body: dict[str, Any]) -> Scripted:
        # Half of the hallucinations are dropped.
        reply = answer(body)
        is_bad = body["seed"] % 2 == 0 and "Make up" in body["messages"][-1]["content"]
        return Scripted(text="I'm sorry, but I can't help.") if is_bad else reply

    with ScriptedServer(script) as server:
        config = write_config("generator", server.url)
        assert build(config, "--per-kind", "5") == 0
        few = read(tmp_path / "out" / "pairs")
        asked = Counter(len(body["messages"]) for body in server.bodies)
        assert summary(tmp_path)["pairs"] == dict.fromkeys(KINDS, 5)
        assert asked[3] < 15  # of 40 misunderstandings
        assert build(config, "--per-kind", "8") == 0
        assert build(config, "--per-kind", "5") == 0
        assert read(tmp_path / "out" / "pairs") == few
    misunderstood = [pair["dialogue_id"] for pair in few if pair["kind"] == "misunderstanding"]
    neglected = [pair["dialogue_id"] for pair in few if pair["kind"] == "neglect"]
    assert misunderstood == neglected  # the first questions of the order


def test_a_selection_names_the_questions_and_what_is_wrong_with_it_is_counted(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = write_rivers(4)
    with open(path, "a") as dialogues:  # another dialogue with the id of the first
        dialogues.write(path.read_text().splitlines()[1].replace('"r1"', '"r0"') + "\n")
    with ScriptedServer(answer) as server:
        config = write_config("generator", server.url, kinds=["neglect"])
        select = tmp_path / "select.yaml"
        values = yaml.safe_load(config.read_text())
        values = {"out": values["out"], "sources": values["sources"]}
        select.write_text(yaml.safe_dump(values))
        assert main(["negatives", "select", str(select)]) == 0
        file = tmp_path / "out" / "selected.jsonl"
        rows = read(file)
        rows[1]["sha256"] = "0" * 64
        rows[2]["dialogue"] = "gone"
        rows.append(rows[0])
        file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"dialogue": "r1"}\n')
        assert build(config, "--selection", str(file)) == 0
    printed = capsys.readouterr().out
    assert f"{file}:6: no positive integer in `turn`" in printed
    assert "2 questions; 3 more make no pairs" in printed
    assert "  1: selected twice\n" in printed
    assert "  1: changed since it was selected\n" in printed
    assert "  1: not in the sources\n" in printed
    assert [pair["dialogue_id"] for pair in read(tmp_path / "out" / "pairs")] == [
        rows[0]["dialogue"], rows[3]["dialogue"],
    ]  # fmt: skip


def test_with_20_percent_faults_nothing_is_lost_and_nothing_is_counted_twice(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("FAULTY_KEY", KEY)
    write_rivers(20)
    endpoint = {
        "api_key_env": "FAULTY_KEY", "timeout_s": 1.0, "concurrency": 16,
        "retries": {"first_delay_s": 0.01, "max_attempts": 4},
    }  # fmt: skip
    faulty = FaultyScript(answer, seed=1, rate=0.2)
    with ScriptedServer(faulty) as server:
        config = write_config("generator", server.url, endpoint=endpoint)
        for _ in range(3):  # what failed is asked again by the next run
            if build(config) == 0:
                break
    faults = {name: n for name, n in faulty.counts.items() if name not in ("none", "accepted")}
    assert sum(faults.values()) > 10
    pairs = read(tmp_path / "out" / "pairs")
    dropped = read(tmp_path / "out" / "dropped.jsonl")
    ids = [row["id"] for row in (*pairs, *dropped)]
    assert sorted(ids) == sorted(f"r{number}/2/{kind}" for number in range(20) for kind in KINDS)
    found = summary(tmp_path)
    assert found["open"] == 0
    assert sum(found["pairs"].values()) == len(pairs)
    assert sum(sum(reasons.values()) for reasons in found["dropped"].values()) == len(dropped)
    assert len(pairs) > 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": []}, "kinds is []; name one kind or more, each once"),
        ({"kinds": ["neglect", "neglect"]}, "name one kind or more, each once"),
        (
            {"prompts": {"negligence": "a"}},
            "the kinds are neglect, hallucination, misunderstanding",
        ),
        ({"prompts": {"neglect": "gone.jinja"}}, "gone.jinja"),
        ({"per_kind": 0}, "per_kind is 0; it must be at least 1"),
        ({"similarity": 101.0}, "similarity is 101.0; it must be in (0, 100]"),
        ({"language_switch": 0.0}, "language_switch is 0.0; it must be in (0, 1]"),
        ({"selection": "gone.jsonl"}, "gone.jsonl"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    changes: dict[str, Any], message: str, write_rivers: WriteRivers, write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_rivers(1)
    assert build(write_config("generator", "http://127.0.0.1:1/v1", **changes)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_prompt_without_the_question_is_refused(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_rivers(1)
    prompt = tmp_path / "constant.jinja"
    prompt.write_text("Answer {question} wrongly.")
    prompts = {"neglect": str(prompt)}
    assert build(write_config("generator", "http://127.0.0.1:1/v1", prompts=prompts)) == 2
    assert f"the prompt {prompt} does not contain the question; write {{{{ question }}}}" in (
        capsys.readouterr().err
    )


def test_other_settings_may_not_continue_and_no_question_is_an_error(
    write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = write_rivers(2)
    with ScriptedServer(answer) as server:
        config = write_config("generator", server.url, kinds=["neglect"])
        assert build(config) == 0
        assert build(config, "--seed", "1") == 2
        assert "negatives by another model or other settings (seed: 0 -> 1)" in (
            capsys.readouterr().err
        )
        changed = write_config("generator", server.url, prompts=write_prompts(tmp_path))
        assert build(changed) == 2
        assert "neglect.prompt_text: sha256" in capsys.readouterr().err
        path.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
        assert build(config) == 2
    assert "no dialogue has an answered second question" in capsys.readouterr().err
