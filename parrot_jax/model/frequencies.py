"""The frequencies of rotary position embedding. Loads no jax."""

import math

import numpy as np

from parrot_jax.model.model_config import RopeScaling


def frequencies(head_width: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Returns the radians per position of each pair i: theta^(-2i/H), scaled; float32 [H / 2].

    `llama3` and `yarn` depend on how many wavelengths fit into the positions of pre-training. If
    few do, the frequency is divided by the factor; if many do, it is kept; in between, it is
    interpolated: by `llama3` linearly in that number, by `yarn` linearly in i.

    >>> frequencies(4, 100.0).tolist()
    [1.0, 0.10000000149011612]

    Source: the model card and code of LLaMA 3.1, and arXiv:2309.00071, as transformers computes
    them.
    """
    # float32 throughout, as transformers computes it.
    exponents = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    plain = np.float32(1) / np.float32(theta) ** exponents
    if scaling is None:
        return plain
    stretched = plain / np.float32(scaling.factor)
    if scaling.rope_type == "linear":
        return stretched
    if scaling.rope_type == "yarn":
        kept = np.float32(1) - _yarn_stretched(head_width, theta, scaling)
        return (np.float32(1) - kept) * stretched + kept * plain
    num_waves = np.float32(scaling.original_max_position_embeddings) * plain / np.float32(2 * np.pi)
    low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
    kept = np.clip((num_waves - low) / (high - low), np.float32(0), np.float32(1))
    return (np.float32(1) - kept) * stretched + kept * plain


def attention_factor(scaling: RopeScaling | None) -> float:
    """Returns the factor of cosines and sines, hence of queries and keys; 1 except for yarn.

    >>> attention_factor(RopeScaling(rope_type="yarn", factor=math.exp(5)))
    1.5
    """
    if scaling is None or scaling.rope_type != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return float(scaling.attention_factor)
    log = 0.1 * math.log(scaling.factor)
    if scaling.mscale is None or scaling.mscale_all_dim is None:
        return log + 1
    return (scaling.mscale * log + 1) / (scaling.mscale_all_dim * log + 1)


def _yarn_stretched(head_width: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """Returns how much of the stretching each pair gets, in [0, 1]; float32 [H / 2]."""

    def pair_with(waves: float) -> float:
        """The index i at which this many wavelengths fit into the positions of pre-training."""
        wavelength = scaling.original_max_position_embeddings / waves
        return head_width * math.log(wavelength / (2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_width - 1)
    if first == last:
        last += 0.001
    pairs = np.arange(head_width // 2, dtype=np.float32)
    ramp = (pairs - np.float32(first)) / np.float32(last - first)
    return np.clip(ramp, np.float32(0), np.float32(1))
