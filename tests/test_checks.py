"""Types and shapes are checked at every call, which the other tests rely on."""

from typing import Any

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from parrot_jax.intervals.wilson import share_interval
from parrot_jax.losses.token_loss import role_weighted_nll


def test_a_value_of_another_type_is_refused() -> None:
    successes: Any = "81"
    with pytest.raises(BeartypeCallHintViolation, match="successes"):
        share_interval(successes, 263)


def test_sizes_that_share_a_letter_must_be_equal() -> None:
    hidden, head = np.zeros((1, 2, 3), np.float32), np.zeros((3, 5), np.float32)
    targets, weights = np.zeros((1, 4), np.int32), np.ones((1, 4), np.float32)
    arrays: Any = (hidden, head, targets, weights)
    with pytest.raises(TypeCheckError, match="targets"):  # T is both 2 and 4
        role_weighted_nll(*arrays)
