"""Sends sessions to a judge: a job whose items are sessions, with one step per measure.

A session is identified by its questions. So a session that is in two files, or in a later, larger
sample, is judged once, and files and samples may change between runs. The judge and its prompts
must not change, since other judgments are not comparable.
"""

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from parrot_jax.api.budget import usd
from parrot_jax.api.endpoint import Endpoint, request_body, seed_from
from parrot_jax.api.endpoint_config import changes_of_replies
from parrot_jax.api.job_journal import open_items
from parrot_jax.api.jobs import Job
from parrot_jax.api.journal import End, Start
from parrot_jax.api.journal_reader import JournalReader, SpeakerCounts
from parrot_jax.api.prompts import Prompt, changed_prompts, records_of
from parrot_jax.api.replies import Outcome
from parrot_jax.api.run_async import run_async
from parrot_jax.core.config import config_from_dict, config_to_dict
from parrot_jax.core.errors import ParrotError, UserError
from parrot_jax.core.logs import visible
from parrot_jax.stats.judge_config import JudgeConfig
from parrot_jax.stats.judge_prompts import JUDGED, Judgment, messages_about, read_reply
from parrot_jax.stats.sessions import Session

_SPEAKER = "judge"


@dataclass(frozen=True, kw_only=True)
class Judgments:
    """A judge's results, of this run and earlier ones."""

    by_session: Mapping[Session, Mapping[str, Judgment]]
    """For each session, one judgment per measure."""
    prompts: Mapping[str, Prompt]
    models: Sequence[str]
    """The judge's models, as the server names them."""
    requests: int
    """All requests sent so far."""
    tokens: int
    """Tokens of prompts and replies, as counted by the server."""
    uncertain_tokens: int
    """Upper bound on the tokens of requests without token counts."""
    usd: float | None
    """Upper bound on the cost, including uncertain tokens; None = the price is unknown."""
    problem: ParrotError | None
    """Why some sessions were not judged; None if all were."""

    def reasons(self, sessions: Sequence[Session], key: str) -> dict[str, int]:
        """Counts why some of these sessions have no result, most frequent reason first."""
        judgments = (self.by_session[session][key] for session in sessions)
        return dict(Counter(j.reason for j in judgments if j.number is None).most_common())


def check_judge(config: JudgeConfig) -> None:
    """Checks that a judge can be used, before spending hours on reading.

    Raises:
      UserError: The environment variable of its key is not set.
    """

    async def open_and_close() -> None:
        async with Endpoint(config):
            pass

    run_async(open_and_close())


def judge_sessions(config: JudgeConfig, sessions: Sequence[Session], journal: Path) -> Judgments:
    """Gets all judgments of all sessions, from the journal or from the judge.

    Args:
      config: The judge.
      sessions: Duplicates are judged once.
      journal: An SQLite file; created if it is missing.

    Raises:
      UserError: The key is not set, the journal cannot be written, or it belongs to another judge.
      KeyboardInterrupt: See `Job.run`.
    """
    return run_async(_judge_sessions(config, list(dict.fromkeys(sessions)), journal))


async def _judge_sessions(
    config: JudgeConfig, sessions: Sequence[Session], path: Path
) -> Judgments:
    prompts = {key: measure.load() for key, measure in JUDGED.items()}
    endpoint = Endpoint(config)  # checks the key first
    start = Start(config_to_dict(config), records_of(prompts))
    with (
        open_items(
            path, start, [*map(_input_of, sessions)], lambda old: _check_same(old, start, path)
        ) as journal,
        contextlib.closing(JournalReader(path)) as reader,
    ):
        job = Job(
            {_SPEAKER: endpoint}, journal, reader,
            retries=config.retries, concurrency=config.concurrency,
            console=Console(stderr=True),  # stdout may be piped
        )  # fmt: skip
        numbers = {text: number for number, text in enumerate(reader.items())}
        places = {session: numbers[_input_of(session)] for session in sessions}

        async def judge(session: Session) -> str | None:
            number = places[session]
            if (end := reader.end(number)) is not None:
                return end.reason
            judged = {step for step, _ in reader.said(number)}
            is_whole = True
            for step, (key, measure) in enumerate(JUDGED.items()):
                if step in judged:
                    continue
                messages = messages_about(session, prompts[key])
                read = functools.partial(read_reply, allowed=measure.range_of(session))
                response = await job.ask(
                    number, step, _SPEAKER,
                    request_body(config, messages, seed=seed_from(f"{key} {_input_of(session)}")),
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
    """Returns the journal's judgments of a session, one per measure."""
    replies, end = dict(reader.said(number)), reader.end(number)

    def why_missing(step: int) -> str:
        if end is not None:
            return f"{end.reason}: {visible(end.detail or '')}"
        if (number, step) in job.unanswered:
            return "no reply"
        return f"not asked: {job.stopped_by}" if job.stopped_by else "not asked"

    return {
        key: read_reply(replies[step], measure.range_of(session))
        if step in replies
        else Judgment(None, why_missing(step))
        for step, (key, measure) in enumerate(JUDGED.items())
    }


def _check_same(old: Start, new: Start, path: Path) -> None:
    before, config = (
        config_from_dict(JudgeConfig, start.config, where=f"the judge of {path}")
        for start in (old, new)
    )
    changes = [*changes_of_replies(before, config), *changed_prompts(old.prompts, new.prompts)]
    if changes:
        raise UserError(
            f"{path} has judgments of another judge ({'; '.join(changes)}); choose another "
            "--out, or restore the old values."
        )


def _input_of(session: Session) -> str:
    """Returns the session as a `messages` row; equal for equal questions."""
    messages = [{"role": "user", "content": text} for text in session.questions]
    return json.dumps({"messages": messages}, ensure_ascii=False)
