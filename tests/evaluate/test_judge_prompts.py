"""Prompts in FastChat's form: the originals render as FastChat renders them, and for more turns."""

import json
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.judge_prompts import load_judge_prompts

BASES = ("question", "answer", "answer_a", "answer_b", "ref_answer")


def turn(number: int) -> dict[str, str]:
    """The texts of a turn; one has braces, which are no slots."""
    return {base: f"<{base} {number} {{x}}>" for base in BASES}


def test_the_originals_render_as_in_fastchat(shared_data: Path) -> None:
    file = shared_data / "mt_bench" / "judge_prompts.jsonl"
    rows = {row["name"]: row for row in map(json.loads, file.read_text().splitlines())}
    prompts = load_judge_prompts(str(file))
    assert {prompt.name for prompt in prompts.by_use.values()} == rows.keys()
    for prompt in prompts.by_use.values():
        slots = {f"{base}_{n}": turn(n)[base] for base in BASES for n in (1, 2)}
        slots |= {base: turn(1)[base] for base in BASES}
        num_turns = 2 if prompt.is_multi_turn else 1
        system, user = prompt.messages([turn(n) for n in range(1, num_turns + 1)])
        assert system["content"] == rows[prompt.name]["system_prompt"]
        assert user["content"] == rows[prompt.name]["prompt_template"].format(**slots)


def test_a_template_of_two_turns_shows_any_number(shared_data: Path) -> None:
    prompts = load_judge_prompts(str(shared_data / "mt_bench" / "judge_prompts.jsonl"))
    prompt = prompts.choose("single", 4, with_references=True)
    assert prompt.name == "single-math-v1-multi-turn"
    system, user = prompt.messages([turn(n) for n in range(1, 5)])
    assert "answer to the fourth question" in system["content"]
    text = user["content"]
    assert [text.count(turn(n)["question"]) for n in range(1, 5)] == [2, 2, 2, 2]
    for base in ("answer", "ref_answer"):
        places = [text.index(turn(n)[base]) for n in range(1, 5)]
        assert places == sorted(places)
    assert text.count("### Reference answer:") == text.count("### Assistant A:") == 4
    assert text.endswith("<|The End of Assistant A's Conversation with User|>")
    pair = prompts.choose("pairwise", 3, with_references=False)
    system, user = pair.messages([turn(n) for n in range(1, 4)])
    assert "the third user question" in system["content"]
    assert user["content"].index(turn(3)["answer_a"]) < user["content"].index(turn(1)["answer_b"])


def test_the_prompts_of_the_package_cover_every_use() -> None:
    prompts = load_judge_prompts(None)
    assert len(prompts.by_use) == 8
    shown = prompts.choose("single", 2, with_references=False).messages([turn(1), turn(2)])
    assert shown[1]["content"] == (
        "<conversation>\nUser: <question 1 {x}>\n\nAssistant: <answer 1 {x}>\n\n"
        "User: <question 2 {x}>\n\nAssistant: <answer 2 {x}>\n</conversation>\n\n"
        "Grade the assistant's last answer."
    )


def prompt(template: str, **changes: Any) -> dict[str, Any]:
    return {"name": "p", "type": "single", "system_prompt": "", "prompt_template": template,
            **changes}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (prompt("{question} {answer} {mood}"), "unknown slots: {mood} is not a slot"),
        (prompt("{question} {answer} {question_3}"), "unknown slots: {question_3} is not a slot"),
        (prompt("{question!r} {answer}"), "unknown slots: {question} is not a slot"),
        (prompt("{question}"), "missing slots: prompt 'p': {answer}"),
        (prompt("{question} {answer} {answer_a}"), "unknown slots: prompt 'p': {answer_a}"),
        (prompt("{question_1} {answer_1} {question_2}"), "missing slots: prompt 'p': {answer_2}"),
        (prompt("{question_1} {answer_1} {question_2} {answer_2} {question_1}"),
         "slots in a wrong order: prompt 'p': {question_1} is the first and {question_1} the last"),
        (prompt("{question_2} {answer_2} {question_1} {answer_1}"), "slots in a wrong order"),
        (prompt("{question} {answer"), "a malformed template: expected '}'"),
        (prompt("{question} {answer}", type="double"), "unknown `type`: 'double' is not single"),
        ({"name": "p", "type": "single"}, "no text in `system_prompt`"),
    ],
)  # fmt: skip
def test_an_invalid_prompt_is_refused(row: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(UserError) as caught:
        load_judge_prompts(str(path))
    assert message in str(caught.value)
    assert f"{path}:1: " in str(caught.value)


def test_a_file_lacks_a_prompt_or_has_two_for_one_use(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(prompt("{question} {answer}")))
    prompts = load_judge_prompts(str(path))
    with pytest.raises(UserError, match="no single prompt for later turns without reference"):
        prompts.choose("single", 2, with_references=False)
    path.write_text("\n".join(json.dumps(prompt("{question} {answer}", name=n)) for n in "ab"))
    with pytest.raises(UserError, match="a and b have the same slots; keep one"):
        load_judge_prompts(str(path))
