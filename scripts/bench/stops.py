"""How often each stop rule ends real users' dialogues, and how many bad turns it catches.

    python scripts/bench/stops.py PEOPLE.jsonl [BAD.jsonl ...]

The files have dialogues in the `messages` format. For each rule alone, with its default and some
other settings, prints the share of later questions, or of answers, that would end a dialogue, and
two examples. In a file of people's dialogues these are errors of the rule.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from parrot_jax.collect.stops import StopConfig, StopJudge
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import SourceConfig, read_sources
from parrot_jax.dialogue.types import Dialogue

OFF: Mapping[str, Any] = {
    "refusals": False,
    "most_thanks": None,
    "repeated_question": None,
    "fewest_question_letters": 0,
    "asker_answers": False,
    "repeated_answer": None,
    "most_counter_questions": None,
    "language_switch": None,
    "sensitive": (),
}
SETTINGS: Mapping[str, Sequence[Any]] = {
    "most_thanks": (0, 1),
    "repeated_question": (100.0, 95.0, 90.0, 80.0),
    "fewest_question_letters": (1, 2, 4, 8),
    "asker_answers": (True,),
    "repeated_answer": (100.0, 95.0, 90.0),
    "language_switch": (0.99, 0.95, 0.8),
    "refusals": (True,),
    "most_counter_questions": (0, 1, 2),
    "sensitive": (("e-mail",), ("phone",), ("card",), ("iban",), ("secret",)),
}


def ended(judge: StopJudge, dialogues: Sequence[Dialogue]) -> tuple[list[int], list[str]]:
    """Counts later questions and answers that end a dialogue, and all; returns examples too."""
    counts, examples = [0, 0, 0, 0], []
    for dialogue in dialogues:
        for place in range(2, len(dialogue.turns)):
            turn = dialogue.turns[place]
            is_answer = turn.role == "assistant"
            counts[2 + is_answer] += 1
            if judge(dialogue.turns[:place], turn.text):
                counts[is_answer] += 1
                examples.append(" ".join(turn.text.split())[:60])
    return counts, examples


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    for path in options.files:
        source = SourceConfig(kind="messages", path=path)
        dialogues = list(read_sources([source], seed=0, report=ReadReport()))
        for name, values in SETTINGS.items():
            for value in values:
                judge = StopJudge(StopConfig(**{**OFF, name: value}))
                (questions, answers, all_questions, all_answers), examples = ended(judge, dialogues)
                print(
                    f"{name:24} {value!s:12} questions {questions:4} of {all_questions} "
                    f"({questions / max(1, all_questions):6.2%})  answers {answers:4} of "
                    f"{all_answers} ({answers / max(1, all_answers):6.2%})  {examples[:2]}"
                )
        judge = StopJudge(StopConfig())
        (questions, answers, all_questions, all_answers), _ = ended(judge, dialogues)
        print(f"all rules, defaults: {questions} of {all_questions}, {answers} of {all_answers}\n")


if __name__ == "__main__":
    main()
