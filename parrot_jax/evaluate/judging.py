"""Runs a judge: a job whose items are the turns to judge."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parrot_jax.api.budget import usd
from parrot_jax.api.endpoint import Endpoint, request_body, seed_from
from parrot_jax.api.endpoint_config import changes_of_replies
from parrot_jax.api.job_journal import open_items
from parrot_jax.api.jobs import Job
from parrot_jax.api.journal import End, Start
from parrot_jax.api.journal_reader import Exchange, JournalReader, SpeakerCounts
from parrot_jax.api.prompts import changed_prompts
from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.api.run_async import run_async
from parrot_jax.core.config import check_config, config_from_dict, config_to_dict
from parrot_jax.core.errors import ParrotError, UserError
from parrot_jax.core.logs import console, visible
from parrot_jax.core.paths import as_path
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import read_sources
from parrot_jax.dialogue.writers import DIALOGUES
from parrot_jax.evaluate.benchmark import read_benchmark
from parrot_jax.evaluate.conversations import Conversation, from_dialogues, from_sheets
from parrot_jax.evaluate.fastchat import write_judgments
from parrot_jax.evaluate.judge_config import MAX_ATTEMPTS, JudgeConfig
from parrot_jax.evaluate.judge_prompts import load_judge_prompts
from parrot_jax.evaluate.judge_tasks import Failed, Task, make_tasks
from parrot_jax.evaluate.sheets import read_sheets

_SPEAKER = "judge"
_JUDGED, _UNCLEAR = "judged", "unclear"
JOURNAL = "journal.sqlite"
_DATE = re.compile(r"-(?:\d{4}|\d{8}|\d{4}-\d\d-\d\d)(?:-preview)?$")


@dataclass(frozen=True, kw_only=True)
class JudgeSummary:
    """The result of a run, with that of earlier runs of the folder."""

    file: Path
    rows: Sequence[Mapping[str, Any]]
    """The rows of the file."""
    counts: SpeakerCounts
    """Of all requests so far."""
    cost: float | None
    """USD; None = the price is unknown."""
    problem: ParrotError | None
    """Why turns are not judged; None if all are."""

    def lines(self) -> Iterator[str]:
        """The summary as text."""
        failed = [row for row in self.rows if row.get("failed")]
        unscored = [row for row in self.rows if row.get("reason") and not row.get("failed")]
        yield (
            f"{len(self.rows):,} judgments: {len(self.rows) - len(failed) - len(unscored):,} "
            f"scored, {len(unscored):,} unscored, {len(failed):,} without an answer to judge"
        )
        for what, rows in (("unscored", unscored), ("no answer", failed)):
            for reason, count in Counter(row["reason"] for row in rows).most_common():
                yield f"  {what} {count:,}: {visible(reason)}"
        cost = "unknown" if self.cost is None else f"{self.cost:,.2f} USD"
        yield (
            f"{self.counts.requests:,} requests, {self.counts.failed:,} failed, "
            f"{self.counts.lost:,} lost; {self.counts.known.total:,} tokens; cost {cost}"
        )
        yield f"wrote {self.file}"


def judge(config: JudgeConfig) -> JudgeSummary:
    """Judges answers, or asks again for what is missing.

    The judgments so far are always written, unless the process is killed.

    Raises:
      UserError: An input is invalid, the folder holds the judgments of another judge, a key is not
        set, or the disk is full.
      KeyboardInterrupt: See `Job.run`.
    """
    check_config(config, JudgeConfig)
    return run_async(_judge(config))


async def _judge(config: JudgeConfig) -> JudgeSummary:
    prompts = load_judge_prompts(config.prompts)
    conversations = read_conversations(config)
    _warn_of_equal_models(config, conversations)
    tasks, failed = make_tasks(config, conversations, prompts)
    endpoint = Endpoint(config.judge)
    path = Path(config.out) / JOURNAL
    used = {prompt.name: prompt.record() for prompt in prompts.by_use.values()}
    inputs = [task.input() for task in tasks]
    with (
        open_items(
            path,
            Start(config_to_dict(config), used),
            inputs,
            lambda old: _check_same(old, config, used, path),
        ) as journal,
        contextlib.closing(JournalReader(path)) as reader,
    ):
        job = Job(
            {_SPEAKER: endpoint}, journal, reader,
            retries=config.judge.retries, concurrency=config.judge.concurrency,
        )  # fmt: skip
        numbers = {text: number for number, text in enumerate(reader.items())}
        places = {numbers[task.input()]: task for task in tasks}
        judging = _Judging(config, job, reader, places)
        open_numbers = [number for number in places if not judging.is_judged(number)]
        try:
            await job.run(
                open_numbers, judging.carry_on,
                noun="turns", total=len(places), finished=len(places) - len(open_numbers),
            )  # fmt: skip
        finally:
            journal.check_in_place()  # never write results without a journal
            rows = [
                *(row for number in places for row in judging.rows(number)),
                *(_failed_row(config, one) for one in failed),
            ]
            kind = "single" if config.mode == "single" else "pair"
            file = write_judgments(Path(config.out), config.label, kind, rows)
        counts = reader.counts().speakers.get(_SPEAKER, SpeakerCounts())
        return JudgeSummary(
            file=file,
            rows=rows,
            counts=counts,
            cost=None if config.judge.price is None else usd(counts.known, config.judge.price),
            problem=job.problem,
        )


class _Judging:
    """Asks the judge about turns."""

    def __init__(
        self, config: JudgeConfig, job: Job, reader: JournalReader, places: Mapping[int, Task]
    ) -> None:
        self.config, self.job, self.reader, self.places = config, job, reader, places

    def is_judged(self, number: int) -> bool:
        """Whether enough judgments are in the journal."""
        end = self.reader.end(number)
        return end is not None and end.reason == _JUDGED and end.progress >= self.config.repeats

    async def carry_on(self, number: int) -> str | None:
        """Asks for the missing judgments of a turn; None if some are still missing."""
        task = self.places[number]
        replies: dict[int, Reply] = dict(self.reader.said(number))
        clear = [
            await self._ask(number, task, replies, repeat, order)
            for repeat in range(self.config.repeats)
            for order in range(len(task.requests))
        ]
        if None in clear:
            return None
        # What is unclear is asked again by a run with more `attempts`.
        reason = _JUDGED if all(clear) else _UNCLEAR
        await self.job.finish(number, End(reason, self.config.repeats))
        return reason

    async def _ask(
        self, number: int, task: Task, replies: Mapping[int, Reply], repeat: int, order: int
    ) -> bool | None:
        """Asks until a reply is clear or no attempts are left.

        Returns:
          Whether a reply is clear; None if a request has no reply.
        """
        for attempt, step in enumerate(self._steps(task, repeat, order)):
            reply = replies.get(step)
            if reply is None and attempt >= self.config.attempts:
                break
            if reply is None:
                body = request_body(
                    self.config.judge,
                    task.requests[order],
                    seed=seed_from(f"{self.config.seed} {step} {task.input()}"),
                )
                response = await self.job.ask(
                    number, step, _SPEAKER, body,
                    if_rejected=End(Outcome.REJECTED.value),
                    verdict=lambda reply: task.read(reply, order).reason or None,
                )  # fmt: skip
                if response is None:
                    return None
                reply = response.reply
                self.job.note_use(_SPEAKER, task.read(reply, order).reason or None)
            if task.read(reply, order).value is not None:
                return True
        return False

    def _steps(self, task: Task, repeat: int, order: int) -> range:
        """The steps of one judgment in the journal: one per attempt.

        Replies count even beyond `attempts`, so that a lower value takes no grade away.
        """
        first = (repeat * len(task.requests) + order) * MAX_ATTEMPTS
        return range(first, first + MAX_ATTEMPTS)

    def rows(self, number: int) -> Iterator[dict[str, Any]]:
        """The judgments of a turn as rows of FastChat's `model_judgment/`, with a few more keys."""
        task = self.places[number]
        by_step = {one.step: one for one in self.reader.exchanges(number)}
        for repeat in range(self.config.repeats):
            last = [
                _last(by_step, self._steps(task, repeat, order))
                for order in range(len(task.requests))
            ]
            row = _row(self.config, task.conversations, task.turn) | {"repeat": repeat}
            row["judge"] = [self.config.label, task.prompt.name]
            row["prompt_sha256"] = task.prompt.sha256
            verdicts = [
                task.read(one.reply, order) if one else None for order, one in enumerate(last)
            ]
            reasons = [
                self._why_none(number) if verdict is None else verdict.reason
                for verdict in verdicts
            ]
            values = [verdict.value if verdict else None for verdict in verdicts]
            if len(task.requests) == 1:
                row |= {
                    "answer": task.conversations[0].answers[task.turn - 1],
                    "user_prompt": task.requests[0][-1]["content"],
                    "judgment": last[0].reply.text if last[0] else "",
                    "score": values[0],
                }
            else:
                for order, one in enumerate(last):
                    row |= {
                        f"g{order + 1}_winner": values[order] or "error",
                        f"g{order + 1}_user_prompt": task.requests[order][-1]["content"],
                        f"g{order + 1}_judgment": one.reply.text if one else "",
                    }
            if reason := next(filter(None, reasons), ""):
                row["reason"] = reason
            attempts = [
                by_step[step]
                for order in range(len(task.requests))
                for step in self._steps(task, repeat, order)
                if step in by_step
            ]
            yield row | _of_exchanges(self.config, attempts)

    def _why_none(self, number: int) -> str:
        end = self.reader.end(number)
        if end is not None and end.reason == Outcome.REJECTED.value:
            return f"rejected: {end.detail or ''}"
        if any(item == number for item, _ in self.job.unanswered):
            return "no reply"
        return f"not asked: {self.job.stopped_by}" if self.job.stopped_by else "not asked"


