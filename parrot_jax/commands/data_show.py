"""Print a dialogue as the model sees it: live text green, dead text grey, ids on request."""

import itertools
from dataclasses import dataclass

from parrot_jax.core.errors import UserError
from parrot_jax.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class DataShowConfig(TrainConfig):
    """A training config, and which of its dialogues to print."""

    index: int = 0
    """Which dialogue of the training split, counted from 0."""

    ids: bool = False
    """Print the ids of each window, live ones marked, instead of the text alone."""


Config = DataShowConfig


def run(config: DataShowConfig) -> None:
    """Prints one dialogue window by window."""
    from collections import Counter

    from rich.text import Text

    from parrot_jax.core.logs import console, visible
    from parrot_jax.data.masks import mask_turns
    from parrot_jax.data.prepare import read_split
    from parrot_jax.data.template import render
    from parrot_jax.data.tokenizer import load_tokenizer
    from parrot_jax.data.windows import Cutter, make_windows

    if config.index < 0:
        raise UserError(f"--index is {config.index}; dialogues are counted from 0.")
    tokenizer = load_tokenizer(config.data.tokenizer)
    stream = read_split(config.data, "train")
    dialogue = next(itertools.islice(stream, config.index, None), None)
    if dialogue is None:
        raise UserError(f"--index is {config.index}, but the training split ends before it.")
    turns = mask_turns(dialogue, config.data.mask)
    (rendering,) = render([(dialogue.system, [(t.role, t.text) for t in turns])], tokenizer)
    counts: Counter[str] = Counter()
    windows = list(
        make_windows(
            rendering, turns, config.data.row_tokens, counts,
            cutter=Cutter(tokenizer), trim_dead=config.data.trim_dead,
        )
    )  # fmt: skip
    console.print(f"dialogue {config.index}: {dialogue.id} from {dialogue.source}")
    if not windows:
        console.print("no live token: this dialogue is dropped", style="yellow")
    for number, window in enumerate(windows, 1):
        live = int((window.loss_weights > 0).sum())
        console.rule(
            f"window {number} of {len(windows)}: {len(window.tokens):,} tokens, {live:,} live"
        )
        text = Text()
        runs = itertools.groupby(
            zip(window.tokens.tolist(), window.loss_weights.tolist(), strict=True),
            key=lambda pair: pair[1] > 0,
        )
        for is_live, pairs in runs:
            ids = [token for token, _ in pairs]
            shown = " ".join(map(str, ids)) + " " if config.ids else visible(tokenizer.show(ids))
            text.append(shown, style="green" if is_live else "bright_black")
        console.print(text)
    for name in ("cut_turns", "dropped_live_turns"):
        if counts[name]:
            console.print(f"{name.replace('_', ' ')}: {counts[name]}", style="yellow")
