"""A judge's verdicts of an evaluation, from its journal or from FastChat's files."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from parrot_jax.api.journal_reader import Exchange, JournalReader
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.evaluate.fastchat import FOLDER, ComparedTurn, parse_judgment
from parrot_jax.evaluate.judge_config import MAX_ATTEMPTS, JudgeConfig
from parrot_jax.evaluate.rows import Rejected, number_at, read_rows
from parrot_jax.evaluate.sheets import model_id_of
from parrot_jax.evaluate.verdicts import Verdict, read_comparison, read_grade
from parrot_jax.view.shown import Note

Reject = Callable[[str, str], None]
"""Takes the place of a row that cannot be read, and the problem."""


class Judgment(NamedTuple):
    """What a judge said about one turn of one model, or of two."""

    models: tuple[str, ...]
    """Their names in FastChat's files."""
    question: str
    turn: int
    """From 1."""
    note: Note
    score: float | None
    """None = a comparison, or no clear grade."""
    answer: str | None = None
    """The judged answer, where the row has it."""
    prompt: str = ""
    """What the judge was shown, where the row has it."""


def journaled_judgments(reader: JournalReader, config: JudgeConfig) -> Iterator[Judgment]:
    """The judgments so far of a run of `parrot evaluate judge`."""
    for number, text in enumerate(list(reader.items())):
        item = json.loads(text)
        exchanges = reader.exchanges(number)
        # A judgment is asked for again until it is clear; the last reply counts.
        last = {exchange.step // MAX_ATTEMPTS: exchange for exchange in exchanges}
        models = tuple(model_id_of(model, item["history"]) for model in item["models"])
        for place, exchange in sorted(last.items()):
            is_grade = len(models) == 1
            order = 0 if is_grade else place % 2
            verdict = (
                read_grade(exchange.reply.text)
                if is_grade
                else read_comparison(exchange.reply.text, order)
            )
            where = "" if is_grade else f", order {order + 1}"
            yield Judgment(
                models,
                str(item["question"]),
                item["turn"],
                _note(f"{config.label}{where}", verdict, exchange),
                float(verdict.value) if isinstance(verdict.value, int | float) else None,
            )


def filed_judgments(folder: Path, reject: Reject) -> Iterator[Judgment]:
    """The judgments in the files of a folder."""
    for file in sorted((folder / FOLDER).glob("*.jsonl")):
        yield from _of_file(file, reject)


def _of_file(file: Path, reject: Reject) -> Iterator[Judgment]:
    rejected = RejectingRows(reject)
    for row, parsed in read_rows(file, lambda row: (row, parse_judgment(row)), rejected):
        if isinstance(parsed, ComparedTurn):
            for order in (0, 1):
                won = parsed.stored_winners[order] or "no winner"
                note = Note(title=f"{parsed.judge}, order {order + 1}: {won}",
                            text=parsed.texts[order] or _reason(row))  # fmt: skip
                yield Judgment(parsed.models, parsed.question_id, parsed.turn, note, None)
            continue
        score = None
        with contextlib.suppress(BrokenRowError):  # the text is shown without a score
            score = number_at(row, "score")
        score = None if score is None or score < 0 else score
        given = "no grade" if score is None else f"{score:g}"
        answer, prompt = row.get("answer"), row.get("user_prompt")
        yield Judgment(
            (parsed.model,),
            parsed.question_id,
            parsed.turn,
            Note(title=f"{parsed.judge or 'judge'}: {given}", text=parsed.text or _reason(row)),
            score,
            answer if isinstance(answer, str) else None,
            prompt if isinstance(prompt, str) else "",
        )


class RejectingRows(Rejected):
    """Passes rejected rows on, each with its place."""

    def __init__(self, reject: Reject) -> None:
        """Args: reject: Takes them."""
        super().__init__()
        self._reject = reject

    def add(self, path: Path | str, line: int, problem: BrokenRowError) -> None:
        """Passes a row on."""
        super().add(path, line, problem)
        self._reject(f"{path}:{line}", str(problem))


def _note(judge: str, verdict: Verdict, exchange: Exchange) -> Note:
    said = verdict.reason if verdict.value is None else verdict.value
    said = f"{said:g}" if isinstance(said, float) else said
    usage = exchange.usage
    tokens = (
        "" if usage is None else f" ({usage.prompt:,} tokens read, {usage.completion:,} written)"
    )
    return Note(title=f"{judge}: {said}{tokens}", text=exchange.reply.text or "(no text)")


def _reason(row: dict[str, Any]) -> str:
    return str(row.get("reason") or "(no text)")
