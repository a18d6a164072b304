"""The answers of an evaluation, from a journal, from what a judge was given, or from files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parrot_jax.api.journal_reader import JournalReader
from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.answer_config import AnswerConfig
from parrot_jax.evaluate.answering import read_answer
from parrot_jax.evaluate.benchmark import read_benchmark
from parrot_jax.evaluate.judge_config import JudgeConfig
from parrot_jax.evaluate.judging import read_conversations
from parrot_jax.evaluate.rows import read_rows
from parrot_jax.evaluate.sheets import model_id_of, parse_sheet
from parrot_jax.view.judgments import Reject, RejectingRows

ANSWERS = "model_answer"
"""The folder of answers in FastChat's form."""

_QUESTIONS = "question.jsonl"


@dataclass
class Answers:
    """The answers of one model to one question of a benchmark."""

    questions: list[str] = field(default_factory=list)
    answers: dict[int, str] = field(default_factory=dict)
    """By turn from 1."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why an answer is missing."""
    facts: dict[int, tuple[str, ...]] = field(default_factory=dict)
    category: str = ""
    system: str = ""


Key = tuple[str, str]
"""Model and question."""


def journaled_answers(reader: JournalReader, config: AnswerConfig) -> dict[Key, Answers]:
    """The answers so far of a run of `parrot evaluate answer`."""
    found: dict[Key, Answers] = {}
    for number, text in enumerate(list(reader.items())):
        item = json.loads(text)
        one = Answers(questions=list(item["turns"]), system=item.get("system", ""))
        attempts = reader.attempts(number)
        for exchange in reader.exchanges(number):
            turn = exchange.step + 1
            answer, reason = read_answer(exchange.reply)
            if answer is None:
                one.reasons[turn] = reason
                continue
            one.answers[turn] = answer
            facts = [exchange.model or config.label]
            if exchange.usage is not None:
                read, wrote = exchange.usage
                facts.append(f"{read:,} tokens read, {wrote:,} written")
            facts.append(f"{exchange.received_at - exchange.sent_at:.2f} s")
            times = sum(attempt.step == exchange.step for attempt in attempts)
            facts += [f"{times} attempts"] if times > 1 else []
            facts += ["cut at the token limit"] if exchange.reply.outcome == "cut" else []
            one.facts[turn] = tuple(facts)
        end = reader.end(number)
        for turn in range(1, len(one.questions) + 1):
            if turn not in one.answers:
                one.reasons.setdefault(turn, (end.detail or end.reason) if end else "not answered")
        found[model_id_of(config.label, item["history"]), str(item["question"])] = one
    return found


def judged_answers(config: JudgeConfig, reject: Reject) -> dict[Key, Answers]:
    """The answers that a judge was given; empty if they are not there any more."""
    try:
        conversations = read_conversations(config)
    except UserError as error:
        reject("the judged answers", str(error))
        return {}
    return {
        (one.model_id, str(one.question_id)): Answers(
            questions=list(one.questions),
            answers={turn: text for turn, text in enumerate(one.answers, 1) if text is not None},
            reasons=dict(one.reasons),
            category=one.category,
        )
        for one in conversations
    }


def filed_answers(folder: Path, reject: Reject) -> dict[Key, Answers]:
    """The answers in the files of a folder, with the questions beside them if they are there."""
    questions: Mapping[str, tuple[Sequence[str], str]] = {}
    path = folder / _QUESTIONS
    if path.exists():
        try:
            questions = {str(q.id): (q.turns, q.category) for q in read_benchmark(str(path))}
        except UserError as error:
            reject(str(path), str(error))
    found: dict[Key, Answers] = {}
    for file in [*sorted(folder.glob(f"{ANSWERS}/*.jsonl")), folder / "incomplete.jsonl"]:
        if not file.exists():
            continue
        for sheet in read_rows(file, parse_sheet, RejectingRows(reject)):
            turns, category = questions.get(str(sheet.question_id), ((), ""))
            found[sheet.model_id, str(sheet.question_id)] = Answers(
                questions=list(turns),
                answers={n: text for n, text in enumerate(sheet.answers, 1) if text is not None},
                reasons=dict(sheet.reasons),
                category=category,
            )
    return found
