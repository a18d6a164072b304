"""The forward pass: packing, remat and the attention backend do not change results."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.model.attention import backends
from parrot_jax.model.decoder import (
    abstract_params,
    embed_tokens,
    hidden_states,
    init_params,
    logical_axes,
    rms_norm,
    unembedding,
)
from parrot_jax.model.families import num_parameters
from parrot_jax.model.presets import PRESETS

HERE = [backend.name for backend in backends() if backend.runs_on(jax.default_backend())]


@functools.partial(jax.jit, static_argnums=0, static_argnames=("attention", "compute_dtype"))
def forward(
    config, params, tokens, segment_ids, positions, *, attention="auto", compute_dtype="float32"
):
    return hidden_states(
        config, params, tokens, segment_ids, positions,
        compute_dtype=compute_dtype, remat="none", attention=attention,
    )  # fmt: skip


def rows_of(*lengths: int, pad: int = 0):
    """One packed row: random tokens, segment ids 1, 2, ..., positions from 0, then padding."""
    rng = np.random.default_rng(sum(lengths))
    tokens = np.concatenate([rng.integers(0, 48, sum(lengths)), np.zeros(pad, int)])
    segment_ids = np.repeat([*range(1, len(lengths) + 1), 0], [*lengths, pad])
    positions = np.concatenate([np.arange(length) for length in (*lengths, pad)])
    return [jnp.asarray(array[None], jnp.int32) for array in (tokens, segment_ids, positions)]


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("attention", HERE)
def test_segments_packed_in_one_row_equal_separate_rows(tiny, tiny_params, attention, window):
    tiny = dataclasses.replace(tiny, family="mistral", sliding_window=window)
    lengths = (11, 1, 20)
    tokens, segment_ids, positions = rows_of(*lengths, pad=5)
    packed = forward(tiny, tiny_params, tokens, segment_ids, positions, attention=attention)
    starts = (0, 11, 12)
    alone = np.zeros((3, 37), np.int32)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        alone[row, :length] = tokens[0, start : start + length]
    every_position = jnp.tile(jnp.arange(37)[None], (3, 1))
    # After its end a separate row holds padding, to which a causal model does not attend.
    separate = forward(
        tiny, tiny_params, jnp.asarray(alone), None, every_position, attention=attention
    )
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        np.testing.assert_allclose(
            packed[0, start : start + length], separate[row, :length], atol=1e-5
        )


def test_a_token_sees_through_each_layer_one_window_back(tiny, tiny_params):
    # Three layers with a window of 4 reach 3 * 3 tokens back.
    windowed = dataclasses.replace(tiny, family="mistral", sliding_window=4)
    tokens, _, positions = rows_of(20)
    before = forward(windowed, tiny_params, tokens, None, positions)
    after = forward(windowed, tiny_params, tokens.at[0, 5].add(1), None, positions)
    differs = np.abs(before - after).max((0, 2)) > 0
    assert np.flatnonzero(differs).tolist() == list(range(5, 15))


def test_a_window_as_long_as_the_row_changes_no_bit(tiny, tiny_params):
    rows = rows_of(11, 9)
    without = forward(tiny, tiny_params, *rows)
    for window in (20, 1000):
        windowed = dataclasses.replace(tiny, family="mistral", sliding_window=window)
        np.testing.assert_array_equal(forward(windowed, tiny_params, *rows), without)


def test_a_family_without_windows_refuses_one(tiny):
    with pytest.raises(UserError, match="family llama has no sliding window; set it to null, or "):
        abstract_params(dataclasses.replace(tiny, sliding_window=8))


@pytest.mark.parametrize("attention", HERE)
def test_changing_one_dialogue_leaves_the_bits_of_its_neighbours(tiny, tiny_params, attention):
    tokens, segment_ids, positions = rows_of(70, 60, 50, pad=12)
    other = jnp.where(segment_ids == 2, 47 - tokens, tokens)
    before = forward(tiny, tiny_params, tokens, segment_ids, positions, attention=attention)
    after = forward(tiny, tiny_params, other, segment_ids, positions, attention=attention)
    kept = np.asarray(segment_ids != 2)
    np.testing.assert_array_equal(before[kept], after[kept])
    assert np.abs(before[~kept] - after[~kept]).max() > 0.1


@pytest.mark.slow
def test_every_remat_policy_gives_the_same_loss_and_gradients(tiny, tiny_params):
    rows = rows_of(20, 12)

    def loss(params, remat):
        states = hidden_states(
            tiny, params, *rows, compute_dtype=jnp.float32, remat=remat, attention="dense"
        )
        return jnp.square(states).mean()

    run = jax.jit(jax.value_and_grad(loss), static_argnames="remat")
    expected = run(tiny_params, remat="none")
    for remat in ("attention", "dots", "full"):
        ours = run(tiny_params, remat=remat)
        jax.tree.map(
            lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6),
            ours,
            expected,
        )


def test_remat_policies_keep_less_and_less(tiny, tiny_params):
    rows = [jnp.tile(array, (4, 1)) for array in rows_of(64, 64)]

    def num_kept_bytes(remat):
        def states(params):
            return hidden_states(tiny, params, *rows, compute_dtype=jnp.float32, remat=remat)

        _, pullback = jax.eval_shape(lambda params: jax.vjp(states, params), tiny_params)
        return sum(math.prod(array.shape) * 4 for array in jax.tree.leaves(pullback))

    kept = [num_kept_bytes(remat) for remat in ("none", "attention", "dots", "full")]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 4


def test_the_13b_shapes_cost_no_memory_and_count_what_was_published():
    shapes = abstract_params(PRESETS["llama2-13b"])
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert total == 13_015_864_320
    rows = [jax.ShapeDtypeStruct((1, 4096), jnp.int32)] * 3
    states = jax.eval_shape(
        lambda params, *rows: hidden_states(PRESETS["llama2-13b"], params, *rows), shapes, *rows
    )
    assert (states.shape, states.dtype) == ((1, 4096, 5120), jnp.bfloat16)


def test_parameters_are_a_plain_dict_with_short_names(tiny, tiny_params):
    shapes = jax.tree.map(jnp.shape, tiny_params)
    assert shapes == {
        "embed": (48, 32),
        "layers": {
            "attention": {
                "q": (3, 32, 4, 8),
                "k": (3, 32, 2, 8),
                "v": (3, 32, 2, 8),
                "o": (3, 4, 8, 32),
            },
            "attention_norm": (3, 32),
            "mlp": {"gate": (3, 32, 40), "up": (3, 32, 40), "down": (3, 40, 32)},
            "mlp_norm": (3, 32),
        },
        "norm": (32,),
        "lm_head": (32, 48),
    }
    assert type(tiny_params) is dict
    assert type(tiny_params["layers"]["mlp"]) is dict
    axes = logical_axes(tiny)
    assert axes["layers"]["attention"]["o"] == ("layers", "heads", "head_dim", "embed")
    assert axes["embed"] == ("vocab", "embed")
    assert jax.tree.structure(abstract_params(tiny)) == jax.tree.structure(tiny_params)


def test_initial_weights_have_the_asked_spread_and_differ_between_layers(tiny, tiny_params):
    gate = tiny_params["layers"]["mlp"]["gate"]
    assert float(gate.std()) == pytest.approx(tiny.initializer_range, rel=0.05)
    assert not np.array_equal(gate[0], gate[1])
    np.testing.assert_array_equal(tiny_params["norm"], 1.0)
    again, other = init_params(tiny, seed=0), init_params(tiny, seed=1)
    jax.tree.map(np.testing.assert_array_equal, again, tiny_params)
    assert not np.array_equal(other["embed"], tiny_params["embed"])


def test_a_tied_head_is_the_embedding(tiny):
    config = dataclasses.replace(tiny, tie_word_embeddings=True)
    params = init_params(config, seed=0)
    assert "lm_head" not in params
    np.testing.assert_array_equal(unembedding(params), params["embed"].T)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == num_parameters(config) == num_parameters(tiny) - 48 * 32


def test_bfloat16_compute_is_close_and_leaves_float32_gradients(tiny, tiny_params):
    rows = rows_of(20, 12)
    exact = forward(tiny, tiny_params, *rows)
    rounded = forward(tiny, tiny_params, *rows, compute_dtype="bfloat16")
    assert rounded.dtype == jnp.bfloat16
    assert np.abs(rounded.astype(jnp.float32) - exact).mean() < 0.05

    def loss(params):
        return hidden_states(tiny, params, *rows).astype(jnp.float32).mean()

    gradients = jax.eval_shape(jax.grad(loss), tiny_params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))


def test_an_id_outside_the_vocabulary_gives_nan_not_another_token(tiny_params):
    states = embed_tokens(tiny_params, jnp.asarray([[47, 48]]), jnp.float32)
    np.testing.assert_array_equal(states[0, 0], tiny_params["embed"][47])
    assert np.isnan(states[0, 1]).all()


def test_rms_norm_by_hand():
    # mean square of (3, 4) is 12.5
    normed = rms_norm(jnp.asarray([[3.0, 4.0]]), jnp.asarray([1.0, 2.0]), 0.0)
    np.testing.assert_allclose(normed, [[3 / 12.5**0.5, 8 / 12.5**0.5]], rtol=1e-6)


def test_an_unknown_remat_policy_is_refused(tiny, tiny_params):
    with pytest.raises(UserError, match=r"no remat policy 'ful'; choose one of none, attention,"):
        hidden_states(tiny, tiny_params, *rows_of(4), remat="ful")
