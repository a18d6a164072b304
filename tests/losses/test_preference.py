"""Preference losses, by numbers that a reader can check."""

import math

import jax.numpy as jnp
import pytest

from parrot_jax.losses.preference import preference_loss


@pytest.mark.parametrize(
    ("kind", "beta", "margin", "loss"),
    [
        ("sigmoid", 0.1, 0.0, math.log(2)),
        ("sigmoid", 0.1, 10.0, math.log(1 + math.exp(-1))),
        ("sigmoid", 0.5, -4.0, math.log(1 + math.exp(2))),
        ("sigmoid", 0.1, -1e6, 1e5),  # without overflow
        ("ipo", 0.1, 0.0, 25.0),
        ("ipo", 0.1, 5.0, 0.0),
        ("ipo", 0.5, 3.0, 4.0),
    ],
)
def test_the_loss_of_a_margin(kind, beta: float, margin: float, loss: float) -> None:
    found = preference_loss(jnp.array([margin]), kind=kind, beta=beta)
    assert float(found[0]) == pytest.approx(loss, rel=1e-6)
