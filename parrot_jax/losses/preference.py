"""Preference losses: pure functions of the log-probabilities of whole answers.

All arrays have one entry per pair. `margin` below is the difference of the implicit rewards divided
by beta: (log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected)).
"""

from typing import Literal

import jax
from jaxtyping import Array, Float

PreferenceKind = Literal["sigmoid", "ipo"]


def preference_loss(
    margin: Float[Array, "*pairs"], *, kind: PreferenceKind, beta: float
) -> Float[Array, "*pairs"]:
    """The loss of each pair.

    Args:
      margin: In nats; 0 if the model is the reference.
      kind: `sigmoid`: -log sigmoid(beta margin), which is ln 2 at margin 0 (DPO, arXiv:2305.18290,
        eq. 7). `ipo`: (margin - 1 / (2 beta))^2 (arXiv:2310.12036, eq. 17).
      beta: Strength of the pull to the reference, > 0.

    >>> round(float(preference_loss(jax.numpy.array(0.0), kind="sigmoid", beta=0.1)), 6)
    0.693147
    """
    if kind == "sigmoid":
        return -jax.nn.log_sigmoid(beta * margin)
    return (margin - 1 / (2 * beta)) ** 2
