"""Chains cleaning steps; each keeps, changes, splits or drops a dialogue and counts it.

The steps themselves are in `markdown` (HTML), `language`, `dedup`, `contamination` and `splitting`;
the command decides which of them run and in which order.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.types import Dialogue


@dataclass
class StepCounts:
    """The counts of one step."""

    name: str
    seen: int = 0
    kept: int = 0
    """Output dialogues; a step that splits may give more than it saw."""
    changed: int = 0
    """Output dialogues whose turns were changed."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Dialogues dropped, by reason."""

    def to_json(self) -> dict[str, Any]:
        """The counts as a JSON object; reasons with the largest count first."""
        dropped = dict(self.dropped.most_common())
        return {
            "step": self.name,
            "seen": self.seen,
            "kept": self.kept,
            "changed": self.changed,
            "dropped": dropped,
        }


Cleaned = Dialogue | tuple[Dialogue, ...] | str
"""The dialogue or its parts, or the reason why it is dropped."""

Step = Callable[[Dialogue], Cleaned]


def require(ok: bool, name: str, value: Any, allowed: str) -> None:
    """Checks one field of a step's config.

    Raises:
      UserError: It is not `ok`; the message names the field, the value and what is allowed.
    """
    if not ok:
        raise UserError(f"{name} is {value!r}; it must be {allowed}.")


def keep_unless(reason_against: Callable[[Dialogue], str | None]) -> Step:
    """Makes a step from a function that returns a reason to drop a dialogue, or `None`."""
    return lambda dialogue: reason_against(dialogue) or dialogue


def run_step(dialogues: Iterable[Dialogue], step: Step, counts: StepCounts) -> Iterator[Dialogue]:
    """Sends a stream of dialogues through one step.

    Args:
      dialogues: Consumed one by one.
      step: The step to apply.
      counts: Filled while the result is consumed.

    Yields:
      The output of the step, in order.
    """
    for dialogue in dialogues:
        counts.seen += 1
        outcome = step(dialogue)
        if isinstance(outcome, str):
            counts.dropped[outcome] += 1
            continue
        parts = (outcome,) if isinstance(outcome, Dialogue) else outcome
        for part in parts:
            counts.kept += 1
            counts.changed += part.turns != dialogue.turns
            yield part
