"""Selects questions that depend on their dialogue: by rules, by a judge, or by measurement.

select.sqlite        every request and reply, if an endpoint is asked
selected.jsonl       the selected questions; see selection.py
select_summary.json  counts by reason
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from parrot_jax.api.asking import Answers, Asked, Asking, ask_until_enough
from parrot_jax.api.brackets import letter_in_brackets
from parrot_jax.api.endpoint_config import changes_of_replies
from parrot_jax.api.journal import Start
from parrot_jax.api.prompts import Prompt, changed_prompts, load_prompt, packaged_prompt, records_of
from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.api.run_async import run_async
from parrot_jax.core.config import check_config, config_from_dict, config_to_dict
from parrot_jax.core.errors import ParrotError, UserError
from parrot_jax.core.files import write_json
from parrot_jax.core.logs import visible
from parrot_jax.dialogue.language import language_of
from parrot_jax.evaluate.answering import read_answer
from parrot_jax.evaluate.extending import answer_similarity
from parrot_jax.negatives.questions import Pool, Question, read_pool
from parrot_jax.negatives.rules import LANGUAGE, rule_of
from parrot_jax.negatives.select_config import SelectConfig
from parrot_jax.negatives.selection import SELECTED, Selected, write_selection

JOURNAL = "select.sqlite"
SUMMARY = "select_summary.json"
_JUDGE, _ANSWERER = "judge", "answerer"
_LANGUAGE_CHARS = 400


@dataclass(frozen=True, kw_only=True)
class SelectSummary:
    """The result of a run, with that of earlier runs of the folder."""

    questions: int
    """Questions after the first one of their dialogue that have an answer."""
    selected: Mapping[str, int]
    """Selected questions by reason."""
    left_out: Mapping[str, int]
    """The others by reason; what the limit left is `beyond the limit`."""
    open: int
    """Questions without a reply; running the same command again asks them."""
    file: str
    requests: str = ""
    """The requests as text; empty if there are none."""
    broken: Mapping[str, int] = field(default_factory=dict)
    """Rejected rows of the sources by reason."""
    problem: ParrotError | None = field(default=None, compare=False)
    """Why questions are open; None = no endpoint is at fault."""

    def lines(self) -> Iterator[str]:
        """The summary as text."""
        yield f"{sum(self.selected.values()):,} of {self.questions:,} later questions are selected"
        for why, count in self.selected.items():
            yield f"  {count:,}: {visible(why)}"
        yield f"{sum(self.left_out.values()):,} are left out"
        for why, count in self.left_out.items():
            yield f"  {count:,}: {visible(why)}"
        if self.open:
            yield f"{self.open:,} have no reply yet; run the same command again"
        if self.requests:
            yield self.requests
        yield f"wrote {self.file}"


def select(config: SelectConfig) -> SelectSummary:
    """Selects questions, or continues an earlier run of the folder.

    What is selected so far is always written, unless the process is killed.

    Raises:
      UserError: The sources are invalid, no question is left to ask about, the folder's journal has
        replies by other settings, a key is not set, or the disk is full.
      KeyboardInterrupt: See `Job.run`.
    """
    check_config(config, SelectConfig)
    config.check_endpoint()
    if config.method == "rules":
        pool = rule_pool(config)
        return _write(config, pool, [_by_rule(pool, one) for one in pool.questions])
    return run_async(_ask(config))


def rule_pool(config: SelectConfig) -> Pool:
    """The questions that the rules select, in the order of the seed."""
    return read_pool(config.sources, seed=config.seed, rule=english_rule())


def english_rule() -> Callable[[Question], tuple[str, str]]:
    """Makes the rule of a pool for the rules, which know one language."""
    language = language_of(max_chars=_LANGUAGE_CHARS)
    last: tuple[str, bool] = ("", True)

    def rule(question: Question) -> tuple[str, str]:
        nonlocal last
        dialogue = question.dialogue
        if last[0] != dialogue.id:  # the questions of a dialogue come one after the other
            found = language("\n".join(dialogue.questions()))
            last = dialogue.id, found is None or found[0] == LANGUAGE
        if not last[1]:
            return "", "another language than the rules know"
        why = rule_of(question.text)
        return (why, "") if why else ("", "no rule")

    return rule


@dataclass(frozen=True)
class _Judged:
    """A question for the judge."""

    question: Question
    prompt: Prompt
    group: str = _JUDGE

    def input(self) -> str:
        return _input_of(self.question)

    def requests(self) -> list[list[dict[str, str]]]:
        one = self.question
        text = self.prompt.render(earlier=one.earlier, question=one.text)
        return [[{"role": "user", "content": text}]]


@dataclass(frozen=True)
class _Measured:
    """A question that is answered with and without its dialogue."""

    question: Question
    group: str = _ANSWERER

    def input(self) -> str:
        return _input_of(self.question)

    def requests(self) -> list[list[dict[str, str]]]:
        whole = self.question.messages()
        return [whole, [*self.question.system, whole[-1]]]


def _input_of(question: Question) -> str:
    dialogue, turn = question.place
    content = {"dialogue": dialogue, "turn": turn, "sha256": question.sha256}
    return json.dumps(content, ensure_ascii=False)


async def _ask(config: SelectConfig) -> SelectSummary:
    assert config.endpoint is not None, "the config was checked"
    prompts: dict[str, Prompt] = {}
    if config.method == "judge":
        prompts[_JUDGE] = (
            load_prompt(config.prompt, earlier=["?"], question="?")
            if config.prompt
            else packaged_prompt("parrot_jax.negatives", "depends_v1.jinja")
        )
        pool = rule_pool(config)
        items: Sequence[_Judged | _Measured] = [
            _Judged(question, prompts[_JUDGE]) for question in pool.questions
        ]
        judge, useless = _judged, _unclear
    else:
        pool = read_pool(config.sources, seed=config.seed, rule=lambda _: ("measured", ""))
        items = [_Measured(question) for question in pool.questions]
        judge, useless = _measured_with(config), _unreadable
    if not items:
        _write(config, pool, [])
        raise UserError(
            f"no question of {', '.join(source.path for source in config.sources)} is left to ask "
            f"about; {Path(config.out) / SUMMARY} says why."
        )
    asking = Asking(
        speaker=_JUDGE if config.method == "judge" else _ANSWERER,
        endpoint=config.endpoint,
        items=items,
        enough=config.limit,
        judge=judge,
        useless=useless,
        seed=config.seed,
    )
    path = Path(config.out) / JOURNAL
    start = Start(config_to_dict(config), records_of(prompts))
    summaries: list[SelectSummary] = []

    def write(answers: Answers) -> None:
        rows = [_asked_row(config, pool, asked) for asked in answers.asked if not asked.why_not]
        summaries.append(_write(config, pool, rows, answers))

    await ask_until_enough(
        asking, path, start, lambda old: _check_same(old, config, start, path), write
    )
    return summaries[-1]


def _judged(_: _Judged, replies: Sequence[Reply]) -> str:
    if why := _unclear(replies[0]):
        return f"no verdict: {why}"
    letter, _why = letter_in_brackets(replies[0].text, "YN")
    return "" if letter == "Y" else "judged independent"


def _unclear(reply: Reply) -> str:
    if reply.outcome is not Outcome.COMPLETE:
        return f"the reply is {reply.outcome.value}"
    return letter_in_brackets(reply.text, "YN")[1]


def _measured_with(config: SelectConfig) -> Callable[[_Measured, Sequence[Reply]], str]:
    def measured(_: _Measured, replies: Sequence[Reply]) -> str:
        similarity = _similarity(replies)
        if similarity is None:
            return "could not be measured"
        return "same answer alone" if similarity >= config.context_similarity else ""

    return measured


def _similarity(replies: Sequence[Reply]) -> float | None:
    with_dialogue, alone = (read_answer(reply)[0] for reply in replies)
    if with_dialogue is None or alone is None:
        return None
    return answer_similarity(with_dialogue, alone)


def _unreadable(reply: Reply) -> str:
    return read_answer(reply)[1]


def _by_rule(pool: Pool, question: Question) -> Selected:
    dialogue, turn = question.place
    why = pool.whys[question.place]
    return Selected(dialogue=dialogue, turn=turn, why=why, sha256=question.sha256)


def _asked_row(config: SelectConfig, pool: Pool, asked: Asked) -> Selected:
    question = asked.item.question
    dialogue, turn = question.place
    is_judged = config.method == "judge"
    return Selected(
        dialogue=dialogue,
        turn=turn,
        why=config.method,
        sha256=question.sha256,
        rule=pool.whys[question.place] if is_judged else None,
        similarity=None if is_judged else _similarity(asked.replies),
    )


def _write(
    config: SelectConfig, pool: Pool, rows: Sequence[Selected], answers: Answers | None = None
) -> SelectSummary:
    """Writes the selection and the summary."""
    kept = rows[: config.limit]
    file = Path(config.out) / SELECTED
    write_selection(file, kept)
    left_out = Counter(pool.left_out)
    num_open, requests, problem = 0, "", None
    if answers is not None:
        left_out.update(asked.why_not for asked in answers.asked if asked.why_not)
        num_open, problem = answers.open, answers.problem
        requests = answers.line(_JUDGE if config.method == "judge" else _ANSWERER)
    in_pool = len(pool.questions)
    beyond = in_pool - num_open - len(kept) - (left_out.total() - pool.left_out.total())
    if beyond:
        left_out["beyond the limit"] += beyond
    summary = SelectSummary(
        questions=in_pool + pool.left_out.total(),
        selected=_sorted(Counter(_shown(row) for row in kept)),
        left_out=_sorted(left_out),
        open=num_open,
        file=str(file),
        requests=requests,
        broken=dict(pool.report.broken),
        problem=problem,
    )
    values = asdict(replace(summary, problem=None))
    del values["problem"]
    write_json(Path(config.out) / SUMMARY, values)
    return summary


def _shown(row: Selected) -> str:
    return f"{row.why}, {row.rule}" if row.rule else row.why


def _sorted(counts: Counter[str]) -> dict[str, int]:
    """Most frequent first; ties by name, so that the order of replies does not matter."""
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _check_same(old: Start, config: SelectConfig, start: Start, path: Path) -> None:
    before = config_from_dict(SelectConfig, old.config, where=f"the run of {path}")
    assert before.endpoint is not None, "a run with a journal had an endpoint"
    assert config.endpoint is not None, "the config was checked"
    changes = changes_of_replies(before.endpoint, config.endpoint)
    for key in ("method", "seed"):
        if getattr(before, key) != getattr(config, key):
            changes.append(f"{key}: {getattr(before, key)} -> {getattr(config, key)}")
    changes += changed_prompts(old.prompts, start.prompts)
    if changes:
        raise UserError(
            f"{path} has replies by another model or other settings ({'; '.join(changes)}); choose "
            "another `out`, or restore the old values."
        )
