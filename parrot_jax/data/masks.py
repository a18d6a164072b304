"""The loss mask, computed per turn, before tokenisation."""

from typing import NamedTuple

from parrot_jax.data.data_config import MaskConfig
from parrot_jax.dialogue.types import Dialogue, Role


class MaskedTurn(NamedTuple):
    """A turn with its loss weight; 0 = context only."""

    role: Role
    text: str
    weight: float
    context: str = ""
    """Comes before the text and is never live."""


def mask_turns(dialogue: Dialogue, mask: MaskConfig) -> list[MaskedTurn]:
    """Cuts a dialogue to `max_turns` and assigns loss weights to its turns.

    Args:
      dialogue: Turns alternate, the user first.
      mask: The settings.

    Returns:
      The kept turns. With `train_end`, also an empty live user turn, unless the dialogue was cut or
      ends with a question, since then its real end is unknown.

    >>> from parrot_jax.dialogue.types import Turn
    >>> d = Dialogue(turns=(Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")))
    >>> ask = MaskConfig(loss_roles=("user",), skip_first_turn=True)
    >>> [turn.weight for turn in mask_turns(d, ask)]
    [0.0, 0.0, 1.0]
    """
    kept = dialogue.turns if mask.max_turns is None else dialogue.turns[: 2 * mask.max_turns]
    turns = []
    for number, turn in enumerate(kept):
        live = turn.role in mask.loss_roles and not (mask.skip_first_turn and number == 0)
        weight = turn.weight * _round_weight(number // 2, mask) if live else 0.0
        turns.append(MaskedTurn(turn.role, turn.text, weight, turn.context))
    whole = len(kept) == len(dialogue.turns)
    if mask.train_end and whole and kept[-1].role == "assistant":
        turns.append(MaskedTurn("user", "", _round_weight(len(kept) // 2, mask)))
    return turns


def _round_weight(round_number: int, mask: MaskConfig) -> float:
    if not mask.turn_weights:
        return 1.0
    return mask.turn_weights[min(round_number, len(mask.turn_weights) - 1)]
