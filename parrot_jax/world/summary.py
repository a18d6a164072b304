"""The results of a quickstart, from the files of its stages."""

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parrot_jax.collect.folder import Collection
from parrot_jax.core.files import open_input, write_json
from parrot_jax.world.capo import count_errors
from parrot_jax.world.exam import accuracy_by_turn
from parrot_jax.world.exam_measures import AskedKinds, asked_kinds, kind_distance
from parrot_jax.world.facts import World
from parrot_jax.world.people import people_dialogues
from parrot_jax.world.questions import Language

_NUM_ROUNDS = 10


def write_kinds(folder: Path, world: World) -> None:
    """Writes `kinds.json`: kinds by turn, for the asker and for two samples of people.

    People in both samples ask as many questions per dialogue as the asker may ask, and in total at
    least as many as it asked.
    """
    language = Language(world)
    asker = asked_kinds(language, _collected_questions(folder))
    num_people = math.ceil(max(asker.num_questions, 2000) / (_NUM_ROUNDS - 1))

    def people(name: str) -> AskedKinds:
        crowd = people_dialogues(world, name, num_people, num_rounds=_NUM_ROUNDS)
        return asked_kinds(language, ((dialogue.questions(), 1) for dialogue in crowd))

    write_json(
        folder / "kinds.json",
        {
            "asker": _by_turn(asker),
            "people": _by_turn(people("kinds")),
            "other_people": _by_turn(people("other-kinds")),
            "invalid": asker.invalid,
        },
    )


def summarise(
    folder: Path, world: World, stages: Mapping[str, float], wall_s: float
) -> dict[str, Any]:
    """Returns the content of `summary.json`; times are in seconds, rates in [0, 1].

    Errors are shares of all answers, by kind.

    Raises:
      UserError: A file of a stage is missing.
    """
    kinds = _read_json(folder / "kinds.json")
    asker, people, others = (_counters(kinds[n]) for n in ("asker", "people", "other_people"))
    num_asked = sum(sum(counts.values()) for counts in asker.values())
    collected = _read_json(folder / "collect" / "summary.json")
    evals = sorted((folder / "ask" / "results").glob("eval-*.json"))
    exam, exam_first_turn, exam_capo = (
        folder / "exam" / f"{name}.jsonl" for name in ("chat", "chat_first_turn", "capo")
    )
    with open_input(exam) as file:
        num_exams = sum(1 for _ in file)
    return {
        "seed": world.seed,
        "wall_s": round(wall_s, 1),
        "stages": dict(stages),
        "ask": {
            "user_ppl_untrained": _read_json(evals[0])["user_ppl"],
            "user_ppl": _read_json(evals[-1])["user_ppl"],
            "valid_question_rate": 1 - sum(kinds["invalid"].values()) / num_asked,
            "kind_distance": kind_distance(asker, people),
            "kind_distance_floor": kind_distance(others, people),
            "n": num_asked,
        },
        "collection": {key: collected[key] for key in ("dialogues", "mean_turns", "stops")},
        "chat": {
            "accuracy_by_turn": accuracy_by_turn(exam),
            "accuracy_by_turn_first_turn_only": accuracy_by_turn(exam_first_turn),
            "n": num_exams,
        },
        "capo": {
            "accuracy_by_turn": accuracy_by_turn(exam_capo),
            "errors_by_kind": count_errors(world, exam_capo)["by_kind"],
            "errors_by_kind_before": count_errors(world, exam)["by_kind"],
            "pairs": sum(_read_json(folder / "negatives" / "summary.json")["pairs"].values()),
        },
    }


def as_text(summary: Mapping[str, Any]) -> str:
    """Formats the results as a few lines of text."""
    ask, collection, chat = summary["ask"], summary["collection"], summary["chat"]
    capo = summary["capo"]

    def percents(rates: Iterable[float]) -> str:
        return " ".join(f"{rate:4.0%}" for rate in rates)

    return "\n".join(
        [
            f"Parrot-Ask   perplexity of people's questions {ask['user_ppl_untrained']:,.0f} "
            f"untrained, {ask['user_ppl']:.2f} trained",
            f"             {ask['valid_question_rate']:.1%} of {ask['n']:,} questions make sense; "
            f"distance to people's kinds {ask['kind_distance']:.3f} "
            f"(people to people {ask['kind_distance_floor']:.3f})",
            f"Collection   {collection['dialogues']:,} dialogues, "
            f"{collection['mean_turns']:.2f} turns each",
            "Right answers at turns 1 to 8",
            f"  trained on all turns      {percents(chat['accuracy_by_turn'])}",
            f"  trained on first turns    {percents(chat['accuracy_by_turn_first_turn_only'])}",
            f"  all turns, then CaPO      {percents(capo['accuracy_by_turn'])}",
            f"CaPO         {capo['pairs']:,} pairs; wrong answers "
            f"{sum(capo['errors_by_kind_before'].values()):.2%} before, "
            f"{sum(capo['errors_by_kind'].values()):.2%} after",
            f"{summary['wall_s']:.0f} s",
        ]
    )


def _by_turn(kinds: AskedKinds) -> dict[str, dict[str, int]]:
    return {str(turn): dict(counts) for turn, counts in sorted(kinds.by_turn.items())}


def _counters(by_turn: Mapping[str, Mapping[str, int]]) -> dict[int, Counter[str]]:
    return {int(turn): Counter(counts) for turn, counts in by_turn.items()}


def _read_json(path: Path) -> Any:
    with open_input(path) as file:
        return json.load(file)


def _collected_questions(folder: Path) -> Iterator[tuple[Sequence[str], int]]:
    """Yields the questions of each dialogue, also one that ended it, and how many were given."""
    with contextlib.closing(Collection(folder / "collect")) as collection:
        for dialogue in collection:
            texts = [turn.text for turn in dialogue.beginning.turns]
            texts += [reply.text for reply in dialogue.replies]
            questions = texts[::2]
            if not questions[-1]:
                questions.pop()  # an empty text: the asker left, or the text was withheld
            yield questions, (len(dialogue.beginning.turns) + 1) // 2
