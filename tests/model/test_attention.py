"""Attention backends that run here equal the formula and never attend across segments."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.model import attention, attention_xla
from parrot_jax.model.attention import attend, backends, choose

HERE = [backend.name for backend in backends() if backend.runs_on(jax.default_backend())]


jitted = jax.jit(attend, static_argnames=("backend", "window"))


def arrays(num_rows=2, length=150, num_heads=4, num_kv_heads=2, width=8):
    """Queries, keys, values and an upstream gradient."""
    # With numpy, because jax would compile each function separately.
    random = np.random.default_rng(0)
    heads = (num_heads, num_kv_heads, num_kv_heads, num_heads)
    return [
        jnp.asarray(random.standard_normal((num_rows, length, count, width), np.float32))
        for count in heads
    ]


def segments_of(*lengths: int) -> jax.Array:
    """One row of segments 1, 2, ... of the given lengths; a last length 0 means padding."""
    return jnp.asarray([np.repeat(np.arange(1, len(lengths) + 1), lengths)], jnp.int32)


def by_hand(query, key, value, segment_ids, window=None):
    """The formula with loops, in float64."""
    query, key, value = (np.asarray(array, np.float64) for array in (query, key, value))
    output = np.zeros_like(query)
    for row, at, head in np.ndindex(*query.shape[:3]):
        kv_head = head // (query.shape[2] // key.shape[2])
        first = 0 if window is None else max(0, at - window + 1)
        seen = [s for s in range(first, at + 1) if segment_ids[row, s] == segment_ids[row, at]]
        scores = key[row, seen, kv_head] @ query[row, at, head] / np.sqrt(query.shape[3])
        weights = np.exp(scores - scores.max())
        output[row, at, head] = weights / weights.sum() @ value[row, seen, kv_head]
    return output


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_every_backend_equals_the_formula_written_with_loops(name, num_kv_heads):
    query, key, value, _ = arrays(1, 20, 4, num_kv_heads, 6)
    segment_ids = segments_of(7, 1, 9, 3)
    output = jitted(query, key, value, segment_ids, backend=choose(name))
    np.testing.assert_allclose(output, by_hand(query, key, value, segment_ids), atol=2e-6)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("window", [1, 4, 20])
def test_a_window_hides_what_is_that_many_tokens_back_or_more(name, window):
    query, key, value, _ = arrays(1, 20, 4, 2, 6)
    segment_ids = segments_of(7, 1, 9, 3)
    output = jitted(query, key, value, segment_ids, backend=choose(name), window=window)
    expected = by_hand(query, key, value, segment_ids, window)
    np.testing.assert_allclose(output, expected, atol=2e-6)
    if window == 1:  # a token sees only itself, so its output is its value
        np.testing.assert_allclose(output, jnp.repeat(value, 2, axis=2), atol=1e-6)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("window", [5, 64, 100])
def test_blocks_with_a_window_have_the_gradients_of_dense(window, packed):
    *inputs, upstream = arrays(2, 600)  # the last block skips keys before 256
    segment_ids = jnp.asarray(np.tile(segments_of(40, 60, 1, 499), (2, 1))) if packed else None

    @jax.jit(static_argnames="name")
    def output_and_gradients(inputs, name):
        def function(query, key, value):
            backend = choose(name, window=True)
            return attend(query, key, value, segment_ids, backend=backend, window=window)

        output, pullback = jax.vjp(function, *inputs)
        return output, *pullback(upstream)

    expected = output_and_gradients(inputs, "dense")
    for ours, dense in zip(output_and_gradients(inputs, "block_causal"), expected, strict=True):
        np.testing.assert_allclose(ours, dense, atol=2e-5)


def test_loops_over_heads_change_no_bit(monkeypatch):
    *inputs, upstream = arrays(2, 300, 6, 3, 6)
    segment_ids = jnp.asarray(np.tile(segments_of(70, 230), (2, 1)))
    found = []
    for loops in (1, 2, 3, 4):  # 4 do not divide the 6 heads of both rows, so 3 are taken
        monkeypatch.setattr(attention_xla, "_NUM_LOOPS", loops)

        def function(query, key, value):
            return attend(query, key, value, segment_ids, backend=choose("block_causal"))

        output, pullback = jax.vjp(jax.jit(function), *inputs)
        found.append([output, *pullback(upstream)])
    for several in found[1:]:
        for one, other in zip(found[0], several, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("length", [16, 300])
def test_no_rows(length):
    query, key, value, _ = arrays(0, length)
    output = jitted(query, key, value, None, backend=choose("block_causal"))
    assert output.shape == query.shape


def test_blocks_before_the_window_are_not_read():
    *inputs, upstream = arrays(1, 768)  # three blocks of 256
    broken = [np.array(array) for array in inputs]
    for array in broken:
        array[:, :256] = np.nan

    def function(query, key, value):
        return attend(query, key, value, None, backend=choose("block_causal"), window=257)

    output, pullback = jax.vjp(function, *map(jnp.asarray, broken))
    # With a window of 257, the queries from 512 on read the keys from 256 on.
    for found in (output, *pullback(upstream)):
        finite = np.isfinite(found).all((0, 2, 3))
        assert not finite[:256].any()
        assert finite[512:].all()


@pytest.mark.parametrize("name", [name for name in HERE if name != "dense"])
@pytest.mark.parametrize("num_kv_heads", [2, 4])
@pytest.mark.parametrize("packed", [True, False])
def test_every_backend_has_the_gradients_of_dense(name, num_kv_heads, packed):
    *inputs, upstream = arrays(2, 150, 4, num_kv_heads)  # 150 is no multiple of a block
    segment_ids = jnp.asarray(np.tile(segments_of(40, 60, 1, 49), (2, 1))) if packed else None

    @jax.jit(static_argnames="name")
    def output_and_gradients(inputs, name):
        def function(query, key, value):
            return attend(query, key, value, segment_ids, backend=choose(name))

        output, pullback = jax.vjp(function, *inputs)
        return output, *pullback(upstream)

    expected = output_and_gradients(inputs, "dense")
    for ours, dense in zip(output_and_gradients(inputs, name), expected, strict=True):
        np.testing.assert_allclose(ours, dense, atol=2e-5)


@pytest.mark.parametrize("name", HERE)
def test_changing_one_segment_leaves_the_bits_of_the_others(name):
    *inputs, upstream = arrays(1, 150)
    segment_ids = segments_of(40, 60, 50)
    changed = slice(40, 100)

    @jax.jit
    def output_and_gradients(inputs, upstream):
        def function(query, key, value):
            return attend(query, key, value, segment_ids, backend=choose(name))

        output, pullback = jax.vjp(function, *inputs)
        return output, *pullback(upstream)

    before = output_and_gradients(inputs, upstream)
    other = [np.array(array) for array in (*inputs, upstream)]
    for array, factor in zip(other, (-50, -50, -50, 3), strict=True):
        array[:, changed] *= factor
    after = output_and_gradients(other[:3], other[3])
    for one, two in zip(before, after, strict=True):
        one, two = np.asarray(one), np.asarray(two)
        for kept in (slice(0, 40), slice(100, 150)):
            np.testing.assert_array_equal(one[:, kept], two[:, kept])
        assert np.abs(one[:, changed] - two[:, changed]).max() > 0.1


@pytest.mark.parametrize("name", HERE)
def test_a_later_token_leaves_the_bits_of_earlier_ones(name):
    query, key, value, _ = arrays(1, 100)
    before = np.asarray(jitted(query, key, value, None, backend=choose(name)))
    changed = [np.array(array) for array in (query, key, value)]
    for array in changed:
        array[:, 70:] += 1.0
    after = np.asarray(jitted(*changed, None, backend=choose(name)))
    np.testing.assert_array_equal(before[:, :70], after[:, :70])
    assert np.abs(before[:, 70:] - after[:, 70:]).max() > 0.1


@pytest.mark.parametrize("name", HERE)
def test_bfloat16_stays_bfloat16_and_close(name):
    query, key, value, _ = arrays(1, 100)
    segment_ids = segments_of(30, 70)
    exact = jitted(query, key, value, segment_ids, backend=choose("dense"))
    rounded = [array.astype(jnp.bfloat16) for array in (query, key, value)]
    output = jitted(*rounded, segment_ids, backend=choose(name))
    assert output.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(output, np.float32), exact, atol=0.05)


def test_auto_takes_the_fast_backend_of_the_platform():
    assert choose("auto", "cpu").name == "block_causal"
    assert choose("auto", "gpu").name == "pallas"
    assert choose("auto", "tpu").name == "splash"


def test_a_backend_that_cannot_keep_segments_apart_is_refused(monkeypatch):
    monkeypatch.setattr(attention, "_BACKENDS", dict(attention._BACKENDS))
    leaky = dataclasses.replace(choose("dense"), name="leaky", segments=False)
    attention.register(leaky)
    assert choose("auto").name == "block_causal"
    assert choose("leaky", segments=False) is leaky
    message = r"'leaky' does not support packed segments; choose another"
    with pytest.raises(UserError, match=message):
        choose("leaky")
    query, key, value, _ = arrays(1, 4)
    with pytest.raises(UserError, match=message):
        attend(query, key, value, segments_of(2, 2), backend=leaky)
    assert attend(query, key, value, None, backend=leaky).shape == query.shape
    with pytest.raises(ValueError, match="already an attention backend 'leaky'"):
        attention.register(leaky)


def test_a_backend_without_windows_is_refused_for_models_that_have_one(monkeypatch):
    monkeypatch.setattr(attention, "_BACKENDS", dict(attention._BACKENDS))
    attention.register(dataclasses.replace(choose("dense"), name="endless", window=False))
    assert choose("auto", window=True).name == "block_causal"
    message = "'endless' does not support the model's sliding window; choose another backend"
    with pytest.raises(UserError, match=message):
        choose("endless", window=True)
    query, key, value, _ = arrays(1, 4)
    endless = choose("endless")
    with pytest.raises(UserError, match=message):
        attend(query, key, value, None, backend=endless, window=3)
    assert attend(query, key, value, None, backend=endless).shape == query.shape


def test_unknown_and_misplaced_backends_are_refused_with_a_list():
    with pytest.raises(UserError, match=r"no attention backend 'flash'; choose one of auto, block"):
        choose("flash", "cpu")
    with pytest.raises(UserError, match=r"'splash' runs on tpu, not on gpu; .*auto, pallas"):
        choose("splash", "gpu")
    with pytest.raises(UserError, match=r"'splash' runs on tpu, not on cpu; .*auto, block_causal"):
        choose("splash", "cpu")
