"""Runs a benchmark: a job whose items are dialogues of fixed questions."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from parrot_jax.api.endpoint import Endpoint, request_body, seed_from
from parrot_jax.api.endpoint_config import changes_of_replies
from parrot_jax.api.job_journal import open_items
from parrot_jax.api.jobs import Job
from parrot_jax.api.journal import End, Start
from parrot_jax.api.journal_reader import JournalReader, SpeakerCounts
from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.api.run_async import run_async
from parrot_jax.core.config import check_config, config_from_dict, config_to_dict
from parrot_jax.core.errors import ParrotError, UserError
from parrot_jax.core.logs import console, visible
from parrot_jax.dialogue.reasoning import split_reasoning
from parrot_jax.evaluate.answer_config import AnswerConfig, History
from parrot_jax.evaluate.benchmark import Question, read_benchmark
from parrot_jax.evaluate.sheets import Sheet, write_sheets

_SPEAKER = "answerer"
_ANSWERED = "answered"
JOURNAL = "journal.sqlite"


class Item(NamedTuple):
    """A question with one kind of history."""

    question: Question
    history: History

    def input(self) -> str:
        """The item in the journal. A changed question is a new item."""
        content: dict[str, Any] = {
            "question": self.question.id,
            "history": self.history,
            "turns": self.question.turns,
        }
        if self.question.system:
            content["system"] = self.question.system
        if self.history == "reference":
            content["references"] = self.question.references[:-1]
        return json.dumps(content, ensure_ascii=False)

    def messages(self, answers: Sequence[str | None]) -> list[dict[str, str]] | None:
        """The request for the next turn.

        Args:
          answers: The answers to all earlier turns, in this run.

        Returns:
          None if the history lacks an answer.
        """
        turn = len(answers)
        before: Sequence[str | None] = {
            "own": answers, "reference": self.question.references[:turn], "none": (),
        }[self.history]  # fmt: skip
        system = self.question.system
        messages = [{"role": "system", "content": system}] if system else []
        for question, answer in zip(self.question.turns, before, strict=False):
            if answer is None:
                return None
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return [*messages, {"role": "user", "content": self.question.turns[turn]}]


@dataclass(frozen=True, kw_only=True)
class AnswerSummary:
    """The result of a run, with that of earlier runs of the folder."""

    sheets: Sequence[Sheet]
    files: Sequence[Path]
    counts: SpeakerCounts
    """Of all requests so far."""
    models: Sequence[str]
    """The models, as the server names them."""
    problem: ParrotError | None
    """Why answers are missing; None if none are."""

    def lines(self) -> Iterator[str]:
        """The summary as text."""
        turns = sum(len(sheet.answers) for sheet in self.sheets)
        missing = Counter(reason for sheet in self.sheets for reason in sheet.reasons.values())
        cut = sum(len(sheet.cut) for sheet in self.sheets)
        yield (
            f"{turns - missing.total():,} of {turns:,} turns of {len(self.sheets):,} dialogues "
            f"are answered, {cut:,} of them cut at the token limit; {missing.total():,} are missing"
        )
        for reason, count in missing.most_common():
            yield f"  {count:,}: {visible(reason)}"
        yield (
            f"{self.counts.requests:,} requests, {self.counts.failed:,} failed, "
            f"{self.counts.lost:,} lost; {self.counts.known.total:,} tokens"
        )
        if self.files:
            yield f"wrote {', '.join(map(str, self.files))}"


def answer(config: AnswerConfig) -> AnswerSummary:
    """Lets a model answer a benchmark, or asks again for what is missing.

    The answers so far are always written, unless the process is killed.

    Raises:
      UserError: The benchmark is invalid, the folder holds the answers of another model, a key is
        not set, or the disk is full.
      KeyboardInterrupt: See `Job.run`.
    """
    check_config(config, AnswerConfig)
    return run_async(_answer(config))


def items_of(config: AnswerConfig) -> list[Item]:
    """The dialogues of a run: each question with each history.

    A question without the references that a history needs is left out, and counted on the console.

    Raises:
      UserError: The benchmark is invalid, or no question has the references.
    """
    questions = read_benchmark(config.benchmark, references=config.references)
    categories = sorted({question.category for question in questions})
    if unknown := config.temperatures.keys() - set(categories):
        raise UserError(
            f"temperatures has {', '.join(sorted(unknown))}, but the categories of "
            f"{config.benchmark} are {', '.join(map(repr, categories))}."
        )
    questions = questions[: config.limit]
    items = []
    for history in config.history:
        fit = [q for q in questions if history != "reference" or None not in q.references[:-1]]
        if not fit:
            raise UserError(
                f"history {history!r} needs reference answers, and no question of "
                f"{config.benchmark} has them; set `references`."
            )
        if len(fit) < len(questions):
            console.print(
                f"history {history}: {len(questions) - len(fit):,} of {len(questions):,} questions "
                "lack a reference for an earlier turn; left out"
            )
        items += [Item(question, history) for question in fit]
    return items


async def _answer(config: AnswerConfig) -> AnswerSummary:
    items = items_of(config)
    endpoint = Endpoint(config.answerer)
    path = Path(config.out) / JOURNAL
    inputs = [item.input() for item in items]
    with (
        open_items(
            path, Start(config_to_dict(config)), inputs, lambda old: _check_same(old, config, path)
        ) as journal,
        contextlib.closing(JournalReader(path)) as reader,
    ):
        job = Job(
            {_SPEAKER: endpoint}, journal, reader,
            retries=config.answerer.retries, concurrency=config.answerer.concurrency,
        )  # fmt: skip
        numbers = {text: number for number, text in enumerate(reader.items())}
        places = {numbers[item.input()]: item for item in items}
        answering = _Answering(config, job, reader, places)
        done = [number for number in places if _is_answered(reader, number)]
        try:
            await job.run(
                [number for number in places if number not in set(done)], answering.carry_on,
                noun="dialogues", total=len(places), finished=len(done),
            )  # fmt: skip
        finally:
            journal.check_in_place()  # never write results without a journal
            sheets = [_sheet(config, reader, job, number, item) for number, item in places.items()]
            files = write_sheets(Path(config.out), sheets)
        return AnswerSummary(
            sheets=sheets,
            files=files,
            counts=reader.counts().speakers.get(_SPEAKER, SpeakerCounts()),
            models=reader.models().get(_SPEAKER, []),
            problem=job.problem,
        )


class _Answering:
    """Asks the questions of dialogues."""

    def __init__(
        self,
        config: AnswerConfig,
        job: Job,
        reader: JournalReader,
        places: Mapping[int, Item],
    ) -> None:
        self.config, self.job, self.reader, self.places = config, job, reader, places

    async def carry_on(self, number: int) -> str | None:
        """Asks for the missing answers of a dialogue; None if some are still missing."""
        item = self.places[number]
        known = _answers(self.reader, number)
        unusable = Counter(step for step, _ in self.reader.said(number) if step not in known)
        answers: list[str | None] = []
        for turn in range(len(item.question.turns)):
            text = known[turn].text if turn in known else None
            messages = item.messages(answers)
            if text is None and messages is not None:
                # With the same seed, an empty answer would come again.
                again = f" again {unusable[turn]}" if unusable[turn] else ""
                seed = seed_from(f"{self.config.seed} {turn} {item.input()}{again}")
                response = await self.job.ask(
                    number, turn, _SPEAKER,
                    request_body(self._sampling(item.question), messages, seed=seed),
                    if_rejected=End(Outcome.REJECTED.value, turn),
                )  # fmt: skip
                if response is not None:
                    text, reason = read_answer(response.reply)
                    self.job.note_use(_SPEAKER, reason or None)
            answers.append(text)
        if None in answers:
            return None
        await self.job.finish(number, End(_ANSWERED, len(answers)))
        return _ANSWERED

    def _sampling(self, question: Question) -> Any:
        temperature = self.config.temperatures.get(
            question.category, self.config.answerer.temperature
        )
        return replace(self.config.answerer, temperature=temperature)


def read_answer(reply: Reply) -> tuple[str | None, str]:
    """The answer in a reply, without its reasoning, and why it is missing.

    A reply that reached the token limit is an answer, as in MT-Bench; one that a filter cut is not.

    >>> read_answer(Reply(Outcome.COMPLETE, "<think>Hm.</think>Four."))
    ('Four.', '')
    >>> read_answer(Reply(Outcome.FILTERED, "I"))
    (None, 'filtered')
    """
    if reply.outcome not in (Outcome.COMPLETE, Outcome.CUT):
        return None, reply.outcome.value
    text = split_reasoning(reply.text).text.strip()
    if text:
        return text, ""
    return None, "only reasoning" if reply.text.strip() else "empty"


def _answers(reader: JournalReader, number: int) -> dict[int, Reply]:
    """The answers of an item so far, by turn from 0, with text instead of reasoning."""
    found = {}
    for step, reply in reader.said(number):
        text, _ = read_answer(reply)
        if text is not None:
            found[step] = reply._replace(text=text)
    return found


def _is_answered(reader: JournalReader, number: int) -> bool:
    end = reader.end(number)
    return end is not None and end.reason == _ANSWERED


def _sheet(config: AnswerConfig, reader: JournalReader, job: Job, number: int, item: Item) -> Sheet:
    answers = _answers(reader, number)
    failed = {step: read_answer(reply)[1] for step, reply in reader.said(number)}
    end = reader.end(number)

    def why_none(turn: int) -> str:
        if failed.get(turn):
            return failed[turn]
        if end is not None and end.reason == Outcome.REJECTED.value and end.progress == turn:
            return f"rejected: {end.detail or ''}"
        if (number, turn) in job.unanswered:
            return "no reply"
        if item.history == "own" and any(earlier not in answers for earlier in range(turn)):
            return "an earlier answer is missing"
        return f"not asked: {job.stopped_by}" if job.stopped_by else "not asked"

    turns = range(len(item.question.turns))
    return Sheet(
        model=config.label,
        question_id=item.question.id,
        history=item.history,
        answers=tuple(answers[turn].text if turn in answers else None for turn in turns),
        reasons={turn + 1: why_none(turn) for turn in turns if turn not in answers},
        cut=tuple(
            turn + 1 for turn in turns if turn in answers and answers[turn].outcome is Outcome.CUT
        ),
        answered_at=reader.last_reply_at(number) or 0.0,
    )


def _check_same(old: Start, config: AnswerConfig, path: Path) -> None:
    before = config_from_dict(AnswerConfig, old.config, where=f"the run of {path}")
    changes = changes_of_replies(before.answerer, config.answerer)
    for key in ("temperatures", "seed"):
        if getattr(before, key) != getattr(config, key):
            changes.append(f"{key}: {getattr(before, key)} -> {getattr(config, key)}")
    if changes:
        raise UserError(
            f"{path} has the answers of another model or other settings ({'; '.join(changes)}); "
            "choose another `out`, or restore the old values."
        )
