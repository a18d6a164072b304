"""Asks a judge about sessions, through a journal: killed, it goes on and pays nothing twice.

A session is known by its questions. So one that is in two files, or in a larger sample later, is
judged once, and files and samples may change from start to start. The judge and its prompts may
not: their judgments would stand side by side under one name.
"""

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parrot_jax.api.budget import BudgetSpentError, usd
from parrot_jax.api.caller import Caller
from parrot_jax.api.config import changes_of_replies
from parrot_jax.api.endpoint import Endpoint, request_body
from parrot_jax.api.health import Health, Rejected, first_of, raise_first, wind_down
from parrot_jax.api.journal import End, JournalWriter, Start
from parrot_jax.api.journal_reader import JournalReader, SpeakerCounts
from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.core.config import config_from_dict, config_to_dict
from parrot_jax.core.errors import ParrotError, RunError, UserError
from parrot_jax.core.logs import visible
from parrot_jax.core.open_files import allow_connections
from parrot_jax.stats.config import JudgeConfig
from parrot_jax.stats.prompts import JUDGED, Judgment, Prompt, read_reply
from parrot_jax.stats.sampling import Session

_SPEAKER = "judge"

_REJECTED = "rejected"
"""Why a session ended of which the judge takes no request."""


@dataclass(frozen=True, kw_only=True)
class Judgments:
    """What a judge said, in this start and in those before it."""

    by_session: Mapping[Session, Mapping[str, Judgment]]
    """For each session, one judgment a measure."""
    prompts: Mapping[str, Prompt]
    models: Sequence[str]
    """Who answered, as the server names it."""
    requests: int
    """All that were ever sent."""
    tokens: int
    """Of prompts and replies, as the server counts; and at most so many more:"""
    uncertain_tokens: int
    usd: float | None
    """What these cost at most, uncertain ones included; None = the price is not known."""
    problem: ParrotError | None
    """Why some were not asked; None = all were."""

    def reasons(self, sessions: Sequence[Session], key: str) -> dict[str, int]:
        """Why some of these sessions have no number, the most frequent reason first."""
        judgments = (self.by_session[session][key] for session in sessions)
        return dict(Counter(j.reason for j in judgments if j.number is None).most_common())


def check_judge(config: JudgeConfig) -> None:
    """Sees whether a judge can be asked, before hours are spent on reading.

    Raises:
      UserError: The environment variable of its key is not set.
    """

    async def open_and_close() -> None:
        async with Endpoint(config):
            pass

    asyncio.run(open_and_close())


def judge_sessions(
    config: JudgeConfig, sessions: Sequence[Session], journal: Path, advance: Callable[[], None]
) -> Judgments:
    """Gets every judgment of every session, from the journal or from the judge.

    Args:
      config: The judge.
      sessions: Equal ones are judged once.
      journal: An SQLite file; it is begun where it is missing.
      advance: Called for each judgment that comes.

    Raises:
      UserError: The key is not set, the journal cannot be written, or it is another judge's.
      KeyboardInterrupt: Ctrl-C, after `GRACE_S` seconds at most; a second one ends it at once.
    """
    return asyncio.run(_judge_sessions(config, list(dict.fromkeys(sessions)), journal, advance))


async def _judge_sessions(
    config: JudgeConfig, sessions: Sequence[Session], path: Path, advance: Callable[[], None]
) -> Judgments:
    prompts = {key: measure.load() for key, measure in JUDGED.items()}
    endpoint = Endpoint(config)  # says first of all whether the key is there
    with (
        _open_journal(config, prompts, sessions, path) as writer,
        contextlib.closing(JournalReader(path)) as reader,
    ):
        numbers = {line: number for number, line in enumerate(reader.beginnings())}
        places = {session: numbers[_line(session)] for session in sessions}
        allow_connections(config.concurrency, wanted_by=f"concurrency {config.concurrency:,}")
        before = reader.counts().speakers.get(_SPEAKER, SpeakerCounts())
        caller = Caller.continuing(
            _SPEAKER, endpoint, writer, config.retries, before, most=config.concurrency
        )
        run = _Run(config, reader, writer, caller, prompts, advance)
        async with endpoint:
            await run.run(places)
        counts = reader.counts().speakers.get(_SPEAKER, SpeakerCounts())
        spent = counts.known.plus(counts.uncertain)
        return Judgments(
            by_session={
                session: run.judgments(session, number) for session, number in places.items()
            },
            prompts=prompts,
            models=reader.models().get(_SPEAKER, []),
            requests=counts.requests,
            tokens=counts.known.total,
            uncertain_tokens=counts.uncertain.total,
            usd=None if config.price is None else usd(spent, config.price),
            problem=run.problem,
        )


