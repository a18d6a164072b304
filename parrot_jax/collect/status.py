"""The state of a collection, read from its journal, also while it runs."""

import contextlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from parrot_jax.api.journal_reader import JournalReader
from parrot_jax.collect.beginnings import read_beginnings
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.dialogue_state import OnReasoning, StopReason
from parrot_jax.collect.export import (
    MOST_ERRORS,
    SpeakerSummary,
    count_reasoning,
    reasoning_lines,
    summarise_speakers,
)
from parrot_jax.collect.folder import Collection, is_begun, more_beginnings, rules_of
from parrot_jax.collect.forecast import Assumptions, Forecast, forecast
from parrot_jax.collect.prices import with_prices
from parrot_jax.collect.prompts import load_prompts
from parrot_jax.core.logs import visible
from parrot_jax.dialogue.report import ReadReport

REPLIES_LOOKED_AT = 10_000

RATE_OVER_S = 60
"""Time window for calls per second."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Counts of a collection at one moment."""

    dialogues: int
    open: int
    """Dialogues that have not ended, or that a changed config resumes."""
    stops: Mapping[str, int]
    """Number of ended dialogues by stop reason."""
    errors: Mapping[str, int]
    """Number of dialogues by the error that ended them."""
    reasoning: Mapping[str, int]
    """Number of replies with reasoning, by speaker, among the newest `REPLIES_LOOKED_AT`: reading
    all would be too slow during a run."""
    on_reasoning: OnReasoning
    """How reasoning is handled."""
    speakers: Mapping[str, SpeakerSummary]
    calls_per_s: float
    """Replies per second over the last minute."""
    left: Forecast
    """Forecast of the remaining work."""
    hours_left: float | None
    """At the rate of the last minute; None if it had no reply."""


def read_status(collection: Collection) -> Status:
    """Reads the state of a collection."""
    config, journal = collection.config, collection.journal
    counts = journal.counts()
    open_numbers = collection.open_numbers()
    left = forecast_rest(collection, config, open_numbers, Assumptions())
    calls_left = sum(speaker.calls for speaker in left.speakers.values())
    rate = journal.replies_since(time.time() - RATE_OVER_S) / RATE_OVER_S
    return Status(
        dialogues=len(collection),
        open=len(open_numbers),
        stops=dict(sorted(journal.num_ends().items(), key=lambda item: (-item[1], item[0]))),
        errors=journal.errors(most=MOST_ERRORS),
        reasoning=count_reasoning(collection, newest=REPLIES_LOOKED_AT),
        on_reasoning=config.reasoning,
        speakers=summarise_speakers(counts.speakers, config),
        calls_per_s=rate,
        left=left,
        hours_left=calls_left / rate / 3600 if rate else None,
    )


def forecast_collection(config: CollectConfig, assumed: Assumptions) -> Forecast:
    """Forecasts a collection: the rest if it was started, else all of it.

    Raises:
      UserError: The beginnings cannot be read, a price is missing, the journal cannot be read, or
        the folder holds a collection that this config may not resume.
    """
    config = with_prices(config)
    prompts = load_prompts(config)
    if config.if_exists == "restart" or not is_begun(config.out):
        beginnings = read_beginnings(config, ReadReport())
        return _forecast(config, (len(b.turns) for b in beginnings), assumed)
    with contextlib.closing(Collection(config.out)) as collection:
        more = more_beginnings(config, collection, prompts)
        collection.rules = rules_of(config)
        return forecast_rest(
            collection, config, collection.open_numbers(), assumed, map(json.loads, more)
        )


def forecast_rest(
    collection: Collection,
    config: CollectConfig,
    open_numbers: list[int],
    assumed: Assumptions,
    more: Iterable[Mapping[str, Any]] = (),
) -> Forecast:
    """Forecasts the rest of a collection, with more beginnings, from its measured calls."""
    turns = itertools.chain(
        _num_turns(collection, open_numbers), (len(row["messages"]) for row in more)
    )
    return _forecast(config, turns, assumed, collection.journal)


def _forecast(
    config: CollectConfig,
    turns: Iterable[int],
    assumed: Assumptions,
    journal: JournalReader | None = None,
) -> Forecast:
    counts = journal.counts().speakers if journal else {}
    return forecast(
        turns,
        max_turns=config.max_turns,
        speakers=config.speakers(),
        concurrency=config.concurrency,
        assumed=assumed,
        seen=journal.means() if journal else {},
        spent={name: count.known.plus(count.uncertain) for name, count in counts.items()},
    )


def _num_turns(collection: Collection, open_numbers: list[int]) -> Iterator[int]:
    """Number of messages of each of these dialogues."""
    last = collection.journal.last_steps()
    for number in open_numbers:
        if (turn := last.get(number)) is not None:
            yield turn + 1
            continue
        end = collection.journal.end(number)
        if end is not None:
            yield 2 * end.progress
        else:
            yield len(collection.beginning(number).turns)


def status_view(status: Status) -> RenderableType:
    """The status as a table for the console."""
    ended = status.dialogues - status.open
    head = (
        f"{ended:,} of {status.dialogues:,} dialogues ended; {status.calls_per_s:.1f} replies/s"
        + (f", about {status.hours_left:,.1f} h left" if status.hours_left is not None else "")
    )
    # One column per speaker fits on any terminal.
    speakers = Table(box=None, pad_edge=False)
    speakers.add_column()
    columns = []
    for name, speaker in status.speakers.items():
        speakers.add_column(name, justify="right")
        # A damaged journal may have speakers that the config lacks.
        left = status.left.speakers.get(name)
        rest = None if left is None else left.usd
        counts = (
            speaker.requests, speaker.failed, speaker.rate_limited, speaker.lost,
            speaker.prompt_tokens, speaker.completion_tokens, speaker.uncertain_tokens,
        )  # fmt: skip
        spent = "?" if speaker.usd is None else f"{speaker.usd:,.2f} USD"
        total = "?" if speaker.usd is None or rest is None else f"{speaker.usd + rest:,.2f} USD"
        columns.append((*(f"{count:,}" for count in counts), spent, total))
    titles = ("requests", "failed", "429", "in flight or lost", "tokens read", "tokens written",
              "tokens uncertain", "spent", "forecast")  # fmt: skip
    for title, *values in zip(titles, *columns, strict=True):
        speakers.add_row(title, *values)
    stops = Table(box=None, pad_edge=False)
    stops.add_column("ended for")
    stops.add_column("dialogues", justify="right")
    for reason, count in status.stops.items():
        again = " (a higher budget resumes)" if reason == StopReason.BUDGET else ""
        stops.add_row(reason + again, f"{count:,}")
    notes = [
        *(f"  error {count:,}: {visible(error)}" for error, count in status.errors.items()),
        *reasoning_lines(status.reasoning, status.on_reasoning),
    ]
    parts = [head, "", speakers, *(["", stops] if status.stops else []), *map(Text, notes)]
    return Group(*parts)
