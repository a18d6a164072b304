"""Runs a collection: many dialogues at once, each step of each decided by its state machine.

Nothing is kept between two runs but the journal. Every dialogue is read from it, whether anything
was said in it yet or not, so going on after a kill is no case of its own.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from parrot_jax.api.budget import BudgetSpentError
from parrot_jax.api.caller import Caller
from parrot_jax.api.endpoint import Endpoint, request_body
from parrot_jax.api.health import GRACE_S, Health, Rejected, first_of, raise_first, wind_down
from parrot_jax.api.journal import End, JournalWriter
from parrot_jax.api.journal_reader import SpeakerCounts
from parrot_jax.api.replies import Outcome, Reply, Response
from parrot_jax.collect.config import CollectConfig
from parrot_jax.collect.dialogue_state import (
    USELESS,
    DialogueState,
    Done,
    Speak,
    Speaker,
    StopReason,
    after_reply,
    next_step,
    said,
)
from parrot_jax.collect.export import CollectionSummary, export
from parrot_jax.collect.folder import Collection, open_journal
from parrot_jax.collect.live import LiveView
from parrot_jax.collect.prices import with_prices
from parrot_jax.collect.prompts import Prompt, load_prompts, messages_for
from parrot_jax.collect.stops import StopJudge
from parrot_jax.collect.transcript import parse_transcript
from parrot_jax.core.errors import RunError
from parrot_jax.core.logs import console
from parrot_jax.core.open_files import allow_connections

FORBIDDEN = 403

DIALOGUES_AT_FIRST = 3
"""Dialogues that go one after the other at most, until every speaker has replied once."""


def collect(config: CollectConfig) -> CollectionSummary:
    """Runs a collection, or goes on with it, until all dialogues have ended.

    However it ends, short of a kill, the finished dialogues are exported. It may run in any thread
    that has no event loop; where there is one, await `collect_async`.

    Returns:
      The summary, as in `summary.json`.

    Raises:
      UserError: As in `open_journal` and `with_prices`, a key is not set, a prompt cannot be used,
        the disk is full, or the system does not allow so many connections.
      RunError: An endpoint failed, a budget is spent, or no dialogue got a turn.
      KeyboardInterrupt: Ctrl-C, after `GRACE_S` seconds at most; a second one ends it at once.
    """
    return asyncio.run(collect_async(config))


async def collect_async(config: CollectConfig) -> CollectionSummary:
    """As `collect`, in a running event loop; cancelling it stops the run as Ctrl-C does."""
    config = with_prices(config)
    speakers = config.speakers()
    prompts = load_prompts(config)
    endpoints = {name: Endpoint(speaker) for name, speaker in speakers.items()}
    judge = StopJudge(config.stops)
    most = config.concurrency
    connections = sum(min(most, speaker.concurrency or most) for speaker in speakers.values())
    allow_connections(connections, wanted_by=f"concurrency {most:,}")
    with (
        open_journal(config, prompts) as journal,
        contextlib.closing(Collection(config.out)) as collection,
    ):
        console.print(
            f"{len(collection):,} dialogues, {config.concurrency:,} at once: "
            + ", ".join(f"{name} {s.model} at {s.base_url}" for name, s in speakers.items())
        )
        counts = collection.journal.counts().speakers
        callers = {
            name: Caller.continuing(
                name, endpoint, journal, config.retries, counts.get(name, SpeakerCounts()),
                most=most,
            )
            for name, endpoint in endpoints.items()
        }  # fmt: skip
        run = _Run(config, collection, journal, callers, prompts, judge)
        try:
            async with contextlib.AsyncExitStack() as stack:
                for endpoint in endpoints.values():
                    await stack.enter_async_context(endpoint)
                await run.run()
        finally:
            journal.check_in_place()  # or a folder would be made that has results and no journal
            summary = export(collection)
            console.print("\n".join(summary.lines()))
    run.check_failures(summary)
    if not summary.exported:
        stops = ", ".join(f"{reason} {count:,}" for reason, count in summary.stops.items())
        raise RunError(
            f"none of the {summary.dialogues:,} dialogues got a turn: they ended with {stops}; "
            f"the replies are in {collection.journal.path}."
        )
    return summary


def request_seed(seed: int, beginning: bytes, turn: int, speaker: Speaker) -> int:
    """The seed of a request, in [0, 2^31): the same in every run, and unlike every other's.

    Args:
      seed: Of the collection.
      beginning: The content hash of what the dialogue begins with: a collection that grew gives
        the same dialogues as one that was large at once.
      turn: The turn that is asked for, from 0.
      speaker: Who is asked.
    """
    text = f"request {seed} {beginning.hex()} {turn} {speaker}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") >> 1


class _Run:
    """One run: workers that take the dialogues by number, each carrying one on at a time."""

    def __init__(
        self,
        config: CollectConfig,
        collection: Collection,
        journal: JournalWriter,
        callers: Mapping[str, Caller],
        prompts: Mapping[str, Prompt],
        judge: StopJudge,
    ) -> None:
        self.config, self.collection, self.journal = config, collection, journal
        self.callers, self.prompts = callers, prompts
        self.judge = judge
        self.speakers = config.speakers()
        self.stopping = False
        self.health = {speaker: Health[DialogueState]() for speaker in callers}
        for speaker in collection.journal.useful_speakers() & callers.keys():
            self.health[speaker].was_useful()
        self.tried = asyncio.Event()
        """Whether it is known what the endpoints take, so that all may be paid for at once."""
        self.budget_spent: BudgetSpentError | None = None
        self.open_numbers = collection.open_numbers()
        self.num_tried = 0
        num_ended = len(collection) - len(self.open_numbers)
        self.live = LiveView(len(collection), num_ended, callers)

    async def run(self) -> None:
        """Returns when all dialogues have ended, an endpoint has failed, or a budget is spent."""
        numbers = iter(self.open_numbers)
        async with self.live.shown():
            # The first dialogue goes alone: a request that no server takes costs nothing, while a
            # thousand answers cost something if the questions to them can never be asked.
            workers = [asyncio.create_task(self._work(numbers))]
            try:
                await first_of(workers[0], self.tried)
                for _ in range(self.config.concurrency - 1):
                    workers.append(asyncio.create_task(self._work(numbers)))
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
                came_to_its_end = not self.stopping
            finally:
                await self._stop(workers)
        raise_first(workers)
        if came_to_its_end:
            for health in self.health.values():
                await self._end_all(health.settle())

    async def _work(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self._carry_on(number)
            await asyncio.sleep(0)  # dialogues that had ended before wait for nothing themselves
            self._note_tried(dialogues=1)
            if self.stopping:
                return

    async def _carry_on(self, number: int) -> None:
        """Takes a dialogue to its end, unless the run stops or its endpoint fails before."""
        _, beginning, _, state, _ = self.collection.dialogue(number)
        seed_of = beginning.content_hash()
        while not self.stopping:
            step = next_step(beginning, state, self.collection.rules)
            if isinstance(step, Done):
                await self._end(number, state, step)
                return
            try:
                response = await self._speak(number, state, step, seed_of)
            except BudgetSpentError as error:
                self.budget_spent = error
                self._stop_sending(str(error))
                await self._end(number, state, Done(StopReason.BUDGET))
                return
            if response is None:
                return  # the run stops
            if response.reply.outcome in (Outcome.FAILED, Outcome.REJECTED):
                await self._not_taken(number, state, step, response)
                return
            await self._end_all(self.health[step.speaker].replied())
            self._note_tried()
            self.live.reply_came(step.speaker)
            state = after_reply(state, response.reply, self.collection.rules)
            if state.stop is not None and response.error is not None:
                state = replace(state, detail=response.error)
            self._note_use(step.speaker, state)

    async def _speak(
        self, number: int, state: DialogueState, step: Speak, seed_of: bytes
    ) -> Response | None:
        caller = self.callers[step.speaker]
        messages = messages_for(
            step, step.speaker, self.prompts.get(step.speaker), max_turns=self.config.max_turns
        )
        seed = request_seed(self.config.seed, seed_of, step.turn, step.speaker)
        body = request_body(self.speakers[step.speaker], messages, seed=seed)
        return await caller.call(number, step.turn, body, lambda reply: self._judge(state, reply))

    def _judge(self, state: DialogueState, reply: Reply) -> str | None:
        rules = self.collection.rules
        if not rules.has_writer:
            text, _ = said(reply.text, rules)
            return self.judge(state.turns, text) if text else None
        try:
            transcript = parse_transcript(reply.text, keeps_reasoning=rules.reasoning == "keep")
        except ValueError:
            return None  # which ends it as well
        return self.judge.in_transcript(transcript.turns)

    async def _end(self, number: int, state: DialogueState, done: Done) -> None:
        end = End(done.reason.value, len(state.complete_turns) // 2, done.detail)
        await self.journal.ended(number, end)
        self.live.dialogue_ended(done.reason)

    async def _not_taken(
        self, number: int, state: DialogueState, step: Speak, response: Response
    ) -> None:
        """Ends a dialogue whose request is at fault; else leaves it open, and may stop the run."""
        health, error = self.health[step.speaker], response.error or ""
        is_final = response.reply.outcome is Outcome.REJECTED or response.status == FORBIDDEN
        if is_final and self.collection.journal.is_at_fault(number, step.turn):
            await self._end_all([Rejected(number, state, error)])
        elif response.reply.outcome is Outcome.REJECTED:
            if health.rejected(number, state, error):
                self._stop_sending(f"the {step.speaker} takes no request: nothing more is sent")
        elif not self.stopping:  # or it might have been tried again
            self.tried.set()  # what fails costs as little at once
            if health.failed(error):
                self._stop_sending(f"the {step.speaker} fails: nothing more is sent")

    def _note_use(self, speaker: str, state: DialogueState) -> None:
        """Stops the run where nothing that a speaker has said so far was of use."""
        health = self.health[speaker]
        if state.stop not in USELESS:
            health.was_useful()
        elif health.was_useless(f"{state.stop}{f': {state.detail}' if state.detail else ''}"):
            self._stop_sending(f"the {speaker} says nothing of use: nothing more is sent")

    async def _end_all(self, rejected: Iterable[Rejected[DialogueState]]) -> None:
        for one in rejected:
            await self._end(one.number, one.item, Done(StopReason.ERROR, one.error))

    def _note_tried(self, *, dialogues: int = 0) -> None:
        self.num_tried += dialogues
        if self.num_tried >= DIALOGUES_AT_FIRST or all(
            health.has_replied for health in self.health.values()
        ):
            self.tried.set()

    def _stop_sending(self, why: str = "") -> None:
        if why and not self.stopping:
            console.print(why)
        self.stopping = True
        for caller in self.callers.values():
            caller.stop()

    def check_failures(self, summary: CollectionSummary) -> None:
        """Raises `RunError` where an endpoint failed or took nothing, or a budget is spent."""
        texts = [
            f"the {speaker} at {self.speakers[speaker].base_url} {did} {count:,} of "
            f"{summary.dialogues:,} dialogues, the last time with: {health.last_error.rstrip('.')}"
            for speaker, health in self.health.items()
            for did, count in (
                ("failed in", health.failures),
                ("rejected", health.num_held),
                ("said nothing of use in", health.num_useless),
            )
            if count
        ]
        if texts:
            refusing = [
                speaker
                for speaker, health in self.health.items()
                if health.num_held or health.num_useless
            ]
            mend = (
                f"change the settings of {' and '.join(refusing)} in the config"
                if refusing
                else "see to the endpoint"
            )
            raise RunError(
                f"{'; '.join(texts)}. Unfinished dialogues: {summary.unfinished:,}; {mend} and "
                "run the same command again to continue."
            )
        if self.budget_spent is not None:
            raise self.budget_spent

    async def _stop(self, workers: list[asyncio.Task[None]]) -> None:
        """Sends nothing more, and waits a while for what is in flight."""
        self._stop_sending()
        if waiting := sum(not worker.done() for worker in workers):
            console.print(
                f"stopping: waiting up to {GRACE_S} s for {waiting:,} replies in flight "
                "(Ctrl-C: not at all)"
            )
        await wind_down(workers)
