"""The report of collections: one, or several side by side; also while they run."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from parrot_jax.collect.export import finished_dialogues
from parrot_jax.collect.folder import Collection, JournaledDialogue
from parrot_jax.collect.status import Status, read_status
from parrot_jax.core.logs import counting
from parrot_jax.report.charts import Bars, column_chart, percent
from parrot_jax.report.page import (
    HUES,
    Answer,
    Block,
    Page,
    Picture,
    Round,
    Section,
    Table,
    Tile,
    TranscriptPanel,
)
from parrot_jax.stats.inputs import labels_of

_EXAMPLES_OF_REASON = 2
_MOST_TURNS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What the page needs of a collection."""

    name: str
    status: Status
    turns: Mapping[int, int]
    """Number of finished dialogues by number of questions."""
    examples: Mapping[str, Sequence[JournaledDialogue]]
    """The first dialogues that ended for each reason."""

    @property
    def mean_turns(self) -> float | None:
        """Mean questions of a finished dialogue."""
        total = sum(self.turns.values())
        return sum(n * count for n, count in self.turns.items()) / total if total else None

    @property
    def usd(self) -> float | None:
        """Cost so far; None = a price is unknown."""
        costs = [speaker.usd for speaker in self.status.speakers.values()]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None


def collection_page(folders: Sequence[str]) -> Page:
    """Lays out the report.

    Args:
      folders: Of collections, at least one.

    Raises:
      UserError: A folder has no collection, or its journal is damaged.
    """
    names = labels_of(list(folders))
    with counting("dialogues read") as advance:
        found = [_read(folder, name, advance) for folder, name in zip(folders, names, strict=True)]
    return Page(
        title="Collection" if len(found) == 1 else "Collections",
        lead="; ".join(
            f"{one.name}: {one.status.dialogues - one.status.open:,} of "
            f"{one.status.dialogues:,} dialogues have ended"
            for one in found
        )
        + ".",
        tiles=[
            Tile(
                "–" if one.mean_turns is None else f"{one.mean_turns:.2f}",
                "questions in a dialogue",
                one.name if len(found) > 1 else "",
            )
            for one in found[:4]
        ],
        sections=[_stops(found), _lengths(found), _speakers(found), *map(_examples, found)],
    )


def _read(folder: str, name: str, advance: Callable[[], None]) -> _Read:
    turns: Counter[int] = Counter()
    examples: dict[str, list[JournaledDialogue]] = {}
    with contextlib.closing(Collection(folder)) as collection:
        status = read_status(collection)
        for journaled in finished_dialogues(collection):
            advance()
            turns[len(journaled.state.complete_turns) // 2] += 1
            of_reason = examples.setdefault(str(journaled.state.stop), [])
            if len(of_reason) < _EXAMPLES_OF_REASON:
                of_reason.append(journaled)
    return _Read(name=name, status=status, turns=turns, examples=examples)


def _stops(found: Sequence[_Read]) -> Section:
    reasons = sorted(
        {reason for one in found for reason in one.status.stops},
        key=lambda reason: -sum(one.status.stops.get(reason, 0) for one in found),
    )
    rows = []
    for reason in reasons:
        counts = [one.status.stops.get(reason, 0) for one in found]
        totals = [sum(one.status.stops.values()) for one in found]
        rows.append((
            reason,
            *(f"{n:,} ({percent(n / total, 1)})" if total else "–"
              for n, total in zip(counts, totals, strict=True)),
        ))  # fmt: skip
    errors = [
        f"{one.name}: {count:,} dialogues ended with the error: {error}"
        for one in found
        for error, count in one.status.errors.items()
    ]
    table = Table(columns=("Why a dialogue ended", *(one.name for one in found)), rows=rows)
    return Section(heading="Stops", text=errors, blocks=[table] if rows else [])


def _lengths(found: Sequence[_Read]) -> Section:
    some = [one for one in found if one.turns]
    longest = max((max(one.turns) for one in some), default=0)
    shown = range(1, min(longest, _MOST_TURNS_SHOWN) + 1)
    blocks: list[Block] = []
    for first in range(0, len(some), len(HUES)):
        part = some[first : first + len(HUES)]
        names = ", ".join(one.name for one in part)
        bars = [
            Bars(
                name=one.name,
                hue=hue,
                values=[one.turns.get(n, 0) / sum(one.turns.values()) for n in shown],
            )
            for one, hue in zip(part, HUES, strict=False)
        ]
        chart = column_chart(
            [str(n) for n in shown], bars, label=f"Number of questions in a dialogue: {names}",
            x_label="questions in the dialogue", y_label="dialogues",
        )  # fmt: skip
        caption = "Share of the finished dialogues by number of answered questions."
        if longest > _MOST_TURNS_SHOWN:
            caption += f" Those with more than {_MOST_TURNS_SHOWN} are not shown."
        blocks.append(Picture(chart=chart, caption=caption))
    return Section(heading="Length of the dialogues", text=[], blocks=blocks)


def _speakers(found: Sequence[_Read]) -> Section:
    rows = [
        (
            one.name, name, f"{counts.requests:,}", f"{counts.failed:,}",
            f"{counts.prompt_tokens:,}", f"{counts.completion_tokens:,}",
            f"{counts.uncertain_tokens:,}",
            "unknown" if counts.usd is None else f"{counts.usd:,.2f} USD",
        )
        for one in found
        for name, counts in one.status.speakers.items()
    ]  # fmt: skip
    costs = [f"{one.name} has cost {one.usd:,.2f} USD." for one in found if one.usd is not None]
    columns = ("Collection", "Speaker", "Requests", "Failed", "Tokens read", "Tokens written",
               "Uncertain tokens", "Cost")  # fmt: skip
    table = Table(columns=columns, rows=rows, text_columns=2)
    return Section(heading="Requests and cost", text=costs, blocks=[table])


def _examples(one: _Read) -> Section:
    return Section(
        heading=f"Dialogues of {one.name}",
        text=[f"The first {_EXAMPLES_OF_REASON} that ended for each reason."],
        blocks=[
            _transcript(journaled, reason)
            for reason, some in one.examples.items()
            for journaled in some
        ],
    )


def _transcript(journaled: JournaledDialogue, reason: str) -> TranscriptPanel:
    texts = [turn.text for turn in journaled.state.turns]
    given = len(journaled.beginning.turns)
    pairs = itertools.zip_longest(texts[::2], texts[1::2], fillvalue="")
    rounds = [
        Round(question, "given" if 2 * number < given else "", [Answer(answer)] if answer else [])
        for number, (question, answer) in enumerate(pairs)
    ]
    detail = f" ({journaled.state.detail})" if journaled.state.detail else ""
    return TranscriptPanel(
        title=f"Dialogue {journaled.number}: {reason}{detail}",
        asker="Question",
        answerers=("Answer",),
        rounds=rounds,
    )
