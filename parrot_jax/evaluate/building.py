"""Builds a longer benchmark: a job whose items are dialogues that an asker continues.

journal.sqlite     every request and reply
questions.jsonl    the benchmark, with what people decided; see built.py
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parrot_jax.api.endpoint import Endpoint, request_body, seed_from
from parrot_jax.api.endpoint_config import DECIDES_NO_REPLY
from parrot_jax.api.job_journal import open_items
from parrot_jax.api.jobs import Job
from parrot_jax.api.journal import End, Start
from parrot_jax.api.journal_file import is_new, take_lock
from parrot_jax.api.journal_reader import JournalReader, SpeakerCounts
from parrot_jax.api.prompts import Prompt, changed_prompts, load_prompt, records_of
from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.api.run_async import run_async
from parrot_jax.core.config import changed_keys, check_config, config_from_dict, config_to_dict
from parrot_jax.core.errors import ParrotError, RunError, UserError
from parrot_jax.core.logs import visible
from parrot_jax.evaluate.answering import JOURNAL, read_answer
from parrot_jax.evaluate.benchmark import Question, read_benchmark
from parrot_jax.evaluate.build_config import BuildConfig
from parrot_jax.evaluate.built import (
    QUESTIONS,
    BuiltDialogue,
    BuiltTurn,
    read_built,
    write_built,
)
from parrot_jax.evaluate.extending import ANSWERER, ASKER, Base, Extension, read_proposal
from parrot_jax.evaluate.question_filters import QuestionFilters

_BUILT, _SHORT = "built", "short"
_FREE_KEYS = frozenset(
    {"out", "name", "benchmark", "references", "limit", "turns", "attempts"}
    | {f"{speaker}.{key}" for speaker in (ASKER, ANSWERER) for key in DECIDES_NO_REPLY}
    | {"asker.prompt"}
)
"""Settings that may differ when a benchmark is continued; the prompt is compared by its text."""


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """The result of a run, with that of earlier runs of the folder."""

    dialogues: Sequence[BuiltDialogue]
    turns: int
    """Questions wanted in each dialogue."""
    file: Path
    counts: Mapping[str, SpeakerCounts]
    """Of all requests so far, by speaker."""
    problem: ParrotError | None
    """Why dialogues are unfinished; None: no endpoint is at fault."""

    def lines(self) -> Iterator[str]:
        """The summary as text."""
        new = [turn for one in self.dialogues for turn in one.turns[one.seed_turns :]]
        accepted = sum(turn.accepted_by is not None for turn in new)
        short = Counter(one.short for one in self.dialogues if len(one.turns) < self.turns)
        yield (
            f"{len(self.dialogues) - short.total():,} of {len(self.dialogues):,} dialogues have "
            f"{self.turns} turns; {len(new):,} questions are new, {accepted:,} of them accepted by "
            "a person"
        )
        for reason, count in short.most_common():
            yield f"  {count:,} short: {visible(reason)}"
        dropped = Counter(note.why for one in self.dialogues for note in one.dropped)
        if dropped:
            yield f"{dropped.total():,} proposals were dropped"
        for reason, count in dropped.most_common():
            yield f"  {count:,}: {visible(reason)}"
        unmeasured = sum(turn.context_similarity is None for turn in new)
        if unmeasured:
            yield f"{unmeasured:,} new questions have no context similarity"
        for speaker, counts in self.counts.items():
            yield (
                f"{speaker}: {counts.requests:,} requests, {counts.failed:,} failed, "
                f"{counts.lost:,} lost; {counts.known.total:,} tokens"
            )
        yield f"wrote {self.file}"


def build(config: BuildConfig) -> BuildSummary:
    """Continues the dialogues of a benchmark, or what earlier runs left open.

    The dialogues so far are always written, unless the process is killed.

    Raises:
      UserError: The benchmark or the folder's file is invalid, the folder has questions by other
        settings, a key is not set, or the disk is full.
      RunError: The journal does not lead to the questions that people accepted.
      KeyboardInterrupt: See `Job.run`.
    """
    check_config(config, BuildConfig)
    return run_async(_build(config))


async def _build(config: BuildConfig) -> BuildSummary:
    seeds = read_benchmark(config.benchmark, references=config.references)[: config.limit]
    if all(len(seed.turns) >= config.turns for seed in seeds):
        raise UserError(
            f"turns is {config.turns}, and all dialogues of {config.benchmark} have as many "
            "questions or more; raise it."
        )
    prompt = None
    if config.asker.prompt is not None:
        prompt = load_prompt(config.asker.prompt, turn=3, turns=config.turns, avoid=["?"])
    endpoints = {ASKER: Endpoint(config.asker), ANSWERER: Endpoint(config.answerer)}
    path, file = Path(config.out) / JOURNAL, Path(config.out) / QUESTIONS
    with contextlib.closing(take_lock(file)):  # from people who review it
        reviewed = _reviewed(file, path)
        bases = _bases(config, seeds, reviewed, file)

        start = Start(config_to_dict(config), records_of({ASKER: prompt} if prompt else {}))
        inputs = [base.input() for base in bases]
        with (
            open_items(
                path, start, inputs, lambda old: _check_same(old, config, start.prompts, path)
            ) as journal,
            contextlib.closing(JournalReader(path)) as reader,
        ):
            job = Job(
                endpoints, journal, reader, retries=config.answerer.retries,
                concurrency=max(config.asker.concurrency, config.answerer.concurrency),
            )  # fmt: skip
            numbers = {text: number for number, text in enumerate(reader.items())}
            places = {numbers[base.input()]: base for base in bases}
            building = _Building(config, job, reader, places, prompt)
            done = {number for number in places if building.is_done(number)}
            try:
                await job.run(
                    [number for number in places if number not in done], building.carry_on,
                    noun="dialogues", total=len(places), finished=len(done),
                )  # fmt: skip
            finally:
                journal.check_in_place()  # never write results without a journal
                dialogues = [
                    _with_decisions(building.built(number), reviewed, file) for number in places
                ]
                write_built(file, dialogues)
            return BuildSummary(
                dialogues=dialogues,
                turns=config.turns,
                file=file,
                counts=reader.counts().speakers,
                problem=job.problem,
            )


class _Building:
    """Sends the requests of dialogues."""

    def __init__(
        self,
        config: BuildConfig,
        job: Job,
        reader: JournalReader,
        places: Mapping[int, Base],
        prompt: Prompt | None,
    ) -> None:
        self.config, self.job, self.reader, self.places = config, job, reader, places
        self.prompt, self.filters = prompt, QuestionFilters(config)

    def is_done(self, number: int) -> bool:
        """Whether a dialogue has all its turns."""
        end = self.reader.end(number)
        return (
            end is not None and end.reason == _BUILT and end.progress >= self.places[number].turns
        )

    async def carry_on(self, number: int) -> str | None:
        """Continues a dialogue; None if a request has no reply."""
        base, known = self.places[number], self._replies(number)
        extension = Extension(base, self.config, self.filters, self.prompt)
        requests = extension.requests(known)
        try:
            ask = next(requests)
            while True:
                reply = known.get(ask.step)
                # The dialogue stopped at an unusable answer, so nothing followed from it.
                if reply is None or (
                    ask.step == max(known) and self._is_worth_asking_again(ask.speaker, reply)
                ):
                    response = await self.job.ask(
                        number, ask.step, ask.speaker,
                        request_body(
                            self.config.asker if ask.speaker == ASKER else self.config.answerer,
                            ask.messages,
                            seed=seed_from(f"{self.config.seed} {ask.step} {base.input()}"),
                        ),
                        if_rejected=End(Outcome.REJECTED.value, len(extension.turns)),
                    )  # fmt: skip
                    if response is None:
                        return None
                    reply = response.reply
                    read = read_proposal if ask.speaker == ASKER else read_answer
                    self.job.note_use(ask.speaker, read(reply)[1] or None)
                ask = requests.send(reply)
        except StopIteration:
            reason = _SHORT if extension.short else _BUILT
        await self.job.finish(number, End(reason, len(extension.turns), extension.short or None))
        return reason

    def built(self, number: int) -> BuiltDialogue:
        """A dialogue as far as the journal has it."""
        base, known = self.places[number], self._replies(number)
        extension = Extension(base, self.config, self.filters, self.prompt)
        requests = extension.requests(known)
        short = ""
        try:
            ask = next(requests)
            while ask.step in known:
                ask = requests.send(known[ask.step])
            short = self._why_open(number, ask.step)
        except StopIteration:
            short = extension.short
        earlier = (note for note in base.dialogue.dropped if note.turn <= len(base.dialogue.turns))
        return replace(
            base.dialogue,
            turns=tuple(extension.turns),
            short=short,
            dropped=(*earlier, *extension.dropped),
        )

    def _why_open(self, number: int, step: int) -> str:
        end = self.reader.end(number)
        if end is not None and end.reason == Outcome.REJECTED.value:
            return f"rejected by the endpoint: {end.detail or ''}"
        if (number, step) in self.job.unanswered:
            return "no reply"
        return f"not asked: {self.job.stopped_by}" if self.job.stopped_by else "not asked"

    def _replies(self, number: int) -> dict[int, Reply]:
        return {step: reply for step, reply in self.reader.said(number)}

    @staticmethod
    def _is_worth_asking_again(speaker: str, reply: Reply) -> bool:
        """Whether the reply is an unusable answer; a filtered one drops its question instead."""
        is_filtered = reply.outcome is Outcome.FILTERED
        return speaker == ANSWERER and not is_filtered and read_answer(reply)[0] is None


def _reviewed(file: Path, journal: Path) -> dict[str, BuiltDialogue]:
    """The dialogues of the folder in which people decided something, by id."""
    if not file.exists():
        return {}
    reviewed = {str(one.id): one for one in read_built(file) if one.is_reviewed}
    if reviewed and is_new(journal):
        raise UserError(
            f"{file} has questions that people reviewed, but {journal} is missing; restore it, or "
            "choose another `out`."
        )
    return reviewed


def _bases(
    config: BuildConfig,
    seeds: Sequence[Question],
    reviewed: Mapping[str, BuiltDialogue],
    file: Path,
) -> list[Base]:
    """What the asker is given: the questions of the benchmark, or what people left of a dialogue.

    Raises:
      UserError: A dialogue that people reviewed would be lost.
    """
    if lost := reviewed.keys() - {str(seed.id) for seed in seeds}:
        raise UserError(
            f"{file} has {len(lost):,} reviewed dialogues that are not among the questions of this "
            f"run, such as {min(lost)}; raise `limit`, restore the benchmark, or choose another "
            "`out`."
        )
    bases = []
    for seed in seeds:
        begun = _begun(config, seed)
        turns = max(config.turns, len(seed.turns))
        there = reviewed.get(str(seed.id))
        if there is not None:
            kept = there.turns[: len(begun.turns)]
            was = [(turn.text, None if turn.is_made else turn.reference) for turn in kept]
            if there.system != begun.system or was != [
                (turn.text, turn.reference) for turn in begun.turns
            ]:
                raise UserError(
                    f"{file}: people reviewed dialogue {seed.id}, but its first questions or their "
                    f"references in {config.benchmark} are others now; restore them, or choose "
                    "another `out`."
                )
            turns = max(turns, there.decided, there.given)
            begun = replace(there, turns=there.turns[: there.given], benchmark=config.name)
        bases.append(Base(dialogue=begun, turns=turns))
    return bases


def _begun(config: BuildConfig, seed: Question) -> BuiltDialogue:
    by = seed.reference_model or Path(config.references or config.benchmark).name
    return BuiltDialogue(
        id=seed.id,
        category=seed.category,
        system=seed.system,
        turns=tuple(
            BuiltTurn(
                text=text,
                written_by=Path(config.benchmark).name,
                reference=reference,
                reference_written_by=None if reference is None else by,
            )
            for text, reference in zip(seed.turns, seed.references, strict=True)
        ),
        seed_turns=len(seed.turns),
        given=len(seed.turns),
        benchmark=config.name,
    )


def _with_decisions(
    built: BuiltDialogue, reviewed: Mapping[str, BuiltDialogue], file: Path
) -> BuiltDialogue:
    """The dialogue with the names of the people who accepted its questions.

    Raises:
      RunError: A question that a person accepted is not there; nothing is written then.
    """
    there = reviewed.get(str(built.id))
    if there is None:
        return built
    turns = list(built.turns)
    for place, old in enumerate(there.turns[: there.decided]):
        if place >= len(turns) or turns[place].text != old.text:
            raise RunError(
                f"{file} is left unchanged: the journal leads to another question than the "
                f"reviewed one in dialogue {built.id}, turn {place + 1}; restore the journal that "
                "belongs to the file."
            )
        turns[place] = replace(turns[place], accepted_by=old.accepted_by)
    return replace(built, turns=tuple(turns))


def _check_same(
    old: Start, config: BuildConfig, prompts: Mapping[str, Mapping[str, str]], path: Path
) -> None:
    before = config_from_dict(BuildConfig, old.config, where=f"the run of {path}")
    changes = []
    for change in changed_keys(before, config):
        parts = change.partition(":")[0].split(".")
        if not {".".join(parts[:depth]) for depth in (1, 2)} & _FREE_KEYS:
            changes.append(change)
    changes += changed_prompts(old.prompts, prompts)
    if changes:
        raise UserError(
            f"{path} has questions by other models or settings ({'; '.join(changes)}); choose "
            "another `out`, or restore the old values."
        )
