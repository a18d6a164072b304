"""Which turns are live, for askers, answerers and each option."""

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import MaskConfig
from parrot_jax.data.masks import mask_turns
from parrot_jax.dialogue.types import Dialogue, Turn

Q1, A1, Q2, A2, Q3 = (
    Turn("user", "q1"), Turn("assistant", "a1"), Turn("user", "q2"),
    Turn("assistant", "a2"), Turn("user", "q3"),
)  # fmt: skip
FIVE = Dialogue(turns=(Q1, A1, Q2, A2, Q3))
FOUR = Dialogue(turns=(Q1, A1, Q2, A2))

ASK = MaskConfig(loss_roles=("user",), skip_first_turn=True)
CHAT = MaskConfig(loss_roles=("assistant",))


def weights(dialogue: Dialogue, **options: object) -> list[float]:
    return [t.weight for t in mask_turns(dialogue, MaskConfig(**options))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "live"),
    [
        #                                                            q1 a1 q2 a2 q3
        ({"loss_roles": ("user",), "skip_first_turn": True},        [0, 0, 1, 0, 1]),
        ({"loss_roles": ("user",)},                                 [1, 0, 1, 0, 1]),
        ({"loss_roles": ("assistant",)},                            [0, 1, 0, 1, 0]),
        ({"loss_roles": ("assistant",), "skip_first_turn": True},   [0, 1, 0, 1, 0]),
        ({"loss_roles": ("user", "assistant")},                     [1, 1, 1, 1, 1]),
        ({"loss_roles": ("assistant",), "max_turns": 1},            [0, 1]),
        ({"loss_roles": ("user",), "max_turns": 2},                 [1, 0, 1, 0]),
        ({"loss_roles": ("assistant",), "turn_weights": (1.0, 0.5)},  [0, 1, 0, 0.5, 0]),
        ({"loss_roles": ("user",), "turn_weights": (0.0, 1.0, 3.0)},      [0, 0, 1, 0, 3]),
    ],
)  # fmt: skip
def test_live_turns(options: dict[str, object], live: list[float]) -> None:
    assert weights(FIVE, **options) == live


def test_train_end_adds_one_live_empty_turn_after_the_last_answer() -> None:
    ask = {"loss_roles": ("user",), "train_end": True}
    assert mask_turns(FOUR, MaskConfig(**ask))[-1][:3] == ("user", "", 1.0)  # type: ignore[arg-type]
    assert weights(FOUR, **ask) == [1, 0, 1, 0, 1]
    # No end is added if the real end is unknown: cut by max_turns, or ending with a question.
    assert weights(FOUR, **ask, max_turns=1) == [1, 0]
    assert weights(FIVE, **ask) == [1, 0, 1, 0, 1]
    assert mask_turns(FIVE, MaskConfig(**ask))[-1].text == "q3"  # type: ignore[arg-type]


def test_a_turns_own_weight_multiplies() -> None:
    spoken = Dialogue(turns=(Q1, Turn("assistant", "a1", 0.0), Q2, Turn("assistant", "a2", 2.0)))
    assert weights(spoken, loss_roles=("assistant",), turn_weights=(0.5,)) == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_roles": ()}, "loss_roles is empty"),
        ({"loss_roles": ("user",), "max_turns": 0}, "max_turns is 0; it must be at least 1"),
        ({"loss_roles": ("user",), "turn_weights": (1.0, -1.0)}, "each must be 0 or from 1e-12"),
        ({"loss_roles": ("user",), "turn_weights": (1e39,)}, "each must be 0 or from 1e-12"),
        ({"loss_roles": ("user",), "turn_weights": (1e-50,)}, "each must be 0 or from 1e-12"),
        ({"loss_roles": ("assistant",), "train_end": True}, "needs user in mask.loss_roles"),
    ],
)
def test_masks_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MaskConfig(**options)  # type: ignore[arg-type]
