"""Training FLOPs computed by hand, and chips by device name."""

import dataclasses

import pytest

from parrot_jax.model.families import num_parameters
from parrot_jax.model.lora_config import LoraConfig
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.presets import PRESETS
from parrot_jax.train.chips import CHIPS, chip_of, flops_per_token

TINY = ModelConfig(
    vocab_size=10,
    hidden_size=4,
    intermediate_size=6,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


def test_the_flops_of_a_tiny_model_can_be_counted_on_fingers() -> None:
    # Heads of width 4 / 2 = 2, two for queries and one each for keys and values.
    q, k, v, o = 4 * 4, 4 * 2, 4 * 2, 4 * 4
    gate, up, down = 4 * 6, 4 * 6, 6 * 4
    norms = 2 * 4
    layer = q + k + v + o + gate + up + down + norms  # 128
    head, last_norm = 4 * 10, 4
    weights = 2 * layer + head + last_norm  # 300; the embedding is a lookup
    # With T = 8, a token attends to 4 others on average: 2 heads * width 2 * 2 FLOPs, for scores
    # and for values, in 2 layers; forward once, backward twice.
    attention = 3 * 2 * (2 * 2 * 2 * 4) * 2
    assert weights == 300
    assert flops_per_token(TINY, 8) == 6 * weights + attention == 2184


def test_a_sliding_window_lowers_the_flops_of_attention() -> None:
    # With T = 8 and a window of 2 a token attends to 2 * (1 - 2 / 16) = 1.75 tokens, not 4.
    windowed = dataclasses.replace(TINY, family="mistral", sliding_window=2)
    attention = 3 * 2 * (2 * 2 * 2) * 2  # for one token attended to
    assert flops_per_token(TINY, 8) - flops_per_token(windowed, 8) == (4 - 1.75) * attention
    assert flops_per_token(windowed, 2) == flops_per_token(TINY, 2)


def test_a_frozen_weight_takes_4_flops_and_an_adapters_weight_6() -> None:
    # Rank 1: q, k, v, o and gate, up, down have one weight for each input and each output.
    attention = (4 + 4) + (4 + 2) + (4 + 2) + (4 + 4)
    adapters = 2 * (attention + 3 * (4 + 6))
    saved = flops_per_token(TINY, 8) - flops_per_token(TINY, 8, LoraConfig(rank=1))
    assert saved == 2 * 300 - 6 * adapters


def test_a_tied_embedding_is_the_head_and_counts_once() -> None:
    tied = dataclasses.replace(TINY, tie_word_embeddings=True)
    assert num_parameters(tied) == num_parameters(TINY) - 4 * 10
    assert flops_per_token(tied, 8) == flops_per_token(TINY, 8)


@pytest.mark.parametrize(("row_tokens", "gflops"), [(4096, 82.1), (2048, 79.6)])
def test_the_flops_of_llama2_13b(row_tokens: int, gflops: float) -> None:
    # 13,015,864,320 weights without the embedding of 32,000 x 5120; 40 layers, 40 heads of 128.
    by_hand = 6 * (13_015_864_320 - 163_840_000) + 6 * 40 * 5120 * row_tokens
    assert flops_per_token(PRESETS["llama2-13b"], row_tokens) == by_hand
    assert by_hand / 1e9 == pytest.approx(gflops, abs=0.05)


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80g"),
        ("NVIDIA A100 80GB PCIe", "a100-80g"),
        ("NVIDIA H100 80GB HBM3", "h100-80g"),
        ("NVIDIA H200", "h200"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v6e", "v6e"),
    ],
)
def test_a_device_says_which_chip_it_is(device_kind: str, name: str) -> None:
    chip = chip_of(device_kind)
    assert chip is not None
    assert chip.name == name


@pytest.mark.parametrize("device_kind", ["cpu", "", "NVIDIA GeForce RTX 4090", "TPU v3"])
def test_other_devices_are_no_chip_of_ours(device_kind: str) -> None:
    assert chip_of(device_kind) is None


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_a_device_is_known_by_each_of_its_chips_kinds(chip: object) -> None:
    assert {chip_of(kind) for kind in chip.kinds} == {chip}  # type: ignore[attr-defined]
