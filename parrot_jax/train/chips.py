"""Accelerators by name: peak FLOP/s and memory; training FLOPs per token."""

from dataclasses import dataclass

from parrot_jax.model.families import num_parameters
from parrot_jax.model.lora_config import LoraConfig, num_adapter_parameters
from parrot_jax.model.model_config import ModelConfig

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One kind of device, as jax counts devices."""

    name: str
    kinds: tuple[str, ...]
    """Prefixes of `jax.Device.device_kind`."""
    peak_flops: float
    """Peak FLOP/s in bfloat16 without sparsity, from the vendor."""
    hbm_bytes: int
    """Memory of one device. GPU: from the driver. TPU: the largest program that libtpu 0.0.42
    compiles; its runtime keeps the rest."""
    link_bytes_per_s: float | None = None
    """Bytes per second that a device sends over all its links together, half of what the vendor
    quotes for both directions. GPU: NVLink within a host. TPU: the links of a slice. None = not
    looked up."""
    links: int = 1
    """Links that these bytes are spread over; a ring of permutes uses one in each direction. 1 = a
    switch, where any two devices may use everything."""


CHIPS = (
    Chip(name="a100-80g", kinds=("NVIDIA A100",), peak_flops=312e12, hbm_bytes=85_017_493_504,
         link_bytes_per_s=300e9),
    Chip(name="h100-80g", kinds=("NVIDIA H100",), peak_flops=989e12, hbm_bytes=84_929_347_584,
         link_bytes_per_s=450e9),
    Chip(name="h200", kinds=("NVIDIA H200",), peak_flops=989e12, hbm_bytes=150_754_820_096,
         link_bytes_per_s=450e9),
    Chip(name="v4", kinds=("TPU v4",), peak_flops=275e12, hbm_bytes=31_484 * _MIB),
    Chip(name="v5e", kinds=("TPU v5 lite", "TPU v5e"), peak_flops=197e12, hbm_bytes=16_125 * _MIB,
         link_bytes_per_s=200e9, links=4),
    Chip(name="v5p", kinds=("TPU v5", "TPU v5p"), peak_flops=459e12, hbm_bytes=98_040 * _MIB,
         link_bytes_per_s=600e9, links=6),
    Chip(name="v6e", kinds=("TPU v6 lite", "TPU v6e"), peak_flops=918e12, hbm_bytes=31_995 * _MIB),
)  # fmt: skip
"""Links: NVIDIA quotes 600 GB/s for both directions of an A100 and 900 for H100 and H200; Google
1,200 for v5p and 400 for v5e (cloud.google.com/tpu/docs/v5p and /v5e)."""


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a device kind; None if unknown, e.g. a CPU.

    >>> chip_of("TPU v5 lite").name
    'v5e'
    """
    kinds = {kind: chip for chip in CHIPS for kind in chip.kinds if device_kind.startswith(kind)}
    return kinds[max(kinds, key=len)] if kinds else None


def flops_per_token(config: ModelConfig, row_tokens: int, lora: LoraConfig | None = None) -> int:
    """Training FLOPs per token, without recomputation.

    6 per weight, except for the embedding, which is a lookup: 2 forward, 4 backward. 4 per frozen
    weight, because it has no gradient, and 6 per weight of an adapter. In each layer,
    a token attends to T / 2 earlier tokens on average, in 2 products of 2 * N * H * T / 2 FLOPs;
    with the backward pass three times that: 6 * N * H * T. With a sliding window of W < T tokens it
    attends to W * (1 - W / 2T) on average.

    Args:
      config: The model.
      row_tokens: T. Packed rows attend to fewer tokens; this is not subtracted.
      lora: The adapters; None = all weights are trained.

    Source: PaLM, arXiv:2204.02311, appendix B, with the causal half of attention.
    """
    embedding = config.vocab_size * config.hidden_size
    weights = num_parameters(config) - (0 if config.tie_word_embeddings else embedding)
    attention_width = config.num_attention_heads * config.head_width
    of_weights = 6 * weights
    if lora is not None:
        of_weights = 4 * weights + 6 * num_adapter_parameters(config, lora)
    window = config.window_within(row_tokens) or row_tokens
    attention = 6 * config.num_hidden_layers * attention_width * window
    return of_weights + attention * (2 * row_tokens - window) // row_tokens
