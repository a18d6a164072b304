"""Generation equals the full forward pass, and rows are independent."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.core.errors import UserError
from parrot_jax.model import generate as generation
from parrot_jax.model.attention import choose
from parrot_jax.model.decode import decode, prefill
from parrot_jax.model.decoder import (
    abstract_params,
    hidden_states,
    init_params,
    logical_axes,
    unembedding,
)
from parrot_jax.model.generate import PART_STEPS, Generated, generate, padded_shape
from parrot_jax.model.sampling import Sampling, in_top_p, sample
from parrot_jax.sharding import MeshConfig, make_mesh, param_shardings

PROMPTS = [[1, 5, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17], [7]]


@pytest.fixture(scope="module")
def run(tiny, tiny_params):
    def run(prompts, **options):
        options = {"max_new_tokens": 12, "compute_dtype": jnp.float32} | options
        return generate(tiny, tiny_params, prompts, **options)

    return run


@pytest.fixture(scope="module")
def full_logprobs(tiny, tiny_params):
    """Log-probabilities of every next token by the forward pass without a cache."""

    @jax.jit
    def padded(tokens):
        positions = jnp.arange(tokens.shape[1])[None]
        states = hidden_states(
            tiny, tiny_params, tokens, None, positions, compute_dtype=jnp.float32, remat="none"
        )
        return jax.nn.log_softmax(states @ unembedding(tiny_params))[0]

    def logprobs(ids):
        tokens = np.zeros((1, tiny.max_position_embeddings), np.int32)
        tokens[0, : len(ids)] = ids
        return np.asarray(padded(tokens))[: len(ids)]

    return logprobs


def test_with_a_window_decoding_forgets_what_the_forward_pass_does_not_see(tiny, tiny_params):
    windowed = dataclasses.replace(tiny, family="mistral", sliding_window=6)
    options = {"max_new_tokens": 12, "compute_dtype": jnp.float32}

    @jax.jit
    def logits(ids):
        states = hidden_states(
            windowed, tiny_params, ids, None, jnp.arange(ids.shape[1])[None],
            compute_dtype=jnp.float32, remat="none", attention="dense",
        )  # fmt: skip
        return states @ unembedding(tiny_params)

    rows = generate(windowed, tiny_params, PROMPTS, **options)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        expected = logits(jnp.asarray([[*prompt, *row.ids]]))[0, len(prompt) - 1 : -1]
        assert expected.argmax(-1).tolist() == list(row.ids)
    # The window matters: without it, and with a longer one, the replies differ.
    assert rows[1].ids != generate(tiny, tiny_params, PROMPTS, **options)[1].ids
    longer = dataclasses.replace(windowed, sliding_window=7)
    assert rows[1].ids != generate(longer, tiny_params, PROMPTS, **options)[1].ids


def test_greedy_decoding_takes_the_argmax_of_the_full_forward_pass(run, full_logprobs):
    for prompt, row in zip(PROMPTS, run(PROMPTS), strict=True):
        expected = full_logprobs([*prompt, *row.ids])[len(prompt) - 1 : -1]
        assert row.finish_reason == "length"
        assert len(row.ids) == 12
        assert row.ids == tuple(expected.argmax(axis=-1).tolist())
        chosen = expected[np.arange(12), list(row.ids)]
        np.testing.assert_allclose(row.logprobs, chosen, atol=1e-5)


def test_logits_with_a_cache_are_those_of_the_full_forward_pass(tiny, tiny_params, full_logprobs):
    sequences = [[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]]
    lengths = jnp.asarray([5, 2])
    tokens = jnp.asarray(sequences)[:, :5]  # the second row is padded with its later tokens
    static = ("cache_length", "compute_dtype", "backend")
    logits, cache = jax.jit(prefill, static_argnums=0, static_argnames=static)(
        tiny,
        tiny_params,
        tokens,
        lengths,
        cache_length=10,
        compute_dtype=jnp.float32,
        backend=choose("auto"),
    )
    expected = [full_logprobs(sequence) for sequence in sequences]
    read = jax.jit(decode, static_argnums=0)
    for step in range(3):
        for row, length in enumerate((5, 2)):
            ours = jax.nn.log_softmax(logits[row])
            np.testing.assert_allclose(ours, expected[row][length + step - 1], atol=1e-5)
        next_tokens = jnp.asarray([sequences[0][5 + step], sequences[1][2 + step]])
        logits, cache = read(tiny, tiny_params, next_tokens, lengths + step, cache)


def test_a_row_draws_the_same_whoever_its_batch_mates_are(run):
    options = {"temperature": 1.0, "top_p": 0.9}
    together = run(PROMPTS, seeds=[3, 4, 5], **options)
    for row, (prompt, seed) in enumerate(zip(PROMPTS, (3, 4, 5), strict=True)):
        alone = run([prompt], seeds=[seed], **options)[0]
        assert alone.ids == together[row].ids
    swapped = run(PROMPTS[::-1], seeds=[5, 4, 3], **options)
    assert [row.ids for row in swapped[::-1]] == [row.ids for row in together]
    assert run([PROMPTS[0]], seeds=[6], **options)[0].ids != together[0].ids


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(fsdp=8)])
def test_a_mesh_says_what_one_device_says(tiny, run, sizes, capfd):
    alone = run(PROMPTS)
    mesh = make_mesh(sizes)
    shardings = param_shardings(abstract_params(tiny), logical_axes(tiny), mesh)
    params = init_params(tiny, 0, shardings)
    for num_rows in (None, 3):  # rounded up to the number of batch shards
        split = generate(
            tiny, params, PROMPTS,
            max_new_tokens=12, compute_dtype=jnp.float32, mesh=mesh, num_rows=num_rows,
        )  # fmt: skip
        assert [row.ids for row in split] == [row.ids for row in alone]
        for ours, theirs in zip(split, alone, strict=True):
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
    assert (
        "rematerialization" not in capfd.readouterr().err
    )  # XLA warns of needless gathers with this word


def test_with_a_fixed_number_of_rows_a_row_keeps_its_bits_in_any_company(tiny, run):
    prompts = [[1 + (row * at) % 47 for at in range(17 + row)] for row in range(16)]
    assert {padded_shape(tiny, len(prompt), 12) for prompt in prompts} == {(64, 16)}
    options = {"num_rows": 16, "top_p": 0.9}
    temperatures = [0.0, 1.0] * 8
    together = run(prompts, seeds=range(16), temperature=temperatures, **options)
    turned = run(prompts[::-1], seeds=range(15, -1, -1), temperature=temperatures[::-1], **options)
    assert turned[::-1] == together  # ids and log-probabilities, exactly
    for row, prompt in enumerate(prompts):
        alone = run([prompt], seeds=[row], temperature=temperatures[row], **options)
        assert alone == [together[row]]


def test_lengths_are_padded_to_powers_of_two(tiny):
    assert padded_shape(tiny, 1, 1) == (64, 16)
    long = dataclasses.replace(tiny, max_position_embeddings=200)
    assert padded_shape(long, 64, 17) == (64, 32)
    assert padded_shape(long, 65, 32) == (128, 32)
    assert padded_shape(long, 129, 33) == (200, 64)  # prompts up to all 200 positions, no further


def test_rows_may_differ_in_every_setting(run):
    greedy = run([PROMPTS[0]])[0]
    rows = run(
        [PROMPTS[0]] * 3, max_new_tokens=[12, 5, 12], temperature=[0.0, 0.0, 2.0], top_p=[1, 0.5, 1]
    )
    assert rows[0].ids == greedy.ids
    assert rows[1].ids == greedy.ids[:5]
    assert rows[2].ids != greedy.ids


def test_a_row_stops_at_a_stop_token_and_leaves_it_out(run):
    free = run(PROMPTS)
    stop = free[0].ids[4]
    stopped = run(PROMPTS, stop_ids=[stop, 47])
    for before, after in zip(free, stopped, strict=True):
        cut = next((at for at, token in enumerate(before.ids) if token in (stop, 47)), None)
        assert after.ids == before.ids[:cut]
        assert after.finish_reason == ("length" if cut is None else "stop")
        np.testing.assert_allclose(after.logprobs, before.logprobs[:cut], atol=1e-6)
    assert stopped[0].finish_reason == "stop"


def test_a_first_token_that_stops_leaves_an_empty_row(run):
    first = run([PROMPTS[0]])[0].ids[0]
    assert run([PROMPTS[0]], stop_ids=[first]) == [Generated((), "stop", ())]


def test_a_row_ends_at_the_last_position_of_the_model(tiny, run, full_logprobs):
    prompt = [1 + at % 40 for at in range(60)]
    row = run([prompt])[0]
    assert (len(row.ids), row.finish_reason) == (4, "length")
    expected = full_logprobs([*prompt, *row.ids])[59:-1]
    assert row.ids == tuple(expected.argmax(axis=-1).tolist())


def test_parts_join_to_the_rows_that_come_in_one_go(run):
    options = {"max_new_tokens": [21, 3, 12], "temperature": [0.0, 1.0, 1.0], "stop_ids": [47]}
    whole = run(PROMPTS, **options)
    heard = []

    def listen(parts):
        heard.append(parts)
        return ()

    assert run(PROMPTS, listen=listen, **options) == whole  # ids and log-probabilities, exactly
    assert len(heard) == max(len(row.ids) // PART_STEPS + 1 for row in whole)
    for row, parts in zip(whole, zip(*heard, strict=True), strict=True):
        assert tuple(index for part in parts for index in part.ids) == row.ids
        assert next(part.finish_reason for part in parts if part.finish_reason) == row.finish_reason
        assert all(part.ids == () for part in parts[len(row.ids) // PART_STEPS + 1 :])


def test_a_row_that_nobody_wants_ends_and_the_others_do_not_notice(run):
    whole = run(PROMPTS, max_new_tokens=30)
    calls = []

    def listen(parts):
        calls.append(parts)
        return [0] if len(calls) == 1 else ()

    first, *others = run(PROMPTS, max_new_tokens=30, listen=listen)
    assert first == Generated(whole[0].ids[:8], "length", whole[0].logprobs[:8])
    assert others == whole[1:]
    calls.clear()
    run(PROMPTS[:1], max_new_tokens=30, listen=listen)
    assert len(calls) == 1  # the device is free


def test_few_programs_are_compiled(run):
    run(PROMPTS)
    before = generation._advance._cache_size()
    run(PROMPTS[:2] + PROMPTS[:1] + PROMPTS[:1], max_new_tokens=9, temperature=0.7)
    run(PROMPTS, max_new_tokens=16, stop_ids=[2], seeds=[9, 9, 9])
    assert generation._advance._cache_size() == before


def test_no_prompts_give_no_rows(run):
    assert run([]) == []


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1], []], {}, r"prompt 1 is empty; it needs at least the BOS"),
        ([[1] * 64], {}, r"prompt 0 has 64 tokens and the model has 64 positions"),
        ([[48]], {}, r"prompt 0 has the token id 48, but the model has ids 0 to 47"),
        ([[1]], {"max_new_tokens": 0}, r"max_new_tokens is 0; it must be 1 or more"),
        ([[1]], {"temperature": -0.5}, r"temperature is -0.5; it must be 0 or more"),
        ([[1]], {"top_p": 0.0}, r"top_p is 0.0; it must be above 0 and at most 1"),
        ([[1]], {"seeds": [-1]}, r"seeds is -1; it must be from 0 to"),
        ([[1]], {"seeds": [1, 2]}, r"seeds has 2 values for 1 prompts; give one for each"),
        ([[1], [2]], {"num_rows": 1}, r"num_rows is 1, but there are 2 prompts; give at least"),
    ],
)
def test_wrong_requests_are_refused(run, prompts, options, message):
    with pytest.raises(UserError, match=message):
        run(prompts, **options)


# ---- sampling -----------------------------------------------------------------------------------

_in_top_p = jax.jit(in_top_p)


@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6),
    top_p=st.floats(0.0078125, 1, width=32),
)
def test_top_p_is_the_smallest_set_with_enough_mass(logits: list[float], top_p: float):
    allowed = np.asarray(_in_top_p(jnp.asarray([logits]), jnp.asarray([top_p])))[0]
    probabilities = np.exp(np.asarray(logits, np.float64))
    probabilities /= probabilities.sum()
    mass = probabilities[allowed].sum()
    assert allowed[np.argmax(logits)]
    assert mass >= top_p - 1e-6
    # Without its least likely token the set would not reach top_p.
    assert allowed.sum() == 1 or mass - probabilities[allowed].min() < top_p + 1e-6
    assert not (~allowed).any() or probabilities[~allowed].max() <= probabilities[allowed].min()


def test_top_p_of_one_allows_everything_and_a_tiny_one_the_likeliest():
    logits = jnp.asarray([[0.0, 3.0, -30.0], [0.0, 3.0, -30.0], [5.0, 5.0, 5.0]])
    allowed = in_top_p(logits, jnp.asarray([1.0, 1e-6, 1e-6]))
    expected = [[True, True, True], [False, True, False], [True, False, False]]
    np.testing.assert_array_equal(allowed, expected)


def test_draws_follow_the_tempered_probabilities_inside_the_set():
    num_draws = 20_000
    # Probabilities 1/2, 3/10, 1/5; at temperature 1/2 they are squared: 25, 9, 4 of 38.
    logits = jnp.log(jnp.asarray([0.5, 0.3, 0.2]))
    keys = jax.random.split(jax.random.key(0), num_draws)
    for temperature, top_p, expected in (
        (1.0, 1.0, [0.5, 0.3, 0.2]),
        (0.5, 1.0, [25 / 38, 9 / 38, 4 / 38]),
        (1.0, 0.75, [5 / 8, 3 / 8, 0]),
        (0.0, 1.0, [1, 0, 0]),
    ):
        sampling = Sampling(
            jnp.full(num_draws, temperature),
            jnp.full(num_draws, top_p),
            jnp.zeros(num_draws, jnp.uint32),
        )
        drawn = sample(jnp.tile(logits[None], (num_draws, 1)), sampling, keys)
        share = np.bincount(drawn, minlength=3) / num_draws
        np.testing.assert_allclose(share, expected, atol=0.015)
