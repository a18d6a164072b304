"""What a running collection shows: a view that renews itself, or a line now and then."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table

from parrot_jax.api.budget import usd
from parrot_jax.api.caller import Caller
from parrot_jax.collect.dialogue_state import StopReason
from parrot_jax.core.logs import LINE_EVERY_S, console

_RENEW_EVERY_S = 1.0


@dataclass
class LiveView:
    """Counts what happens in this run, and shows it."""

    dialogues: int
    """All of the collection."""
    ended: int
    """Those that had ended before this run, and since."""
    callers: Mapping[str, Caller]
    """Who is asked; they know what is in flight and what was spent."""
    stops: Counter[StopReason] = field(default_factory=Counter)
    """Dialogues that ended in this run."""
    replies: Counter[str] = field(default_factory=Counter)
    """Replies that came in this run, by speaker."""
    started: float = field(default_factory=time.monotonic)

    def reply_came(self, speaker: str) -> None:
        """Counts a reply."""
        self.replies[speaker] += 1

    def dialogue_ended(self, reason: StopReason) -> None:
        """Counts a dialogue."""
        self.ended += reason is not StopReason.BUDGET
        self.stops[reason] += 1

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Shows it while the block runs."""
        work = self._renew() if console.is_terminal else self._print()
        task = asyncio.create_task(work)
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def line(self) -> str:
        """The counts in one line."""
        replies = self.replies.total()
        seconds = max(time.monotonic() - self.started, 1e-9)
        return (
            f"{self.ended:,} of {self.dialogues:,} dialogues ended, {replies:,} replies, "
            f"{replies / seconds:.1f}/s"
        )

    def view(self) -> RenderableType:
        """The counts with a bar, a row for each speaker, and why dialogues ended."""
        speakers = Table(box=None, pad_edge=False)
        speakers.add_column()
        for title in ("replies", "in flight", "at most", "429", "spent, at most"):
            speakers.add_column(title, justify="right")
        for name, caller in self.callers.items():
            throttle = caller.throttle
            cools = f" cools {throttle.cools_s:.0f} s" if throttle.cools_s else ""
            speakers.add_row(
                name, f"{self.replies[name]:,}", f"{throttle.in_flight:,}",
                f"{int(throttle.room):,}{cools}", f"{throttle.num_rate_limited:,}", _spent(caller),
            )  # fmt: skip
        stops = ", ".join(f"{reason} {count:,}" for reason, count in self.stops.most_common())
        # A bar ends no line; what stands around it does.
        bar = Padding(ProgressBar(total=max(1, self.dialogues), completed=self.ended, width=60), 0)
        return Group(self.line(), bar, speakers, f"ended for: {stops or 'nothing yet'}")

    async def _renew(self) -> None:
        with Live(self.view(), console=console, transient=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(_RENEW_EVERY_S)
                live.update(self.view(), refresh=True)

    async def _print(self) -> None:
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            console.print(self.line())


def _spent(caller: Caller) -> str:
    """What was spent for certain and what may have been, beside the limit."""
    budget = caller.budget
    known, all_of_it = budget.spent.known, budget.spent.known.plus(budget.spent.uncertain)
    if budget.price is not None and budget.max_usd is not None:
        sums = (usd(known, budget.price), usd(all_of_it, budget.price))
        return f"{sums[0]:,.2f} to {sums[1]:,.2f} of {budget.max_usd:,.2f} USD"
    limit = "" if budget.max_tokens is None else f" of {budget.max_tokens:,}"
    return f"{known.total:,} to {all_of_it.total:,}{limit} tokens"
