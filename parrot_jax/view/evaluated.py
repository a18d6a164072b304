"""Reads an evaluation into an index: answers of models, and a judge's verdicts.

The folder is one of `parrot evaluate answer` or `parrot evaluate judge`, or has FastChat's
`model_answer/` and `model_judgment/`. What has a journal is read from it, so a run can be followed.
"""

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from parrot_jax.api.journal_reader import JournalReader
from parrot_jax.core.config import config_from_dict
from parrot_jax.evaluate.answer_config import AnswerConfig
from parrot_jax.evaluate.answering import JOURNAL
from parrot_jax.evaluate.fastchat import FOLDER
from parrot_jax.evaluate.judge_config import JudgeConfig
from parrot_jax.view.answers import (
    ANSWERS,
    Answers,
    Key,
    filed_answers,
    journaled_answers,
    judged_answers,
)
from parrot_jax.view.judgments import Judgment, Reject, filed_judgments, journaled_judgments
from parrot_jax.view.shown import Note, Shown, ShownTurn
from parrot_jax.view.writing import IndexWriter

_MISSING = "why there is no answer"


def is_evaluation(folder: Path, journal_keys: Collection[str]) -> bool:
    """Whether a folder has answers or judgments.

    Args:
      folder: The folder.
      journal_keys: The keys of the config in its journal.
    """
    has_files = (folder / ANSWERS).is_dir() or (folder / FOLDER).is_dir()
    return has_files or "judge" in journal_keys or {"benchmark", "answerer"} <= set(journal_keys)


