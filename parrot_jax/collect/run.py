"""Runs a collection: a job whose items are dialogues, driven by their state machines."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from parrot_jax.api.budget import BudgetSpentError
from parrot_jax.api.endpoint import Endpoint, request_body, seed_from
from parrot_jax.api.jobs import Job
from parrot_jax.api.journal import End
from parrot_jax.api.prompts import Prompt
from parrot_jax.api.replies import Reply
from parrot_jax.api.run_async import run_async
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.dialogue_state import (
    USELESS,
    DialogueState,
    Done,
    Speaker,
    StopReason,
    after_reply,
    next_step,
    said,
)
from parrot_jax.collect.export import CollectionSummary, export
from parrot_jax.collect.folder import Collection, open_collection_journal
from parrot_jax.collect.prices import with_prices
from parrot_jax.collect.prompts import load_prompts, messages_for
from parrot_jax.collect.stops import StopJudge, TurnFilter, check_filters
from parrot_jax.collect.transcript import parse_transcript
from parrot_jax.core.config import check_config
from parrot_jax.core.errors import RunError
from parrot_jax.core.logs import console


def collect(config: CollectConfig, *, filters: Sequence[TurnFilter] = ()) -> CollectionSummary:
    """Runs a collection, or resumes it, until all dialogues have ended.

    The finished dialogues are always exported, unless the process is killed. Call it in a thread
    without an event loop; inside a loop, await `collect_async`.

    Args:
      config: The collection.
      filters: Custom stop rules, applied after those of `config.stops`. Their verdicts are in the
        journal, so resuming does not call them again for the same text.

    Returns:
      The summary, as in `summary.json`.

    Raises:
      UserError: See `open_collection_journal` and `with_prices`; or a key is not set, a prompt is
        invalid, the disk is full, or the system allows too few connections.
      RunError: An endpoint failed, a budget is spent, or no dialogue got a turn.
      KeyboardInterrupt: Ctrl-C, after at most `GRACE_S` seconds; a second one stops at once.

    >>> from parrot_jax import BeginningsConfig, SpeakerConfig
    >>> from parrot_jax.api.scripted_server import ScriptedServer
    >>> folder = getfixture("tmp_path")
    >>> first = folder / "first.jsonl"
    >>> _ = first.write_text('{"messages": [{"role": "user", "content": "Why?"}]}')
    >>> begin = BeginningsConfig(kind="messages", path=str(first))
    >>> with ScriptedServer() as server:  # doctest: +ELLIPSIS
    ...     speaker = SpeakerConfig(base_url=server.url, model="m")
    ...     config = CollectConfig(out=str(folder / "out"), asker=speaker, answerer=speaker,
    ...                            beginnings=(begin,), max_turns=2)
    ...     summary = collect(config, filters=[lambda turns, text: None])
    read 1 rows: ...
    >>> summary.exported, summary.mean_turns
    (1, 2.0)
    """
    return run_async(collect_async(config, filters=filters))


async def collect_async(
    config: CollectConfig, *, filters: Sequence[TurnFilter] = ()
) -> CollectionSummary:
    """As `collect`, in a running event loop; cancelling it stops the run as Ctrl-C does."""
    check_config(config, CollectConfig)
    check_filters(filters)
    config = with_prices(config)
    speakers = config.speakers()
    prompts = load_prompts(config)
    endpoints = {name: Endpoint(speaker) for name, speaker in speakers.items()}
    with (
        open_collection_journal(config, prompts) as journal,
        contextlib.closing(Collection(config.out)) as collection,
    ):
        console.print(
            f"{len(collection):,} dialogues, {config.concurrency:,} at once: "
            + ", ".join(f"{name} {s.model} at {s.base_url}" for name, s in speakers.items())
        )
        job = Job(
            endpoints, journal, collection.journal,
            retries=config.retries, concurrency=config.concurrency,
        )  # fmt: skip
        dialogues = _Dialogues(config, collection, job, prompts, filters)
        unfinished = collection.open_numbers()
        try:
            await job.run(
                unfinished, dialogues.carry_on,
                noun="dialogues", total=len(collection), finished=len(collection) - len(unfinished),
            )  # fmt: skip
        finally:
            journal.check_in_place()  # never write results without a journal
            summary = export(collection)
            console.print("\n".join(summary.lines()))
    if job.problem is not None:
        raise job.problem
    if not summary.exported:
        stops = ", ".join(f"{reason} {count:,}" for reason, count in summary.stops.items())
        raise RunError(
            f"none of the {summary.dialogues:,} dialogues got a turn; they ended with {stops}; "
            f"the replies are in {collection.journal.path}."
        )
    return summary


def request_seed(seed: int, beginning: bytes, turn: int, speaker: Speaker) -> int:
    """The seed of a request, in [0, 2^31): the same in every run, different for each request.

    Args:
      seed: The seed of the collection.
      beginning: The content hash of the beginning, so that an enlarged collection gives the same
        dialogues as one that was large from the start.
      turn: Index of the requested message, from 0.
      speaker: The speaker that is called.
    """
    return seed_from(f"request {seed} {beginning.hex()} {turn} {speaker}")


class _Dialogues:
    """Runs dialogues step by step."""

    def __init__(
        self,
        config: CollectConfig,
        collection: Collection,
        job: Job,
        prompts: Mapping[str, Prompt],
        filters: Sequence[TurnFilter],
    ) -> None:
        self.config, self.collection, self.job, self.prompts = config, collection, job, prompts
        self.speakers = config.speakers()
        self.judge = StopJudge(config.stops, filters)

    async def carry_on(self, number: int) -> str | None:
        """Runs a dialogue to its end, unless a request gets no reply; returns the stop reason."""
        _, beginning, _, state, _ = self.collection.dialogue(number)
        seed_of = beginning.content_hash()
        while not isinstance(step := next_step(beginning, state, self.collection.rules), Done):
            speaker = step.speaker
            messages = messages_for(
                step, speaker, self.prompts.get(speaker), max_turns=self.config.max_turns
            )
            seed = request_seed(self.config.seed, seed_of, step.turn, speaker)
            try:
                response = await self.job.ask(
                    number, step.turn, speaker,
                    request_body(self.speakers[speaker], messages, seed=seed),
                    verdict=lambda reply, state=state: self._verdict(state, reply),
                    if_rejected=_end(state, StopReason.ERROR),
                )  # fmt: skip
            except BudgetSpentError:
                await self.job.finish(number, _end(state, StopReason.BUDGET))
                return None  # a higher budget resumes it
            if response is None:
                return None
            state = after_reply(state, response.reply, self.collection.rules)
            if state.stop is not None and response.error is not None:
                state = replace(state, detail=response.error)
            self.job.note_use(speaker, _why_useless(state))
        await self.job.finish(number, _end(state, step.reason, step.detail))
        return step.reason

    def _verdict(self, state: DialogueState, reply: Reply) -> str | None:
        rules = self.collection.rules
        if not rules.has_writer:
            text, _ = said(reply.text, rules)
            return self.judge(state.turns, text) if text else None
        try:
            transcript = parse_transcript(reply.text, keeps_reasoning=rules.reasoning == "keep")
        except ValueError:
            return None  # ends the dialogue anyway
        return self.judge.in_transcript(transcript.turns)


def _end(state: DialogueState, reason: StopReason, detail: str | None = None) -> End:
    return End(reason.value, len(state.complete_turns) // 2, detail)


def _why_useless(state: DialogueState) -> str | None:
    """Why the last reply was useless; None if it was not."""
    if state.stop not in USELESS:
        return None
    return f"{state.stop}: {state.detail}" if state.detail else str(state.stop)
