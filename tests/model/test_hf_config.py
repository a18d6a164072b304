"""Reading and writing `config.json`: what each key means, and what is refused with its key."""

from typing import Any

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.model.hf_config import from_hf, to_hf

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
FULL, SLIDING = "full_attention", "sliding_attention"
SWITCHED_ON = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9}


# ---- the sliding window -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "window"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, 4096),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "mistral"}, 4096),  # the default of transformers
        ({"model_type": "qwen2", "sliding_window": 131072, "max_window_layers": 28}, None),
        ({"model_type": "qwen3", "sliding_window": 9, "use_sliding_window": False}, None),
        (SWITCHED_ON, None),  # from layer 28 on, of 3
        (SWITCHED_ON | {"max_window_layers": 3}, None),
        (SWITCHED_ON | {"max_window_layers": 0}, 9),
        (SWITCHED_ON | {"layer_types": [SLIDING] * 3}, 9),
        (SWITCHED_ON | {"max_window_layers": 0, "layer_types": [FULL] * 3}, None),
        ({"model_type": "llama", "sliding_window": None}, None),
    ],
)
def test_the_window_is_that_of_transformers_and_survives_an_export(
    values: dict[str, Any], window: int | None
) -> None:
    config = from_hf(SIZES | values)
    assert config.sliding_window == window
    assert from_hf(to_hf(config)).sliding_window == window


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llama", "sliding_window": 9}, "sliding_window is 9, but models of llama"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0; it must be a whole"),
        ({"model_type": "mistral", "sliding_window": "9"}, "sliding_window is '9'"),
        (SWITCHED_ON | {"max_window_layers": 2}, "max_window_layers is 2 of 3 layers; only models"),
        (SWITCHED_ON | {"max_window_layers": "a"}, "max_window_layers is 'a'; it must be a whole"),
        (SWITCHED_ON | {"use_sliding_window": "yes"}, "use_sliding_window is 'yes'"),
        (
            SWITCHED_ON | {"layer_types": [FULL, FULL, SLIDING]},
            r"layer_types is \[.*\]; only models whose layers are all 'full_attention' or all",
        ),
        (
            {"model_type": "qwen2", "layer_types": [SLIDING] * 3},
            "layer_types has only 'sliding_attention', but the sliding window is None",
        ),
        (
            {"model_type": "mistral", "sliding_window": 9, "layer_types": [FULL] * 3},
            "layer_types has only 'full_attention', but the sliding window is 9",
        ),
    ],
)
def test_windows_of_some_layers_and_contradictions_are_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        from_hf(SIZES | values)
