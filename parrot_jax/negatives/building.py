"""Makes negatives: a job whose items are questions with a kind; writes preference pairs.

journal.sqlite   every request and reply
pairs/KIND.jsonl the pairs of a kind, in the conversational form of TRL with an explicit prompt
dropped.jsonl    negatives that were dropped, with the reason
summary.json     counts by kind and reason
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from parrot_jax.api.asking import Answers, Asked, Asking, ask_until_enough
from parrot_jax.api.endpoint_config import changes_of_replies
from parrot_jax.api.journal import Start
from parrot_jax.api.prompts import changed_prompts, records_of
from parrot_jax.api.replies import Reply
from parrot_jax.api.run_async import run_async
from parrot_jax.core.config import check_config, config_from_dict, config_to_dict
from parrot_jax.core.errors import ParrotError, UserError
from parrot_jax.core.files import atomic_write, write_json
from parrot_jax.core.logs import visible
from parrot_jax.evaluate.answering import JOURNAL, read_answer
from parrot_jax.negatives.drops import Drops, Read
from parrot_jax.negatives.negatives_config import NegativesConfig
from parrot_jax.negatives.questions import SECOND_OF_ID, Question, read_pool
from parrot_jax.negatives.selecting import english_rule
from parrot_jax.negatives.selection import read_selection
from parrot_jax.negatives.strategies import Negative, load_prompts

PAIRS, DROPPED, SUMMARY = "pairs", "dropped.jsonl", "summary.json"
_SPEAKER = "generator"
_NOT_SELECTED = "not selected"


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """The result of a run, with that of earlier runs of the folder."""

    questions: int
    """Questions of the selection that were found and make pairs."""
    left_out: Mapping[str, int]
    """Selected questions that make no pairs, by reason."""
    pairs: Mapping[str, int]
    """Pairs by kind."""
    dropped: Mapping[str, Mapping[str, int]]
    """Dropped negatives by kind and reason."""
    open: int
    """Negatives without a reply; running the same command again asks for them."""
    files: str
    """The folder of the pairs."""
    requests: str
    """The requests as text."""
    rejected_rows: Sequence[str] = ()
    """Invalid rows of the selection, as text."""
    broken: Mapping[str, int] = field(default_factory=dict)
    """Rejected rows of the sources by reason."""
    problem: ParrotError | None = field(default=None, compare=False)
    """Why negatives are open; None = no endpoint is at fault."""

    def lines(self) -> Iterator[str]:
        """The summary as text."""
        yield from self.rejected_rows
        yield f"{self.questions:,} questions; {sum(self.left_out.values()):,} more make no pairs"
        for why, count in self.left_out.items():
            yield f"  {count:,}: {visible(why)}"
        for kind, count in self.pairs.items():
            dropped = self.dropped[kind]
            yield f"{kind}: {count:,} pairs, {sum(dropped.values()):,} dropped"
            for why, number in dropped.items():
                yield f"  {number:,}: {visible(why)}"
        if self.open:
            yield f"{self.open:,} have no reply yet; run the same command again"
        yield self.requests
        yield f"wrote {self.files}"


def build(config: NegativesConfig) -> BuildSummary:
    """Makes the negatives that are missing, and writes all pairs.

    The pairs so far are always written, unless the process is killed.

    Raises:
      UserError: The sources or the selection are invalid, no question is left, the folder's journal
        has negatives by other settings, a key is not set, or the disk is full.
      KeyboardInterrupt: See `Job.run`.
    """
    check_config(config, NegativesConfig)
    return run_async(_build(config))


@dataclass(frozen=True)
class _Chosen:
    """The questions of a run, in their order."""

    questions: Sequence[Question]
    left_out: Mapping[str, int]
    broken: Mapping[str, int]
    """Rejected rows of the sources."""
    rejected_rows: Sequence[str] = ()
    """Those of the selection."""


async def _build(config: NegativesConfig) -> BuildSummary:
    prompts = load_prompts(config.prompts)
    drops = Drops(config)
    chosen = _selected(config) if config.selection else _by_rules(config)
    if not chosen.questions:
        reasons = ", ".join(f"{why} {count:,}" for why, count in chosen.left_out.items())
        raise UserError(
            f"no question for negatives in {', '.join(source.path for source in config.sources)}: "
            f"{reasons or 'no dialogue has an answered second question'}."
        )
    items = [
        Negative(question, kind, prompts[kind])
        for question in chosen.questions
        for kind in config.kinds
    ]
    reads: dict[str, Read] = {}

    def judge(item: Negative, replies: Sequence[Reply]) -> str:
        reads[item.id] = drops.read(item, replies)
        return reads[item.id].reason

    asking = Asking(
        speaker=_SPEAKER,
        endpoint=config.generator,
        items=items,
        enough=config.per_kind,
        judge=judge,
        useless=lambda reply: read_answer(reply)[1],
        seed=config.seed,
    )
    path = Path(config.out) / JOURNAL
    start = Start(config_to_dict(config), records_of(prompts))
    summaries: list[BuildSummary] = []

    def write(answers: Answers) -> None:
        summaries.append(_write(config, chosen, answers, reads))

    await ask_until_enough(
        asking, path, start, lambda old: _check_same(old, config, start, path), write
    )
    return summaries[-1]


def _by_rules(config: NegativesConfig) -> _Chosen:
    pool = read_pool(config.sources, seed=config.seed, rule=english_rule())
    return _Chosen(pool.questions, dict(pool.left_out.most_common()), dict(pool.report.broken))


def _selected(config: NegativesConfig) -> _Chosen:
    """The questions of the selection, in its order."""
    assert config.selection is not None, "called only with one"
    rows, rejected = read_selection(config.selection)
    wanted = {(row.dialogue, row.turn): row for row in reversed(rows)}
    missing = set(wanted)

    def rule(question: Question) -> tuple[str, str]:
        row = wanted.get(question.place)
        if row is None:
            return "", _NOT_SELECTED
        missing.discard(question.place)
        if row.sha256 != question.sha256:
            return "", "changed since it was selected"
        return row.why, ""

    pool = read_pool(config.sources, seed=config.seed, rule=rule)
    found = {question.place: question for question in pool.questions}
    places = dict.fromkeys((row.dialogue, row.turn) for row in rows)
    left_out = Counter(pool.left_out)
    # These count questions that nobody selected.
    del left_out[_NOT_SELECTED], left_out[SECOND_OF_ID]
    if missing:
        left_out["not in the sources"] = len(missing)
    if len(rows) > len(places):
        left_out["selected twice"] = len(rows) - len(places)
    questions = [found[place] for place in places if place in found]
    broken = dict(pool.report.broken)
    return _Chosen(questions, dict(left_out.most_common()), broken, rejected.lines())


def _write(
    config: NegativesConfig, chosen: _Chosen, answers: Answers, reads: Mapping[str, Read]
) -> BuildSummary:
    """Writes pairs, dropped negatives and the summary."""
    folder = Path(config.out)
    wanted = [asked for asked in answers.asked if not asked.why_not]
    dropped = [asked for asked in answers.asked if asked.why_not]
    for kind in config.kinds:
        rows = (_pair(asked, reads[asked.item.id]) for asked in wanted if asked.item.kind == kind)
        _write_rows(folder / PAIRS / f"{kind}.jsonl", rows)
    _write_rows(folder / DROPPED, (_dropped(asked, reads.get(asked.item.id)) for asked in dropped))
    reasons = {kind: Counter[str]() for kind in config.kinds}
    for asked in dropped:
        reasons[asked.item.kind][asked.why_not] += 1
    pairs = Counter(asked.item.kind for asked in wanted)
    summary = BuildSummary(
        questions=len(chosen.questions),
        left_out=chosen.left_out,
        pairs={kind: pairs[kind] for kind in config.kinds},
        dropped={
            kind: dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
            for kind, counts in reasons.items()
        },
        open=answers.open,
        files=str(folder / PAIRS),
        requests=answers.line(_SPEAKER),
        rejected_rows=chosen.rejected_rows,
        broken=chosen.broken,
        problem=answers.problem,
    )
    values = asdict(replace(summary, problem=None))
    del values["problem"]
    write_json(folder / SUMMARY, values)
    return summary


def _pair(asked: Asked, read: Read) -> dict[str, Any]:
    """A row of a file of pairs."""
    item: Negative = asked.item
    question = item.question
    weight = question.weight
    return {
        "id": item.id,
        **({} if weight == 1 else {"weight": weight}),
        "prompt": question.messages(),
        "chosen": [{"role": "assistant", "content": question.answer}],
        "rejected": [{"role": "assistant", "content": read.text}],
        "kind": item.kind,
        "turn": question.turn,
        "dialogue_id": question.dialogue.id,
        "similarity": read.similarity,
        "prompt_hash": item.prompt.sha256,
        "models": {"chosen": question.answered_by, "rejected": asked.model},
    }


def _dropped(asked: Asked, read: Read | None) -> dict[str, Any]:
    """A row of `dropped.jsonl`."""
    item: Negative = asked.item
    return {
        "id": item.id,
        "kind": item.kind,
        "reason": asked.why_not,
        "text": read.text if read else "",
        "similarity": read.similarity if read else None,
        "prompt_hash": item.prompt.sha256,
        "model": asked.model,
    }


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _check_same(old: Start, config: NegativesConfig, start: Start, path: Path) -> None:
    before = config_from_dict(NegativesConfig, old.config, where=f"the run of {path}")
    changes = changes_of_replies(before.generator, config.generator)
    if before.seed != config.seed:
        changes.append(f"seed: {before.seed} -> {config.seed}")
    changes += changed_prompts(old.prompts, start.prompts)
    if changes:
        raise UserError(
            f"{path} has negatives by another model or other settings ({'; '.join(changes)}); "
            "choose another `out`, or restore the old values."
        )