def read_conversations(config: JudgeConfig) -> list[Conversation]:
    """Everything that the config names.

    Raises:
      UserError: A file is invalid, or a model's answers are named twice.
    """
    found = []
    if config.answers and config.benchmark is not None:
        questions = read_benchmark(config.benchmark, references=config.references)
        sheets = [sheet for path in config.answers for sheet in read_sheets(path)]
        found += from_sheets(questions, sheets)
    for source in config.dialogues:
        report = ReadReport()
        path = as_path(source.path)
        if path.is_dir():
            source = replace(source, path=str(path / DIALOGUES))
        dialogues = read_sources([source], seed=config.seed, report=report)
        found += from_dialogues(source.name, dialogues)
        console.print(report.summary(), markup=False)
    seen = Counter((one.model, one.history, str(one.question_id)) for one in found)
    for (model, history, question), times in seen.items():
        if times > 1:
            raise UserError(
                f"question {question} of {model} (history {history}) is given {times} times; name "
                "each model's answers once, or give the models different names."
            )
    return found


def _warn_of_equal_models(config: JudgeConfig, conversations: Sequence[Conversation]) -> None:
    """A judge prefers its own answers, and a model that wrote the references equals them."""
    judge_model = _bare(config.judge.model)
    judged = {_bare(one.model) for one in conversations}
    references = {
        _bare(name) for one in conversations for name in one.reference_model.split(", ")
    } - {""}
    for what, names in (
        (f"{judge_model} judges its own answers", judged & {judge_model}),
        (f"{judge_model} judges with references that it wrote", references & {judge_model}),
        ("a judged model wrote the references", judged & references),
    ):
        if names:
            console.print(f"warning: {what}; its scores are too high.")


