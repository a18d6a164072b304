"""The tiled loss equals the dense loss, with masks and with compaction: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.core.errors import UserError
from parrot_jax.losses.token_loss import (
    _forward_tiles,
    _gradient_tiles,
    role_weighted_nll,
    token_logprobs,
    token_nll,
)

B, T, D, V = 3, 17, 8, 31


def problem(dtype=jnp.float32, live=0.3):
    """Hidden states, head, targets and weights, a share `live` of which is not zero."""
    # With numpy, because jax would compile each function separately.
    random = np.random.default_rng(0)
    weights = np.where(random.random((B, T)) < live, random.uniform(0.5, 2.0, (B, T)), 0.0)
    return (
        jnp.asarray(random.standard_normal((B, T, D)), dtype),
        jnp.asarray(random.standard_normal((D, V)), jnp.float32),
        jnp.asarray(random.integers(0, V, (B, T)), jnp.int32),
        jnp.asarray(weights, jnp.float32),
    )


def dense_loss(hidden, head, targets, weights):
    logprobs = jax.nn.log_softmax(hidden.astype(jnp.float32) @ head)
    chosen = jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]
    return -(weights * chosen).sum()


DENSE = jax.jit(jax.value_and_grad(dense_loss, (0, 1)))


def our_loss(hidden, head, targets, weights, **options):
    return role_weighted_nll(hidden, head, targets, weights, **options).loss_sum


def assert_close(ours, expected, tolerance=1e-5):
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance),
        ours,
        expected,
    )


def test_two_tokens_by_hand():
    # Logits (ln 3, 0): probabilities 3/4 and 1/4.
    hidden = jnp.asarray([[[1.0], [1.0]]])
    head = jnp.asarray([[np.log(3.0), 0.0]], jnp.float32)
    targets, weights = jnp.asarray([[0, 1]]), jnp.asarray([[1.0, 0.5]])
    loss = role_weighted_nll(hidden, head, targets, weights)
    assert float(loss.loss_sum) == pytest.approx(np.log(4 / 3) + 0.5 * np.log(4))
    assert float(loss.weight_sum) == 1.5
    nll = token_nll(hidden, head, targets)
    np.testing.assert_allclose(nll, [[np.log(4 / 3), np.log(4)]], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"tile": 1000},
        {"tile": 7},  # 51 tokens: the last tile is padded
        {"tile": 7, "live_capacity": 20},
        {"tile": 7, "live_capacity": 3},  # overflows
        {"tile": 7, "live_capacity": 1000},  # every batch fits
        {"tile": 8, "live_capacity": 30, "shards": 3},
        {"tile": 8, "live_capacity": 9, "shards": 3},  # overflows
    ],
    ids=str,
)
def test_every_plan_equals_the_dense_loss_with_gradients(options):
    batch = problem()
    expected = DENSE(*batch)

    def loss(*batch):
        return our_loss(*batch, **options)

    ours = jax.jit(jax.value_and_grad(loss, (0, 1)))(*batch)
    assert_close(ours, expected)


@pytest.mark.parametrize("capacity", [None, 20])
def test_masked_tokens_might_as_well_not_be_there(capacity):
    hidden, head, targets, weights = problem()
    live = np.asarray(weights) != 0
    hidden, targets, weights = map(np.asarray, (hidden, targets, weights))
    removed = (hidden[live][None], head, targets[live][None], weights[live][None])
    value, (d_hidden, d_head) = jax.jit(jax.value_and_grad(our_loss, (0, 1)))(*removed)

    def loss(*batch):
        return our_loss(*batch, tile=7, live_capacity=capacity)

    # Values at positions that are not live do not change any bit.
    other = (
        np.where(live[..., None], hidden, np.float32(100.0)),
        head,
        np.where(live, targets, (targets + 1) % V),
        weights,
    )
    run = jax.jit(jax.value_and_grad(loss, (0, 1)))
    ours = run(hidden, head, targets, weights)
    jax.tree.map(np.testing.assert_array_equal, run(*other), ours)
    assert_close(ours[0], value)
    assert_close(ours[1][1], d_head)
    our_d_hidden = np.asarray(ours[1][0])
    assert_close(our_d_hidden[live], d_hidden[0])
    np.testing.assert_array_equal(our_d_hidden[~live], 0.0)


@pytest.mark.parametrize("capacity", [None, 4, 1000])
def test_no_live_token_gives_zero_and_zero_gradients(capacity):
    batch = problem(live=0.0)

    def loss(*batch):
        return our_loss(*batch, tile=7, live_capacity=capacity)

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(*batch)
    assert float(value) == 0.0
    assert float(jax.jit(role_weighted_nll)(*batch).weight_sum) == 0.0
    jax.tree.map(lambda gradient: np.testing.assert_array_equal(gradient, 0.0), gradients)


def test_bfloat16_states_give_close_values_and_a_float32_gradient_of_the_head():
    exact, rounded = problem(live=1.0), problem(jnp.bfloat16, live=1.0)

    def loss(*batch):
        return our_loss(*batch, tile=7)

    value, (d_hidden, d_head) = DENSE(*exact)
    ours, (our_d_hidden, our_d_head) = jax.jit(jax.value_and_grad(loss, (0, 1)))(*rounded)
    assert ours.dtype == our_d_head.dtype == jnp.float32
    assert our_d_hidden.dtype == jnp.bfloat16
    assert_close(ours, value, 0.01)
    for one, two in ((our_d_hidden, d_hidden), (our_d_head, d_head)):
        error = np.linalg.norm(np.asarray(one, np.float32) - two) / np.linalg.norm(two)
        assert error < 0.02


def test_huge_logits_stay_finite():
    hidden, head, targets, weights = problem()
    batch = (hidden * 1e4, head, targets, weights)
    value, gradients = jax.jit(jax.value_and_grad(our_loss, (0, 1)))(*batch)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_log_probabilities_take_any_upstream_gradient():
    # A preference loss is not a sum: it needs a gradient for the logprob of each token.
    hidden, head, targets, _ = problem()
    flat, targets = hidden.reshape(-1, D), targets.reshape(-1)

    def ours(flat, head):
        return jnp.sin(token_logprobs(flat, head, targets, tile=7)).sum()

    def dense(flat, head):
        logprobs = jax.nn.log_softmax(flat @ head)
        return jnp.sin(jnp.take_along_axis(logprobs, targets[:, None], axis=-1)).sum()

    both = (jax.jit(jax.grad(function, (0, 1)))(flat, head) for function in (ours, dense))
    assert_close(*both)


def test_the_logits_never_stand_whole():
    num_tokens, vocab_size, width, tile = 4096, 4096, 16, 256
    shapes = (
        jax.ShapeDtypeStruct((1, num_tokens, width), jnp.float32),
        jax.ShapeDtypeStruct((width, vocab_size), jnp.float32),
        jax.ShapeDtypeStruct((1, num_tokens), jnp.int32),
        jax.ShapeDtypeStruct((1, num_tokens), jnp.float32),
    )

    def temporary_bytes(loss):
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits_bytes = num_tokens * vocab_size * 4
    assert temporary_bytes(dense_loss) > logits_bytes
    chunked = temporary_bytes(lambda *batch: our_loss(*batch, tile=tile))
    assert chunked < 4 * tile * vocab_size * 4 + 2**21


LOGPROBS = jax.jit(token_logprobs, static_argnames=("tile", "live_capacity"))


@given(
    live=st.lists(st.booleans(), min_size=12, max_size=12),
    capacity=st.sampled_from([1, 4, 11, 12]),
)
def test_no_live_token_is_ever_dropped(live: list[bool], capacity: int):
    targets = jnp.arange(12) % 2
    head = jnp.asarray([[np.log(3.0), 0.0]], jnp.float32)
    live_array = jnp.asarray(live)
    logprobs = LOGPROBS(
        jnp.ones((12, 1)), head, targets, tile=5, live=live_array, live_capacity=capacity
    )
    expected = np.where(live, np.where(targets == 0, np.log(3 / 4), np.log(1 / 4)), 0.0)
    np.testing.assert_allclose(logprobs, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, r"loss_tile=0 must be 1 or more; 1024 is"),
        ({"live_capacity": 0}, r"live_capacity=0 must be 1 or more; leave it out"),
        ({"shards": 2}, r"51 tokens are not divisible by 2 shards; make the batch size a multiple"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        our_loss(*problem(), **options)


@pytest.mark.parametrize("capacity", [None, 24, 1000])
def test_the_gradient_computed_with_the_loss_is_that_of_the_log_probabilities(capacity):
    hidden, head, targets, weights = problem()

    def by_logprobs(hidden, head):
        logprobs = token_logprobs(
            hidden.reshape(-1, D), head, targets.reshape(-1), tile=7,
            live=(weights != 0).reshape(-1), live_capacity=capacity,
        )  # fmt: skip
        return -(3.0 * weights.reshape(-1) * logprobs).sum()

    def at_once(hidden, head):
        loss = our_loss(hidden, head, targets, weights, tile=7, live_capacity=capacity)
        return 3.0 * loss

    assert_close(
        jax.jit(jax.value_and_grad(at_once, (0, 1)))(hidden, head),
        jax.jit(jax.value_and_grad(by_logprobs, (0, 1)))(hidden, head),
    )


def test_a_loss_with_its_gradient_takes_three_products():
    hidden, head, targets, weights = problem(live=1.0)
    sizes = B * T * 64 * V
    hidden = jnp.tile(hidden, (1, 1, 8))
    head = jnp.tile(head, (8, 1))

    def flops(function):
        cost = jax.jit(function).lower(hidden, head).compile().cost_analysis()
        return cost["flops"] / sizes

    one = flops(lambda h, w: our_loss(h, w, targets, weights, tile=B * T))
    both = flops(jax.grad(lambda h, w: our_loss(h, w, targets, weights, tile=B * T), (0, 1)))
    # 2 operations per weight and token in each product; softmax and its like are the rest.
    assert 2 < one < 2.4
    assert 6 < both < 6.8


@pytest.mark.parametrize(("num_live", "visited"), [(0, 0), (1, 4), (4, 4), (5, 8), (16, 16)])
def test_tiles_past_the_last_live_token_are_not_computed(num_live, visited):
    # All states are zero, so every computed token has the log-probability of 1 in V.
    hidden, head = jnp.zeros((1, 16, D)), jnp.ones((D, V))
    targets = jnp.zeros((1, 16), jnp.int32)
    expected = np.where(np.arange(16) < visited, -np.log(V), 0.0)
    logprobs, _ = _forward_tiles(4, hidden, head, targets, jnp.int32(num_live))
    np.testing.assert_allclose(logprobs[0], expected, rtol=1e-6)
    logprobs, _, _ = _gradient_tiles(
        4, (), hidden, head, targets, jnp.ones((1, 16)), None, jnp.int32(num_live)
    )
    np.testing.assert_allclose(logprobs[0], expected, rtol=1e-6)


def test_weights_that_are_trained_are_refused():
    hidden, head, targets, weights = problem()
    with pytest.raises(UserError, match="loss_weights depend on what is trained"):
        jax.grad(lambda w: our_loss(hidden, head, targets, w))(weights)
    # Their values may be used where no gradient is taken of them.
    jax.grad(lambda h: our_loss(h, head, targets, weights * jax.lax.stop_gradient(h.sum())))(hidden)
