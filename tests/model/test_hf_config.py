"""Reading and writing `config.json`: what each key means, and what is refused with its key."""

from typing import Any

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.model.families import FAMILIES
from parrot_jax.model.families.refused import REFUSED
from parrot_jax.model.hf_config import from_hf, to_hf
from parrot_jax.model.model_config import RopeScaling

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


# ---- rope scaling -------------------------------------------------------------------------------

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LONG = {"max_position_embeddings": 131072, "rope_theta": 1000000.0}


@pytest.mark.parametrize(
    "values",
    [
        {"rope_scaling": YARN, "rope_theta": 1000000.0},
        {
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
            }
        },
        {"rope_parameters": YARN | {"rope_theta": 1000000.0}, "rope_theta": None},
        {"rope_scaling": YARN, "rope_parameters": YARN | {"rope_theta": 1000000.0}},
        {"rope_scaling": YARN | {"beta_fast": None, "mscale": None, "truncate": True}},
        # transformers takes what is missing from elsewhere.
        {"rope_scaling": YARN | {"factor": None}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 32768},
        {
            "rope_scaling": YARN | {"original_max_position_embeddings": 1},
            "original_max_position_embeddings": 32768,
        },
    ],
)
def test_yarn_is_read_from_old_and_new_layouts(values: dict[str, Any]) -> None:
    config = from_hf(SIZES | LONG | values)
    assert config.rope_scaling == RopeScaling(**YARN)
    assert config.rope_theta == 1000000.0
    exported = to_hf(config)
    assert exported["rope_theta"] == 1000000.0
    assert exported["rope_scaling"] == YARN | {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": True,
    }


def test_every_option_of_yarn_survives_an_export() -> None:
    options = {
        "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5, "mscale": 0.7,
        "mscale_all_dim": 0.9, "truncate": False,
    }  # fmt: skip
    config = from_hf(SIZES | LONG | {"rope_scaling": YARN | options})
    assert config.rope_scaling == RopeScaling(**YARN, **options)
    assert to_hf(config)["rope_scaling"] == YARN | options


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (
            {"type": "dynamic", "factor": 2.0},
            "'dynamic' .its frequencies change with the length of",
        ),
        ({"type": "longrope"}, "'longrope' .its frequencies depend on the length"),
        ({"type": "ntk"}, "rope_type is 'ntk'; it must be one of default, linear, llama3, yarn"),
        ({"type": "yarn"}, "the yarn rope scaling lacks factor"),
        (YARN | {"factor": 0.5}, "factor is 0.5; it must be at least 1"),
        (YARN | {"beta_fast": 0.5}, "beta_slow=1.0 and beta_fast=0.5; the former must be at most"),
        (YARN | {"beta_slow": -1}, "beta_slow is -1; it must be a finite number above 0"),
        (YARN | {"attention_factor": float("nan")}, "attention_factor is nan"),
        (YARN | {"truncate": "no"}, "truncate is 'no'; it must be true or false"),
        (
            YARN | {"original_max_position_embeddings": "a"},
            "original_max_position_embeddings is 'a'",
        ),
        (YARN | {"rope_theta": 1.0}, "rope_theta is 1.0; with yarn scaling it must be above 1"),
    ],
)
def test_other_scalings_and_wrong_numbers_are_refused(rope: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_hf(SIZES | {"rope_scaling": rope})


# ---- families that are not supported ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mixtral", "its MLPs are mixtures of experts"),
        ("qwen3_moe", "its MLPs are mixtures of experts"),
        ("deepseek_v3", "its attention has latent keys and its MLPs are mixtures of experts"),
        ("gemma2", "its norms, activation and embedding are scaled otherwise, and its logits are"),
        ("phi3", "it joins the weights of queries, keys and values, and those of gate and up"),
        ("cohere", "attention and MLP are parallel"),
        ("falcon", "attention and MLP are parallel"),
    ],
)
def test_a_known_family_is_refused_with_the_reason(name: str, reason: str) -> None:
    # Their files name sizes otherwise, or not at all: those are no problem to list.
    with pytest.raises(UserError) as error:
        from_hf({"model_type": name, "n_embd": 64}, "folder/config.json")
    assert str(error.value).startswith(
        f"folder/config.json describes a model that is not supported: model_type is '{name}' "
        f"({reason}"
    )
    assert str(error.value).endswith("), not one of llama, mistral, olmo2, qwen2, qwen3.")


def test_no_supported_family_is_refused() -> None:
    assert not REFUSED.keys() & FAMILIES.keys()
    for reason in REFUSED.values():
        assert reason[0].islower()
        assert reason[-1] not in ".;"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "qwen2", "attention_bias": False}, "attention_bias is False, not True"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias is True, not False"),
        ({"model_type": "olmo2", "clip_qkv": 8.0}, "clip_qkv is 8.0, not None"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}, not None"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, not 1"),
        ({"architectures": ["LlamaForSequenceClassification"]}, r"not \['LlamaForCausalLM'\]"),
    ],
)
def test_a_feature_is_refused_with_its_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_hf(SIZES | values)