class _Run:
    """One start: workers that take what was not judged yet, one request at a time each."""

    def __init__(
        self,
        config: JudgeConfig,
        reader: JournalReader,
        writer: JournalWriter,
        caller: Caller,
        prompts: Mapping[str, Prompt],
        advance: Callable[[], None],
    ) -> None:
        self.config, self.reader, self.writer, self.caller = config, reader, writer, caller
        self.prompts, self.advance = prompts, advance
        self.health = Health[None]()
        if _SPEAKER in reader.useful_speakers():
            self.health.was_useful()
        self.tried = asyncio.Event()
        """Whether it is known that the judge takes a request."""
        self.problem: ParrotError | None = None
        self.unasked = "not asked"
        self.failed: set[tuple[int, int]] = set()
        """Numbers of sessions and places of measures whose last attempt failed."""

    async def run(self, places: Mapping[Session, int]) -> None:
        """Returns when all is judged, the budget is spent, or the judge fails."""
        left = self._left(places)
        # One goes alone until the judge has replied: it may take no request with these settings.
        workers = [asyncio.create_task(self._work(left))]
        try:
            await first_of(workers[0], self.tried)
            for _ in range(self.config.concurrency - 1):
                workers.append(asyncio.create_task(self._work(left)))
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await self._stop(workers)
        raise_first(workers)
        if self.problem is None:
            await self._end_all(self.health.settle())
            if self.failed or self.health.num_held:
                self.problem = self._failure()

    def judgments(self, session: Session, number: int) -> dict[str, Judgment]:
        """What the journal has on a session, one judgment a measure."""
        replies, end = dict(self.reader.said(number)), self.reader.end(number)
        reason = "" if end is None else f"{end.reason}: {end.detail}"
        return {
            key: read_reply(replies[place], measure.range_of(session))
            if place in replies
            else Judgment(
                None, reason or ("no reply" if (number, place) in self.failed else self.unasked)
            )
            for place, (key, measure) in enumerate(JUDGED.items())
        }

    def _left(self, places: Mapping[Session, int]) -> Iterator[tuple[Session, int, int]]:
        """What the journal has no reply for: the session, its number and the measure's place."""
        rejected = self.reader.rejected()
        for session, number in sorted(places.items(), key=lambda item: item[1] in rejected):
            judged = {turn for turn, _ in self.reader.said(number)}
            for place in range(len(JUDGED)):
                if place in judged or self.reader.end(number) is not None:
                    self.advance()
                else:
                    yield session, number, place

    async def _work(self, left: Iterator[tuple[Session, int, int]]) -> None:
        for session, number, place in left:
            if self.problem is None:
                await self._ask(session, number, place)
            await asyncio.sleep(0)
            if self.problem is not None:
                return

    async def _ask(self, session: Session, number: int, place: int) -> None:
        (key, measure) = list(JUDGED.items())[place]
        messages = self.prompts[key].messages(session)
        body = request_body(self.config, messages, seed=_seed(session, key))
        allowed = measure.range_of(session)

        def verdict(reply: Reply) -> str | None:
            return read_reply(reply, allowed).reason or None

        try:
            response = await self.caller.call(number, place, body, verdict)
        except BudgetSpentError as error:
            self._give_up(error, "not asked: the budget is spent")
            return
        if response is None:
            return
        error = response.error or ""
        if response.reply.outcome is Outcome.REJECTED:
            self.failed.add((number, place))
            if self.reader.is_at_fault(number, place):
                await self._end_all([Rejected(number, None, error)])
            elif self.health.rejected(number, None, error):
                self._give_up(self._failure(), "not asked: the judge takes no request")
        elif response.reply.outcome is Outcome.FAILED:
            self.failed.add((number, place))
            self.tried.set()
            if self.health.failed(error):
                self._give_up(self._failure(), "not asked: the judge failed")
        else:
            self.tried.set()
            await self._end_all(self.health.replied())
            self.advance()
            if response.reply.outcome is Outcome.COMPLETE and response.reply.verdict is None:
                self.health.was_useful()
            elif self.health.was_useless(error or response.reply.verdict or "no number"):
                self._give_up(self._failure(), "not asked: the judge says no numbers")

    async def _end_all(self, rejected: Sequence[Rejected[None]]) -> None:
        """Journals that these sessions cannot be judged: their requests are at fault."""
        for one in rejected:
            self.failed = {asked for asked in self.failed if asked[0] != one.number}
            await self.writer.ended(one.number, End(_REJECTED, 0, visible(one.error)))

    def _failure(self) -> RunError:
        held = self.health.num_held
        useless = self.health.num_useless
        did = f"rejected {held:,} sessions" if held else f"failed in {len(self.failed):,} requests"
        if useless:
            did = f"said no number in any of its {useless:,} replies"
        mend = "change its settings" if held or useless else "see to the endpoint"
        return RunError(
            f"the judge at {self.config.base_url} {did}, the last time with: "
            f"{self.health.last_error.rstrip('.')}; {mend} and run the same command again to "
            "continue."
        )

    def _give_up(self, problem: ParrotError, unasked: str) -> None:
        if self.problem is None:
            self.problem, self.unasked = problem, unasked
        self.caller.stop()

    async def _stop(self, workers: Sequence[asyncio.Task[None]]) -> None:
        """Sends nothing more, and waits a while for what is in flight."""
        self.caller.stop()
        await wind_down(workers)


