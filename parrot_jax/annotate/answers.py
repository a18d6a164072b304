"""Draws answers of models, one to grade or two to compare, from what `parrot evaluate` reads."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from parrot_jax.annotate.items import (
    Candidate,
    Drawn,
    Item,
    Round,
    chance,
    check_count,
    draw_items,
)
from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import read_sources
from parrot_jax.evaluate.benchmark import Question, read_benchmark
from parrot_jax.evaluate.conversations import Conversation, from_dialogues, from_sheets
from parrot_jax.evaluate.sheets import read_sheets
from parrot_jax.stats.inputs import labels_of, source_of


def read_answers(paths: Sequence[str], benchmark: str | None) -> "Answers":
    """Reads answers of models.

    Args:
      paths: With a benchmark, folders of `parrot evaluate answer` or files of FastChat's
        `model_answer/`; without one, files of dialogues, each with the answers of one model.
      benchmark: The file with the questions that were answered.

    Raises:
      UserError: A file is invalid, or a model's answers are given twice.
    """
    notes: list[str] = []
    questions: list[Question] = []
    found: list[Conversation] = []
    if benchmark is not None:
        questions = read_benchmark(benchmark)
        found = from_sheets(questions, [s for path in paths for s in read_sheets(path)])
    else:
        for path, label in zip(paths, labels_of(list(paths)), strict=True):
            report = ReadReport()
            found += from_dialogues(label, read_sources([source_of(path)], seed=0, report=report))
            notes.append(report.summary())
    models: dict[str, dict[str, Conversation]] = {}
    for one in found:
        of_model = models.setdefault(one.model_id, {})
        if str(one.question_id) in of_model:
            raise UserError(
                f"question {one.question_id} of {one.model_id} is given twice; name each model's "
                "answers once."
            )
        of_model[str(one.question_id)] = one
    return Answers(models, {str(question.id): question.system for question in questions}, notes)


class Answers:
    """The conversations of models, by model and question."""

    def __init__(
        self,
        models: dict[str, dict[str, Conversation]],
        systems: dict[str, str],
        notes: Sequence[str],
    ) -> None:
        """Args: systems: The system texts by question; others have none."""
        self._models, self._systems, self.notes = models, systems, tuple(notes)

    def draw(
        self, *, sides: int, count: int | None, per_dialogue: int, seed: int
    ) -> Iterator[Drawn]:
        """Draws answers; equal questions and turns for all models, so that they can be paired.

        Args:
          sides: 1 = one answer to grade, 2 = two to compare, of each pair of models.
          count: Items of each model or pair; None = all.
          per_dialogue: The most turns of one question, >= 1.
          seed: Seed of the draw, and of which answer is on the left.

        Raises:
          UserError: There are too few answers, or too few models to compare.
        """
        if len(self._models) < sides:
            raise UserError(
                f"only {', '.join(self._models) or 'no model'} has answers; comparing needs two "
                "models that answered the same questions."
            )
        for group in itertools.combinations(sorted(self._models), sides):
            label = " against ".join(group)
            lacking = Counter[str]()
            candidates = self._candidates(group, per_dialogue, seed, lacking)
            items = draw_items(candidates, count, seed=seed)
            noun = "answers" if sides == 1 else "turns that both answered"
            check_count(label, items, count, noun)
            yield Drawn(
                label,
                items,
                tuple(f"{label}: {n:,} {reason}; not drawn" for reason, n in lacking.items() if n),
            )

    def _candidates(
        self, models: Sequence[str], per_dialogue: int, seed: int, lacking: Counter[str]
    ) -> Iterator[Candidate]:
        first, *others = (self._models[model] for model in models)
        for question in first:
            group = [answered[question] for answered in (first, *others) if question in answered]
            if len(group) < len(models):
                lacking["questions that only one answered"] += 1
                continue
            turns = sorted(
                range(1, len(group[0].questions) + 1),
                key=lambda turn, question=question: chance(seed, "turn", question, turn),
            )
            shown = ((turn, _rounds(group, turn)) for turn in turns)
            usable = [(turn, rounds) for turn, rounds in shown if rounds is not None]
            lacking["turns that lack an answer, or follow different questions"] += len(turns) - len(
                usable
            )
            for turn, rounds in usable[:per_dialogue]:
                flip = len(group) == 2 and bool(
                    chance(seed, "side", question, turn, *models)[0] % 2
                )
                system = self._systems.get(question, "")
                item = Item(tuple(models), question, turn, tuple(rounds), system)
                yield Candidate(question, _mirrored(item) if flip else item)


def _rounds(group: Sequence[Conversation], turn: int) -> list[Round] | None:
    """The rounds up to a turn with the answers of all; None if that cannot be shown."""
    texts = [one.texts(turn, "answer") for one in group]
    shown = [one for one in texts if one is not None and len(one) == turn]
    if len(shown) < len(texts) or len({one.questions[:turn] for one in group}) > 1:
        return None
    return [
        Round(sides[0]["question"], tuple(side["answer"] for side in sides))
        for sides in zip(*shown, strict=True)
    ]


def _mirrored(item: Item) -> Item:
    rounds = tuple(Round(one.question, one.answers[::-1]) for one in item.rounds)
    return item._replace(sources=item.sources[::-1], rounds=rounds)
