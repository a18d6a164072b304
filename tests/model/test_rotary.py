"""Rotary embedding against numbers computed by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.model.frequencies import frequencies
from parrot_jax.model.model_config import RopeScaling
from parrot_jax.model.rotary import rotate, rotation_at


def test_rotation_turns_the_pair_of_a_dim_and_its_half_away_neighbour():
    # H=4, theta=100: pair 0 is dims (0, 2) and rotates by 1 per position, pair 1 is dims (1, 3) and
    # rotates by 100^(-2/4) = 0.1.
    x = jnp.asarray([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
    turned = rotate(x, rotation_at(jnp.asarray([[3]]), 4, 100.0))[0, 0, 0]
    expected = [math.cos(3), math.cos(0.3), math.sin(3), math.sin(0.3)]
    np.testing.assert_allclose(turned, expected, atol=1e-6)


def test_position_zero_changes_nothing():
    x = jax.random.normal(jax.random.key(0), (2, 1, 3, 8))
    rotation = rotation_at(jnp.zeros((2, 1), jnp.int32), 8, 10000.0)
    np.testing.assert_array_equal(rotate(x, rotation), x)


def test_products_depend_on_the_distance_only():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))

    def product(query_at: int, key_at: int) -> float:
        q = rotate(query, rotation_at(jnp.asarray([[query_at]]), 16, 10000.0))
        k = rotate(key, rotation_at(jnp.asarray([[key_at]]), 16, 10000.0))
        return float((q * k).sum())

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)


def test_angles_stay_float32_for_bfloat16_states():
    rotation = rotation_at(jnp.asarray([[1000, 1001]]), 8, 10000.0)
    assert rotation.cos.dtype == jnp.float32
    assert float(rotation.cos[0, 0, 0]) == pytest.approx(math.cos(1000), abs=1e-4)
    assert rotate(jnp.ones((1, 2, 1, 8), jnp.bfloat16), rotation).dtype == jnp.bfloat16


def test_yarn_keeps_short_wavelengths_stretches_long_ones_and_sharpens_attention():
    # H=8, theta=10000: frequencies 1, 0.1, 0.01, 0.001. 6283 positions hold 1000 wavelengths of
    # pair 0, 100 of pair 1, 10 of pair 2 and 1 of pair 3.
    scaling = RopeScaling(
        rope_type="yarn", factor=2.0, original_max_position_embeddings=6283,
        beta_fast=1000.0, beta_slow=1.0, truncate=False,
    )  # fmt: skip
    # Pair i is stretched to i / 3 of the way from f to f / 2.
    expected = [1.0, 0.1 * 5 / 6, 0.01 * 4 / 6, 0.001 * 3 / 6]
    np.testing.assert_allclose(frequencies(8, 10000.0, scaling), expected, rtol=1e-4)
    factor = 0.1 * math.log(2) + 1
    x = jax.random.normal(jax.random.key(0), (1, 1, 1, 8))
    turned = rotate(x, rotation_at(jnp.asarray([[7]]), 8, 10000.0, scaling))
    np.testing.assert_allclose(jnp.linalg.norm(turned), factor * jnp.linalg.norm(x), rtol=1e-6)