def _open_journal(
    config: JudgeConfig, prompts: Mapping[str, Prompt], sessions: Sequence[Session], path: Path
) -> JournalWriter:
    """Begins the journal, or goes on in it with the sessions that it has not."""
    values = config_to_dict(config)
    start = Start(
        values,
        {
            key: {"path": prompt.path, "sha256": prompt.sha256, "text": prompt.text}
            for key, prompt in prompts.items()
        },
    )
    writer = JournalWriter(path)
    try:
        if writer.is_new:
            writer.begin(start, map(_line, sessions))
        else:
            with contextlib.closing(JournalReader(path)) as reader:
                # One that has judged nothing yet may be any other.
                if reader.counts().speakers.get(_SPEAKER, SpeakerCounts()).answered:
                    _check_same(reader.last_start(), config, start, path)
                there = set(reader.beginnings())
            writer.go_on(start, [line for line in map(_line, sessions) if line not in there])
    except BaseException:
        writer.close()
        raise
    return writer


def _check_same(old: Start, config: JudgeConfig, new: Start, path: Path) -> None:
    before = config_from_dict(JudgeConfig, old.config, where=f"the judge of {path}")
    changes = changes_of_replies(before, config) + [
        f"the prompt {prompt['path']}: sha256 {was[:8]} -> {prompt['sha256'][:8]}"
        for key, prompt in new.prompts.items()
        if (was := old.prompts.get(key, {}).get("sha256", "none")) != prompt["sha256"]
    ]
    if changes:
        raise UserError(
            f"{path} holds the judgments of another judge ({'; '.join(changes)}); choose another "
            "--out, or the old values to continue."
        )


def _line(session: Session) -> str:
    """The session as a row of a `messages` file; equal for equal questions."""
    messages = [{"role": "user", "content": text} for text in session.questions]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def _seed(session: Session, key: str) -> int:
    """The seed of a request, in [0, 2^31): the same in every start."""
    digest = hashlib.sha256(f"{key} {_line(session)}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1
