"""Asks a judge about sessions: a job whose items are sessions, one step a measure.

A session is known by its questions. So one that is in two files, or in a larger sample later, is
judged once, and files and samples may change from run to run. The judge and its prompts may not:
their judgments would stand side by side under one name.
"""

import asyncio
import contextlib
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from parrot_jax.api.budget import usd
from parrot_jax.api.endpoint import Endpoint, request_body
from parrot_jax.api.endpoint_config import changes_of_replies
from parrot_jax.api.jobs import Job, open_journal
from parrot_jax.api.journal import End, Start
from parrot_jax.api.journal_reader import JournalReader, SpeakerCounts
from parrot_jax.api.prompts import Prompt, changed_prompts
from parrot_jax.api.replies import Outcome
from parrot_jax.core.config import config_from_dict, config_to_dict
from parrot_jax.core.errors import ParrotError, UserError
from parrot_jax.core.logs import visible
from parrot_jax.stats.judge_config import JudgeConfig
from parrot_jax.stats.judge_prompts import JUDGED, Judgment, messages_about, read_reply
from parrot_jax.stats.sessions import Session

_SPEAKER = "judge"


@dataclass(frozen=True, kw_only=True)
class Judgments:
    """What a judge said, in this run and in those before it."""

    by_session: Mapping[Session, Mapping[str, Judgment]]
    """For each session, one judgment a measure."""
    prompts: Mapping[str, Prompt]
    models: Sequence[str]
    """Who answered, as the server names it."""
    requests: int
    """All that were ever sent."""
    tokens: int
    """Of prompts and replies, as the server counts."""
    uncertain_tokens: int
    """The most that requests without a known count may have cost besides."""
    usd: float | None
    """What these cost at most, uncertain ones included; None = the price is not known."""
    problem: ParrotError | None
    """Why some were not asked; None = all were."""

    def reasons(self, sessions: Sequence[Session], key: str) -> dict[str, int]:
        """Why some of these sessions have no number, the most frequent reason first."""
        judgments = (self.by_session[session][key] for session in sessions)
        return dict(Counter(j.reason for j in judgments if j.number is None).most_common())


def check_judge(config: JudgeConfig) -> None:
    """Checks that a judge can be asked, before hours are spent on reading.

    Raises:
      UserError: The environment variable of its key is not set.
    """

    async def open_and_close() -> None:
        async with Endpoint(config):
            pass

    asyncio.run(open_and_close())


def judge_sessions(config: JudgeConfig, sessions: Sequence[Session], journal: Path) -> Judgments:
    """Gets every judgment of every session, from the journal or from the judge.

    Args:
      config: The judge.
      sessions: Equal ones are judged once.
      journal: An SQLite file; created if it is missing.

    Raises:
      UserError: The key is not set, the journal cannot be written, or it is another judge's.
      KeyboardInterrupt: As in `Job.run`.
    """
    return asyncio.run(_judge_sessions(config, list(dict.fromkeys(sessions)), journal))


async def _judge_sessions(
    config: JudgeConfig, sessions: Sequence[Session], path: Path
) -> Judgments:
    prompts = {key: measure.load() for key, measure in JUDGED.items()}
    endpoint = Endpoint(config)  # says first of all whether the key is there
    start = Start(config_to_dict(config), {key: p.record() for key, p in prompts.items()})

    def inputs(there: JournalReader | None) -> Iterable[str]:
        if there is None:
            return map(_input_of, sessions)
        # One that has judged nothing yet may be any other.
        if there.counts().speakers.get(_SPEAKER, SpeakerCounts()).answered:
            _check_same(there.last_start(), config, prompts, path)
        known = set(there.items())
        return [text for text in map(_input_of, sessions) if text not in known]

    with (
        open_journal(path, start, inputs) as journal,
        contextlib.closing(JournalReader(path)) as reader,
    ):
        job = Job(
            {_SPEAKER: endpoint}, journal, reader,
            retries=config.retries, concurrency=config.concurrency,
            console=Console(stderr=True),  # standard output can be piped
        )  # fmt: skip
        numbers = {text: number for number, text in enumerate(reader.items())}
        places = {session: numbers[_input_of(session)] for session in sessions}

        async def judge(session: Session) -> str | None:
            number = places[session]
            judged = {step for step, _ in reader.said(number)}
            is_whole = True
            for step, (key, measure) in enumerate(JUDGED.items()):
                if step in judged or reader.end(number) is not None:
                    continue
                messages = messages_about(session, prompts[key])
                read = functools.partial(read_reply, allowed=measure.range_of(session))
                response = await job.ask(
                    number, step, _SPEAKER,
                    request_body(config, messages, seed=_seed(session, key)),
                    verdict=lambda reply, read=read: read(reply).reason or None,
                    if_rejected=End(Outcome.REJECTED.value),
                )  # fmt: skip
                is_whole &= response is not None
                if response is not None:
                    job.note_use(_SPEAKER, read(response.reply).reason or None)
            return "judged" if is_whole else None

        rejected = reader.rejected()
        await job.run(
            sorted(places, key=lambda session: places[session] in rejected), judge,
            noun="sessions", total=len(places),
        )  # fmt: skip
        counts = reader.counts().speakers.get(_SPEAKER, SpeakerCounts())
        spent = counts.known.plus(counts.uncertain)
        return Judgments(
            by_session={s: _judgments(s, number, reader, job) for s, number in places.items()},
            prompts=prompts,
            models=reader.models().get(_SPEAKER, []),
            requests=counts.requests,
            tokens=counts.known.total,
            uncertain_tokens=counts.uncertain.total,
            usd=None if config.price is None else usd(spent, config.price),
            problem=job.problem,
        )


def _judgments(
    session: Session, number: int, reader: JournalReader, job: Job
) -> dict[str, Judgment]:
    """What the journal has on a session, one judgment a measure."""
    replies, end = dict(reader.said(number)), reader.end(number)

    def why_none(step: int) -> str:
        if end is not None:
            return f"{end.reason}: {visible(end.detail or '')}"
        if (number, step) in job.unanswered:
            return "no reply"
        return f"not asked: {job.stopped_by}" if job.stopped_by else "not asked"

    return {
        key: read_reply(replies[step], measure.range_of(session))
        if step in replies
        else Judgment(None, why_none(step))
        for step, (key, measure) in enumerate(JUDGED.items())
    }


def _check_same(old: Start, config: JudgeConfig, prompts: Mapping[str, Prompt], path: Path) -> None:
    before = config_from_dict(JudgeConfig, old.config, where=f"the judge of {path}")
    changes = [*changes_of_replies(before, config), *changed_prompts(old.prompts, prompts)]
    if changes:
        raise UserError(
            f"{path} holds the judgments of another judge ({'; '.join(changes)}); choose another "
            "--out, or the old values to continue."
        )


def _input_of(session: Session) -> str:
    """The session as a row of a `messages` file; equal for equal questions."""
    messages = [{"role": "user", "content": text} for text in session.questions]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def _seed(session: Session, key: str) -> int:
    """The seed of a request, in [0, 2^31): the same in every run."""
    digest = hashlib.sha256(f"{key} {_input_of(session)}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1
