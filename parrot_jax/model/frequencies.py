"""The frequencies of rotary position embedding. Loads no jax."""

import numpy as np

from parrot_jax.model.model_config import RopeScaling


def frequencies(head_width: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Returns the radians per position of each pair i: theta^(-2i/H), scaled; float32 [H / 2].

    `llama3` depends on how many wavelengths fit into the positions of pre-training. If fewer than
    `low_freq_factor` do, the frequency is divided by the factor; if more than `high_freq_factor`
    do, it is kept; in between, it is interpolated linearly in that number.

    >>> frequencies(4, 100.0).tolist()
    [1.0, 0.10000000149011612]

    Source: the model card and code of LLaMA 3.1, as transformers computes it.
    """
    # float32 throughout, as transformers computes it.
    exponents = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    plain = np.float32(1) / np.float32(theta) ** exponents
    if scaling is None:
        return plain
    stretched = plain / np.float32(scaling.factor)
    if scaling.rope_type == "linear":
        return stretched
    num_waves = np.float32(scaling.original_max_position_embeddings) * plain / np.float32(2 * np.pi)
    low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
    kept = np.clip((num_waves - low) / (high - low), np.float32(0), np.float32(1))
    return (np.float32(1) - kept) * stretched + kept * plain