class EvaluatedAnswers:
    """The answers of an evaluation, one entry per model and question, or per pair of models."""

    kind = "evaluation"

    def __init__(self, folder: str) -> None:
        """Args: folder: Of the run."""
        self._folder = Path(folder).expanduser()
        self._seen: object = None

    @property
    def key(self) -> str:
        """Identifies the folder."""
        return f"evaluation:{self._folder.absolute()}"

    def progress(self) -> float | None:
        """Unknown; it is short."""
        return None

    def live_text(self, shown: Shown) -> None:
        """An evaluation does not say what is trained on."""

    def update(self, index: IndexWriter) -> Iterator[None]:
        """Reads everything again if a file has changed, and saves what differs.

        Raises:
          UserError: A journal is damaged.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return
        rejected: list[tuple[str, str]] = []
        found = read_evaluation(self._folder, lambda *row: rejected.append(row))
        known = dict(index.versions())
        if len(known) > len(found):
            index.start_over()
            known = {}
        with index.saving():
            index.forget_all_rejected()
            for row in rejected:
                index.reject(*row)
            for number, shown in enumerate(found):
                version = hashlib.sha256(shown.to_json()).hexdigest()
                if known.get(number) != version:
                    index.put(shown, number=number, version=version)
        self._seen = stamp
        yield

    def _stamp(self) -> object:
        files = [
            *self._folder.glob("*.jsonl"), *self._folder.glob("*.sqlite*"),
            *self._folder.glob(f"{ANSWERS}/*"), *self._folder.glob(f"{FOLDER}/*"),
        ]  # fmt: skip
        stats = [(str(file), file.stat()) for file in sorted(files) if file.exists()]
        return [(name, stat.st_size, stat.st_ctime_ns) for name, stat in stats]


def read_evaluation(folder: Path, reject: Reject) -> list[Shown]:
    """All answers of a folder with what judges said about them.

    Args:
      folder: The folder.
      reject: Takes rows that cannot be read.

    Raises:
      UserError: The journal is damaged.
    """
    answers: dict[Key, Answers] = {}
    judgments: list[Judgment] = []
    path = folder / JOURNAL
    with contextlib.ExitStack() as stack:
        reader, values = None, {}
        if path.is_file():
            reader = JournalReader(path)
            stack.callback(reader.close)
            values = dict(reader.last_start().config)
        if reader is not None and "judge" in values:
            config = config_from_dict(JudgeConfig, values, where=f"the run of {path}")
            answers |= judged_answers(config, reject)
            judgments += journaled_judgments(reader, config)
        elif reader is not None and "answerer" in values:
            config = config_from_dict(AnswerConfig, values, where=f"the run of {path}")
            answers |= journaled_answers(reader, config)
        else:
            answers |= filed_answers(folder, reject)
    judgments = judgments or list(filed_judgments(folder, reject))
    return _shown(answers, judgments)


def _shown(answers: Mapping[Key, Answers], judgments: Sequence[Judgment]) -> list[Shown]:
    by_place: dict[tuple[tuple[str, ...], str], list[Judgment]] = {}
    for one in judgments:
        by_place.setdefault((one.models, one.question), []).append(one)
    compared = {model for models, _ in by_place if len(models) > 1 for model in models}
    # A model that was only compared is shown beside the others, not once more alone.
    alone = [((model,), question) for model, question in answers if model not in compared]
    places = dict.fromkeys([*alone, *by_place])
    return [_show(models, question, answers, by_place.get((models, question), []))
            for models, question in places]  # fmt: skip


def _show(
    models: tuple[str, ...],
    question: str,
    answers: Mapping[Key, Answers],
    judgments: Sequence[Judgment],
) -> Shown:
    sides = [answers.get((model, question), Answers()) for model in models]
    first = max(sides, key=lambda side: len(side.questions))
    last = max(
        [
            len(first.questions),
            *(one.turn for one in judgments),
            *sides[0].answers,
            *sides[0].reasons,
        ],
        default=0,
    )
    turns = []
    for turn in range(1, last + 1):
        said = [one for one in judgments if one.turn == turn]
        known = first.questions[turn - 1 : turn]
        prompts = [Note(title="what the judge was shown", text=j.prompt) for j in said if j.prompt]
        notes = () if known else tuple(prompts[:1])
        text = known[0] if known else "(the question is not in this folder)"
        turns.append(ShownTurn(role="user", text=text, notes=notes))
        shown = [_answer(side, model, turn, said, is_first=side is sides[0])
                 for side, model in zip(sides, models, strict=True)]  # fmt: skip
        turns.append(_beside(shown))
    scores = [turn.score for turn in turns if turn.score is not None]
    return Shown(
        id=f"{question}: {' and '.join(models)}",
        place=f"question {question}",
        system=first.system,
        turns=tuple(turns),
        facts=(("category", first.category),) if first.category else (),
        models=models,
        flags=tuple(_flags(sides, judgments)),
        score=sum(scores) / len(scores) if scores else None,
    )


def _answer(
    side: Answers, model: str, turn: int, judgments: Sequence[Judgment], *, is_first: bool
) -> ShownTurn:
    given = [one.answer for one in judgments if one.answer is not None]
    text = side.answers.get(turn) or (given[0] if given and is_first else None)
    scores = [one.score for one in judgments if one.score is not None]
    reason = side.reasons.get(turn, "")
    # It may quote a server.
    missing = [Note(title=_MISSING, text=reason, is_private=True)] if reason and not text else []
    return ShownTurn(
        role="assistant",
        name=model,
        text=text or "(no answer)",
        facts=side.facts.get(turn, ()) if text else (),
        notes=(*missing, *(one.note for one in judgments if is_first)),
        score=sum(scores) / len(scores) if scores and is_first else None,
        is_left_out=text is None and bool(reason),
    )


def _beside(sides: Sequence[ShownTurn]) -> ShownTurn:
    return sides[0] if len(sides) == 1 else replace(sides[0], other=sides[1])


def _flags(sides: Sequence[Answers], judgments: Sequence[Judgment]) -> Iterator[str]:
    if len(sides) > 1:
        yield "compared"
    if any(side.reasons for side in sides):
        yield "missing answers"
    if any(len(one.models) == 1 and one.score is None for one in judgments):
        yield "unscored"
