"""Converts a model's sizes from and to Hugging Face's `config.json`. Loads no jax."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from parrot_jax.core.errors import UserError
from parrot_jax.model.families import FAMILIES, family_of
from parrot_jax.model.families.family import Family
from parrot_jax.model.families.refused import REFUSED
from parrot_jax.model.model_config import ModelConfig, RopeScaling, check_values, shown

_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
)  # fmt: skip
# Values of keys that a `config.json` leaves out; not always our own defaults.
_HF_DEFAULTS = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
}
# Keys that can change the mathematics of any family, and the supported values.
_ALLOWED = {
    "hidden_act": ("silu", "swish", None),
    "quantization_config": (None,),
    "partial_rotary_factor": (1, None),
    "rope_interleaved": (False, None),
}
_FULL, _SLIDING = "full_attention", "sliding_attention"
"""Layers without and with a sliding window, in a list `layer_types`."""

_DEFAULT_WINDOW = 4096
"""The sliding window of a `config.json` without the key, in the families that have one."""
_DEFAULT_FIRST_WINDOW = 28
"""The first layer with a window, of a `config.json` without `max_window_layers`."""

# The keys of each kind of rope scaling; yarn has defaults for those after the first two.
_ROPE_KEYS = {
    "linear": ("factor",),
    "llama3": (
        "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor",
    ),
    "yarn": (
        "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor",
        "mscale", "mscale_all_dim", "truncate",
    ),
}  # fmt: skip
_ROPE_REFUSED = {
    "dynamic": "its frequencies change with the length of the text",
    "longrope": "its frequencies depend on the length of the text",
    "proportional": "it rotates only a part of each head",
    "mrope": "its positions are those of images",
}


def from_hf(config: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Converts the values of a `config.json` of transformers 4 or 5.

    Args:
      config: The values.
      where: The file they are from, for errors.

    Raises:
      UserError: The family is unsupported, a size is missing, or a key asks for an unsupported
        feature (biases, another activation, quantised weights); the message lists all problems.
    """
    name = config.get("model_type") or "llama"
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        why = REFUSED.get(str(name))
        reason = f" ({why})" if why else ""
        problems = [f"model_type is {shown(name)}{reason}, not one of {', '.join(FAMILIES)}"]
    else:
        problems = _unsupported(family, config)
        problems += [f"{name} is missing" for name in _SIZES if config.get(name) is None]
    if family is None or problems:
        raise UserError(f"{where} describes a model that is not supported: {'; '.join(problems)}.")
    known = {name: config[name] for name in _SIZES}
    for name, default in _HF_DEFAULTS.items():
        known[name] = default if config.get(name) is None else config[name]
    try:
        check_values(known, "model")
        known["sliding_window"] = _window_from_hf(family, config)
        known |= _rope_from_hf(config)
        return ModelConfig(family=family.name, **known)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns the values of a `config.json` for transformers 4; 5 and vLLM read it too."""
    family = family_of(config)
    sizes = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    del sizes["family"], sizes["sliding_window"]
    return sizes | {
        "architectures": [family.architecture],
        "model_type": family.name,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        **family.hf_values,
        **_window_to_hf(config),
        "attention_dropout": 0.0,
        "rope_scaling": _rope_scaling_to_hf(config.rope_scaling),
        "use_cache": True,
    }


def _unsupported(family: Family, config: Mapping[str, Any]) -> list[str]:
    """Lists the values of a `config.json` that differ from the mathematics of the family."""
    problems = [
        f"{key} is {shown(config[key])}, not {values[0]!r}"
        for key, values in {**_ALLOWED, **family.allowed}.items()
        if config.get(key) not in values
    ]
    architectures = config.get("architectures")
    is_list = isinstance(architectures, list) and family.architecture in architectures
    if architectures and not is_list:
        problems.append(f"architectures is {shown(architectures)}, not [{family.architecture!r}]")
    return problems


def _window_from_hf(family: Family, config: Mapping[str, Any]) -> int | None:
    """Reads the sliding window of all layers.

    Raises:
      UserError: The family has no window, the layers differ in it, or it is no number.
    """
    layers, switched = config["num_hidden_layers"], family.sliding_window == "switched"
    default = None if family.sliding_window == "no" else _DEFAULT_WINDOW
    window = config.get("sliding_window", default)
    if switched:
        on = config.get("use_sliding_window", False)
        if on not in (True, False, None):
            raise UserError(f"use_sliding_window is {shown(on)}; it must be true or false.")
        window = window if on else None
    check_values({"sliding_window": window}, "model")
    kinds = config.get("layer_types")
    if kinds is not None:
        if not (isinstance(kinds, list) and {*map(str, kinds)} in ({_FULL}, {_SLIDING})):
            raise UserError(
                f"layer_types is {shown(kinds)}; only models whose layers are all {_FULL!r} or all "
                f"{_SLIDING!r} are supported."
            )
        contradicts = (kinds[0] == _SLIDING) != (window is not None)
        if contradicts and not (switched and window):  # a switched window counts in no full layer
            raise UserError(
                f"layer_types has only {kinds[0]!r}, but the sliding window is {shown(window)}."
            )
        return window if kinds[0] == _SLIDING else None
    if window is not None and switched:
        first = config.get("max_window_layers", _DEFAULT_FIRST_WINDOW)
        if type(first) is not int or first < 0:
            raise UserError(f"max_window_layers is {shown(first)}; it must be a whole number.")
        if 0 < first < layers:
            raise UserError(
                f"max_window_layers is {first} of {layers} layers; only models in which all layers "
                "have a sliding window (0), or none, are supported."
            )
        window = window if first == 0 else None
    if window is not None and family.sliding_window == "no":
        raise UserError(
            f"sliding_window is {shown(window)}, but models of {family.name} have no window."
        )
    return window


def _window_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The keys of the sliding window, where the family has such keys."""
    window, kind = config.sliding_window, family_of(config).sliding_window
    if kind == "no":
        return {}
    if kind == "yes" or window is None:
        off = {"use_sliding_window": False} if kind == "switched" else {}
        return off | {"sliding_window": window}
    return {
        "use_sliding_window": True,
        "sliding_window": window,
        "max_window_layers": 0,
        "layer_types": [_SLIDING] * config.num_hidden_layers,
    }


