"""A dialogue as the model sees it: its windows, with the text that is trained on."""

import itertools
from collections import Counter
from typing import NamedTuple

from parrot_jax.data.data_config import DataConfig
from parrot_jax.data.rows import make_pairs, make_sessions
from parrot_jax.data.templates.base import Template
from parrot_jax.dialogue.types import Dialogue

_WHY_DROPPED = {
    "no_live_token": "no live token: this dialogue is dropped",
    "no_pair": "not a preference pair: this dialogue is dropped",
    "pairs_too_long": "the answers do not fit in a row: this pair is dropped",
}
_CUTS = ("cut_turns", "dropped_live_turns", "cut_contexts")


class LiveRun(NamedTuple):
    """Adjacent tokens that are all live, or all not."""

    is_live: bool
    ids: list[int]
    text: str


class LiveWindow(NamedTuple):
    """A window, or a side of a preference pair."""

    name: str
    tokens: int
    live: int
    runs: list[LiveRun]


class LiveText(NamedTuple):
    """All windows of a dialogue."""

    windows: list[LiveWindow]
    dropped: list[str]
    """Why there are no windows."""
    cuts: list[str]
    """What was cut, with counts."""

    @property
    def notes(self) -> list[str]:
        """All that a reader should know."""
        return [*self.dropped, *self.cuts]


def live_text(
    dialogue: Dialogue, config: DataConfig, template: Template, *, pairs: bool
) -> LiveText:
    """Renders a dialogue.

    Args:
      dialogue: The dialogue.
      config: Its `mask` decides what is live.
      template: Of the config.
      pairs: Whether it is trained on as a preference pair.
    """
    make_units = make_pairs if pairs else make_sessions
    counts: Counter[str] = Counter()
    units = list(make_units([dialogue], 0, config, template, counts, []))
    windows = []
    for number, unit in enumerate(units, 1):
        for side, window in zip(("chosen", "rejected"), unit.windows, strict=False):
            name = f"{side} answer" if unit.pair else f"window {number} of {len(units)}"
            runs = []
            weights = zip(window.tokens.tolist(), window.loss_weights.tolist(), strict=True)
            for is_live, tokens in itertools.groupby(weights, key=lambda pair: pair[1] > 0):
                ids = [token for token, _ in tokens]
                runs.append(LiveRun(is_live, ids, template.tokenizer.show(ids)))
            live = int((window.loss_weights > 0).sum())
            windows.append(LiveWindow(name, len(window.tokens), live, runs))
    return LiveText(
        windows,
        [_WHY_DROPPED[reason] for reason, n in counts.items() if n and reason in _WHY_DROPPED],
        [f"{name.replace('_', ' ')}: {counts[name]}" for name in _CUTS if counts[name]],
    )