def _bare(model: str) -> str:
    """The name without organisation and date.

    >>> _bare("openai/gpt-4-0613"), _bare("gpt-4-0125-preview"), _bare("claude-3-opus-20240229")
    ('gpt-4', 'gpt-4', 'claude-3-opus')
    """
    name = model.rstrip("/").rpartition("/")[2].lower()
    return _DATE.sub("", name)


def _row(config: JudgeConfig, conversations: Sequence[Conversation], turn: int) -> dict[str, Any]:
    first = conversations[0]
    ids = [one.model_id for one in conversations]
    row: dict[str, Any] = {"question_id": first.question_id}
    row |= {"model": ids[0]} if len(ids) == 1 else {"model_1": ids[0], "model_2": ids[1]}
    if first.asker_stop and turn == len(first.questions):
        row["asker_stop"] = first.asker_stop
    return row | {
        "turn": turn,
        "history": first.history,
        "category": first.category,
        "judge": [config.label, ""],
    }


def _failed_row(config: JudgeConfig, failed: Failed) -> dict[str, Any]:
    row = _row(config, failed.conversations, failed.turn)
    if len(failed.conversations) == 1:
        row |= {"judgment": "", "score": None}
    else:
        row |= {f"g{order}_{key}": value for order in (1, 2)
                for key, value in (("winner", "error"), ("judgment", ""))}  # fmt: skip
    return row | {"failed": True, "reason": failed.reason, "tstamp": 0.0}


def _of_exchanges(config: JudgeConfig, exchanges: Sequence[Exchange]) -> dict[str, Any]:
    """What the server said of itself, times, tokens and cost."""
    if not exchanges:
        return {"tstamp": 0.0}
    usages = [one.usage for one in exchanges if one.usage is not None]
    prompt, completion = (sum(usage[part] for usage in usages) for part in (0, 1))
    price = config.judge.price
    return {
        "tstamp": exchanges[-1].received_at,
        "judge_model": exchanges[-1].model,
        "system_fingerprint": _fingerprint(exchanges[-1]),
        "seconds": sum(one.received_at - one.sent_at for one in exchanges),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "usd": None if price is None else sum(usd(usage, price) for usage in usages),
    }


def _fingerprint(exchange: Exchange) -> str | None:
    try:
        value = json.loads(exchange.body or "").get("system_fingerprint")
    except (ValueError, AttributeError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def _last(by_step: Mapping[int, Exchange], steps: range) -> Exchange | None:
    return next((by_step[step] for step in reversed(steps) if step in by_step), None)


def _check_same(
    old: Start, config: JudgeConfig, prompts: Mapping[str, Mapping[str, str]], path: Path
) -> None:
    before = config_from_dict(JudgeConfig, old.config, where=f"the run of {path}")
    changes = changes_of_replies(before.judge, config.judge)
    for key in ("mode", "seed"):
        if getattr(before, key) != getattr(config, key):
            changes.append(f"{key}: {getattr(before, key)} -> {getattr(config, key)}")
    changes += changed_prompts(old.prompts, prompts)
    if changes:
        raise UserError(
            f"{path} has the judgments of another judge or other settings ({'; '.join(changes)}); "
            "choose another `out`, or restore the old values."
        )
