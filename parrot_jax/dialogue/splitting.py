"""Long dialogues into several that fit, and a limit on rounds; tokens are counted by a function."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from parrot_jax.dialogue.clean import require
from parrot_jax.dialogue.types import Dialogue, Turn


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Split dialogues that are too long in front of a user turn."""

    tokenizer: str | None = None
    """The SentencePiece model that counts, e.g. LLaMA's `tokenizer.model`; required."""
    max_tokens: int = 4096
    """What a piece may hold, >= 1. A single longer round stays whole: packing cuts it."""
    tokens_per_turn: int = 8
    """What the chat template adds to each turn, >= 0."""

    def __post_init__(self) -> None:
        require(self.max_tokens >= 1, "max_tokens", self.max_tokens, ">= 1")
        require(self.tokens_per_turn >= 0, "tokens_per_turn", self.tokens_per_turn, ">= 0")


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """Drop dialogues by the number of their questions, counted after splitting."""

    min_rounds: int = 1
    """Fewer are dropped, >= 1."""
    max_rounds: int | None = None
    """More are dropped; null = no limit."""

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
    """Splits a dialogue that is too long in front of user turns, into as few pieces as possible.

    Pieces do not overlap, so no turn is trained on twice; the price is that a later piece starts
    without what came before it. Every piece keeps the system text.

    Args:
      dialogue: Any dialogue.
      max_tokens: What a piece may hold, system text included, >= 1. A single round that is longer
        becomes a piece of its own, uncut: only the packer knows which of its tokens are trained.
      count: Tokens in a text.
      tokens_per_turn: What the chat template adds to each turn, >= 0.

    Returns:
      The dialogue itself where it fits; otherwise its pieces. The first keeps the id, the others
      have `#2`, `#3`, ... behind it.

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
    """Makes a predicate that names a reason against dialogues with too few or many questions."""

    def reason_against(dialogue: Dialogue) -> str | None:
        if dialogue.num_rounds < config.min_rounds:
            return f"fewer than {config.min_rounds} rounds"
        if config.max_rounds is not None and dialogue.num_rounds > config.max_rounds:
            return f"more than {config.max_rounds} rounds"
        return None

    return reason_against