def _rope_from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads `rope_theta` and `rope_scaling`, which transformers 5 joins in `rope_parameters`."""
    newer, older = config.get("rope_parameters"), config.get("rope_scaling")
    for rope in (newer, older):
        if rope is not None and not isinstance(rope, dict):
            raise UserError(f"the rope scaling is {shown(rope)}; it must be an object, or null.")
    if newer and older and newer | older != newer:
        raise UserError("rope_parameters and rope_scaling differ; remove the one that is wrong.")
    rope = newer or older or {}
    theta = rope.get("rope_theta", config.get("rope_theta"))
    theta = 10000.0 if theta is None else theta
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor") not in (None, 1):
        raise UserError("partial_rotary_factor is not 1; only full rotary embedding is supported.")
    if kind == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    names = _ROPE_KEYS.get(str(kind))
    if names is None:
        why = _ROPE_REFUSED.get(str(kind))
        reason = f" ({why})" if why else ""
        known = ", ".join(["default", *_ROPE_KEYS])
        raise UserError(f"rope_type is {shown(kind)}{reason}; it must be one of {known}.")
    if kind == "yarn":
        rope = _yarn_from_hf(config, rope)
    missing = sorted(set(names[:2] if kind == "yarn" else names) - rope.keys())
    if missing:
        raise UserError(f"the {kind} rope scaling lacks {', '.join(missing)}.")
    given: dict[str, Any] = {name: rope[name] for name in names if name in rope}
    check_values(given, "rope_scaling")
    return {"rope_theta": theta, "rope_scaling": RopeScaling(**{"rope_type": kind, **given})}


def _yarn_from_hf(config: Mapping[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    """Drops nulls, which stand for defaults, and fills in what transformers takes from elsewhere.

    A given factor is used, as in transformers 5 and vLLM. Version 4 replaces it by
    `max_position_embeddings` / original positions, which differs in files that name the former
    before stretching.
    """
    given = {key: value for key, value in rope.items() if value is not None}
    key, longest = "original_max_position_embeddings", config.get("max_position_embeddings")
    longest = _HF_DEFAULTS["max_position_embeddings"] if longest is None else longest
    given[key] = config.get(key) or given.get(key, longest)
    check_values({"max_position_embeddings": longest, key: given[key]}, "model")
    if "factor" in rope:
        given.setdefault("factor", longest / given[key])
    return given


def _rope_scaling_to_hf(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    values = {name: getattr(scaling, name) for name in _ROPE_KEYS[scaling.rope_type]}
    if values.get("attention_factor") is not None:
        values["attention_factor"] = float(values["attention_factor"])  # transformers wants a float
    given = {name: value for name, value in values.items() if value is not None}
    return {"rope_type": scaling.rope_type, **given}
