"""Shows the progress of a running job: a live view on a terminal, else a line every 30 seconds."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table

from parrot_jax.api.budget import usd
from parrot_jax.api.caller import Caller
from parrot_jax.core.logs import LINE_EVERY_S, Pace
from parrot_jax.core.logs import console as standard_output

_REFRESH_EVERY_S = 1.0


@dataclass
class LiveView:
    """Counts and displays the progress of a run."""

    noun: str
    """The name of the items, e.g. `dialogues`."""
    total: int
    """Number of items."""
    finished: int
    """Number of finished items, including those of earlier runs."""
    callers: Mapping[str, Caller]
    """The endpoints by speaker."""
    console: Console = field(default_factory=lambda: standard_output)
    results: Counter[str] = field(default_factory=Counter)
    """Results of the items finished in this run."""
    replies: Counter[str] = field(default_factory=Counter)
    """Replies in this run, by speaker."""
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._pace = Pace(self.total)
        self._pace.left(self.finished)

    def reply_came(self, speaker: str) -> None:
        """Counts a reply of a speaker."""
        self.replies[speaker] += 1

    def item_finished(self, result: str) -> None:
        """Counts a finished item by its result."""
        self.finished += 1
        self.results[result] += 1

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Displays the progress while the block runs."""
        work = self._refresh() if self.console.is_terminal else self._print_lines()
        task = asyncio.create_task(work)
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def line(self) -> str:
        """Returns the counts as one line."""
        replies = self.replies.total()
        seconds = max(time.monotonic() - self.started, 1e-9)
        left = self._pace.left(self.finished)
        return (
            f"{self.finished:,} of {self.total:,} {self.noun} finished, {replies:,} replies, "
            f"{replies / seconds:.1f}/s" + (f", {left}" if left else "")
        )

    def view(self) -> RenderableType:
        """Returns the live view: counts, a progress bar, a row per speaker, and the results."""
        speakers = Table(box=None, pad_edge=False)
        speakers.add_column()
        for title in ("replies", "in flight", "limit", "429s", "spent"):
            speakers.add_column(title, justify="right")
        for name, caller in self.callers.items():
            throttle = caller.throttle
            cooling = f" (cooling {throttle.cools_s:.0f} s)" if throttle.cools_s else ""
            speakers.add_row(
                name,
                f"{self.replies[name]:,}",
                f"{throttle.in_flight:,}",
                f"{int(throttle.room):,}{cooling}",
                f"{throttle.num_rate_limited:,}",
                _spent(caller),
            )
        results = ", ".join(f"{result} {count:,}" for result, count in self.results.most_common())
        # A progress bar prints no newline; padding adds it.
        bar = Padding(ProgressBar(total=max(1, self.total), completed=self.finished, width=60), 0)
        return Group(self.line(), bar, speakers, f"finished in this run: {results or 'none yet'}")

    async def _refresh(self) -> None:
        with Live(self.view(), console=self.console, transient=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(_REFRESH_EVERY_S)
                live.update(self.view(), refresh=True)

    async def _print_lines(self) -> None:
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            self.console.print(self.line())


def _spent(caller: Caller) -> str:
    """The known cost, its upper bound, and the budget."""
    budget = caller.budget
    known, upper = budget.spent.known, budget.spent.known.plus(budget.spent.uncertain)
    if budget.price is not None and budget.max_usd is not None:
        sums = (usd(known, budget.price), usd(upper, budget.price))
        return f"{sums[0]:,.2f} to {sums[1]:,.2f} of {budget.max_usd:,.2f} USD"
    limit = "" if budget.max_tokens is None else f" of {budget.max_tokens:,}"
    return f"{known.total:,} to {upper.total:,}{limit} tokens"
