"""Splits long dialogues by tokens, and filters dialogues by their number of rounds."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from parrot_jax.dialogue.clean import require
from parrot_jax.dialogue.types import Dialogue, Turn


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Split dialogues that are too long, before user turns."""

    tokenizer: str | None = None
    """The tokenizer to count tokens with: a `tokenizer.model`, or a model's folder; required."""
    max_tokens: int = 4096
    """Most tokens of a piece, >= 1. A single longer round is not split: packing truncates it."""
    tokens_per_turn: int = 8
    """Tokens that the chat template adds to each turn, >= 0."""

    def __post_init__(self) -> None:
        require(self.max_tokens >= 1, "max_tokens", self.max_tokens, ">= 1")
        require(self.tokens_per_turn >= 0, "tokens_per_turn", self.tokens_per_turn, ">= 0")


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """Drop dialogues by the number of their questions, counted after splitting."""

    min_rounds: int = 1
    """Drop dialogues with fewer questions, >= 1."""
    max_rounds: int | None = None
    """Drop dialogues with more questions; null = no limit."""

    def __post_init__(self) -> None:
        require(self.min_rounds >= 1, "min_rounds", self.min_rounds, ">= 1")
        if self.max_rounds is not None:
            require(
                self.max_rounds >= self.min_rounds,
                "max_rounds",
                self.max_rounds,
                f"null or >= min_rounds={self.min_rounds}",
            )


def split_dialogue(
    dialogue: Dialogue, *, max_tokens: int, count: Callable[[str], int], tokens_per_turn: int = 0
) -> tuple[Dialogue, ...]:
    """Splits a dialogue that is too long, before user turns, into as few pieces as possible.

    Pieces do not overlap, so no turn is trained on twice, but later pieces lack the turns before
    them. Every piece keeps the system text.

    Args:
      dialogue: Any dialogue.
      max_tokens: Most tokens of a piece, including the system text, >= 1. A single longer round
        becomes a piece by itself; packing truncates it, since it knows the trained tokens.
      count: Counts the tokens of a text.
      tokens_per_turn: Tokens that the chat template adds to each turn, >= 0.

    Returns:
      The dialogue itself if it fits; otherwise its pieces. The first keeps the id, the others
      append `#2`, `#3`, ...

    >>> turns = tuple(Turn("user" if n % 2 == 0 else "assistant", "a b") for n in range(6))
    >>> pieces = split_dialogue(
    ...     Dialogue(turns=turns, id="x"), max_tokens=9, count=lambda text: len(text.split())
    ... )
    >>> [(piece.id, len(piece.turns)) for piece in pieces]
    [('x', 4), ('x#2', 2)]
    """
    sizes = [count(turn.whole) + tokens_per_turn for turn in dialogue.turns]
    base = count(dialogue.system) + tokens_per_turn if dialogue.system else 0
    if base + sum(sizes) <= max_tokens:
        return (dialogue,)
    pieces: list[list[Turn]] = []
    used = 0
    for start in range(0, len(sizes), 2):
        size = sum(sizes[start : start + 2])
        if not pieces or used + size > max_tokens:
            pieces.append([])
            used = base
        pieces[-1].extend(dialogue.turns[start : start + 2])
        used += size
    return tuple(
        replace(
            dialogue,
            turns=tuple(turns),
            id=dialogue.id if number == 1 else f"{dialogue.id}#{number}",
        )
        for number, turns in enumerate(pieces, start=1)
    )


def rounds_filter(config: RoundsConfig) -> Callable[[Dialogue], str | None]:
    """Makes a filter for dialogues with too few or too many questions."""

    def reason_against(dialogue: Dialogue) -> str | None:
        if dialogue.num_rounds < config.min_rounds:
            return f"fewer than {config.min_rounds} rounds"
        if config.max_rounds is not None and dialogue.num_rounds > config.max_rounds:
            return f"more than {config.max_rounds} rounds"
        return None

    return reason_against
