"""The sizes of a LLaMA, under the names Hugging Face gives them. Loads no jax."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from parrot_jax.core.errors import UserError

_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
)  # fmt: skip
# What a `config.json` means by leaving a key out; not always our own default.
_HF_DEFAULTS = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
}
# The most of each size, far above any model: a file may say anything, and what it says is made.
_LARGEST = {
    "vocab_size": 10**7,
    "hidden_size": 10**6,
    "intermediate_size": 10**7,
    "num_hidden_layers": 10**4,
    "num_attention_heads": 10**5,
    "num_key_value_heads": 10**5,
    "head_dim": 10**5,
    "max_position_embeddings": 10**9,
    "original_max_position_embeddings": 10**9,
}
_OPTIONAL = ("num_key_value_heads", "head_dim", "rope_scaling")


def _check_values(values: Mapping[str, Any], block: str) -> None:
    """Refuses what is of a wrong type, not above 0, not finite, or larger than any model.

    Args:
      values: Some fields of `LlamaConfig` or `RopeScaling`, by their names.
      block: Where they stand, for errors.

    Raises:
      UserError: The first value that is wrong.
    """
    for name, value in values.items():
        if (value is None and name in _OPTIONAL) or name in ("rope_type", "rope_scaling"):
            continue
        if name in _LARGEST:
            right = type(value) is int and 0 < value <= _LARGEST[name]
            allowed = f"a whole number from 1 to {_LARGEST[name]:,}"
        elif name == "tie_word_embeddings":
            right, allowed = isinstance(value, bool), "true or false"
        else:
            right = (
                isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1e30
            )
            allowed = "a finite number above 0"
        if not right:
            raise UserError(f"{block}.{name} is {_shown(value)}; it must be {allowed}.")


def _shown(value: Any) -> str:
    """A value of a file as it is shown in an error."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**50 else "a huge number"
    return text if len(text) <= 80 else f"{text[:80]}.."


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How the rotary wavelengths are stretched for texts longer than those of pre-training.

    Raises:
      UserError: A number is out of its range.
    """

    rope_type: Literal["llama3", "linear"]
    """`linear` stretches all wavelengths by `factor` (arXiv:2306.15595); `llama3` only the long
    ones, as LLaMA 3.1 and later do (arXiv:2407.21783)."""
    factor: float
    """By how much, at least 1."""
    low_freq_factor: float = 1.0
    """llama3: wavelengths above original_max_position_embeddings / this are stretched fully."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below original_max_position_embeddings / this are left alone; those
    between are stretched in part. Above `low_freq_factor`."""
    original_max_position_embeddings: int = 8192
    """llama3: positions of pre-training."""

    def __post_init__(self) -> None:
        _check_values(vars(self), "rope_scaling")
        if self.factor < 1:
            raise UserError(f"rope_scaling.factor is {self.factor}; it must be at least 1.")
        if not self.low_freq_factor < self.high_freq_factor:
            raise UserError(
                f"rope_scaling has low_freq_factor={self.low_freq_factor} and high_freq_factor="
                f"{self.high_freq_factor}; the former must be below the latter."
            )


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """What must be known to build a LLaMA; the field names are those of HF's `config.json`.

    Raises:
      UserError: A size is not positive, or the heads do not divide.
    """

    vocab_size: int = 32000
    """Rows of the embedding, V."""
    hidden_size: int = 4096
    """Width of the residual stream, D."""
    intermediate_size: int = 11008
    """Width of the MLP, F."""
    num_hidden_layers: int = 32
    """Decoder layers, L."""
    num_attention_heads: int = 32
    """Query heads, N."""
    num_key_value_heads: int | None = None
    """Key and value heads, K; must divide N. None = as many as query heads."""
    head_dim: int | None = None
    """Width of one head, H; even. None = hidden_size / num_attention_heads."""
    rope_theta: float = 10000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """How these are stretched; None = not at all."""
    rms_norm_eps: float = 1e-5
    """Added to the mean square inside every norm."""
    tie_word_embeddings: bool = False
    """Whether the embedding is also the output head."""
    max_position_embeddings: int = 4096
    """Positions the model was trained for; generation stops there."""
    initializer_range: float = 0.02
    """Standard deviation of the random initial weights."""

    def __post_init__(self) -> None:
        _check_values(vars(self), "model")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"model.hidden_size={self.hidden_size} does not divide into "
                f"num_attention_heads={self.num_attention_heads} heads; change one of them or set "
                "model.head_dim."
            )
        if self.head_width % 2:
            raise UserError(
                f"a head is {self.head_width} wide; rotary embedding turns pairs, so set "
                "model.head_dim to an even number."
            )
        if self.num_attention_heads % self.num_kv_heads:
            raise UserError(
                f"model.num_key_value_heads={self.num_kv_heads} does not divide "
                f"num_attention_heads={self.num_attention_heads}; set it to a divisor."
            )

    @property
    def head_width(self) -> int:
        """Width of one head, H, with the default filled in."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def num_kv_heads(self) -> int:
        """Key and value heads, K, with the default filled in."""
        return self.num_key_value_heads or self.num_attention_heads

    def num_parameters(self) -> int:
        """Counts every weight, the embedding and the head included.

        >>> LlamaConfig().num_parameters()  # LLaMA-2 7B
        6738415616
        """
        d, h = self.hidden_size, self.head_width
        attention = 2 * d * h * (self.num_attention_heads + self.num_kv_heads)
        mlp = 3 * d * self.intermediate_size
        layer = attention + mlp + 2 * d
        embeddings = self.vocab_size * d * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + d

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: str = "config.json") -> "LlamaConfig":
        """Takes the values of Hugging Face's `config.json`, in the form of transformers 4 or 5.

        Args:
          config: The values.
          where: The file that they are from, for errors.

        Raises:
          UserError: A size is missing, or it describes what this model is not (another
            architecture, biases, another activation, quantised weights); the text lists everything
            that is wrong.
        """
        problems = _unlike_llama(config)
        problems += [f"{name} is missing" for name in _SIZES if config.get(name) is None]
        if problems:
            raise UserError(
                f"{where} is not of a LLaMA that can be read here: {'; '.join(problems)}."
            )
        known = {name: config[name] for name in _SIZES}
        for name, default in _HF_DEFAULTS.items():
            known[name] = default if config.get(name) is None else config[name]
        try:
            known |= _rope_from_hf(config)
            _check_values(known, "model")
            return cls(**known)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def to_hf(self) -> dict[str, Any]:
        """The values of a `config.json` as transformers 4 has it; 5 and vLLM read it too."""
        sizes = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return sizes | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_width,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "rope_scaling": _rope_scaling_to_hf(self.rope_scaling),
            "use_cache": True,
        }


def _unlike_llama(config: Mapping[str, Any]) -> list[str]:
    """What in a `config.json` changes the mathematics to something that is not LLaMA."""
    allowed = {
        "model_type": ("llama", None),
        "hidden_act": ("silu", "swish", None),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "bias": (False, None),
        "quantization_config": (None,),
        # Of later LLaMA-like models, which transformers or vLLM would honour.
        "partial_rotary_factor": (1, None),
        "rope_interleaved": (False, None),
        "sliding_window": (None,),
    }
    problems = [
        f"{key} is {_shown(config[key])}, not {values[0]!r}"
        for key, values in allowed.items()
        if config.get(key) not in values
    ]
    architectures = config.get("architectures")
    is_list = isinstance(architectures, list) and "LlamaForCausalLM" in architectures
    if architectures and not is_list:
        problems.append(f"architectures is {_shown(architectures)}, not ['LlamaForCausalLM']")
    return problems


def _rope_from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`, which transformers 5 keeps together."""
    newer, older = config.get("rope_parameters"), config.get("rope_scaling")
    for rope in (newer, older):
        if rope is not None and not isinstance(rope, dict):
            raise UserError(f"the rope scaling is {_shown(rope)}; it must be an object, or null.")
    if newer and older and newer | older != newer:
        raise UserError("rope_parameters and rope_scaling differ; remove the one that is wrong.")
    rope = newer or older or {}
    theta = rope.get("rope_theta", config.get("rope_theta"))
    theta = 10000.0 if theta is None else theta
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor") not in (None, 1):
        raise UserError("partial_rotary_factor is not 1; this model turns whole heads.")
    if kind == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    if kind not in ("llama3", "linear"):
        raise UserError(
            f"rope_type is {_shown(kind)}; this model knows default, linear and llama3."
        )
    names = {field.name for field in dataclasses.fields(RopeScaling)} - {"rope_type"}
    if kind == "linear":
        names = {"factor"}
    missing = sorted(names - rope.keys())
    if missing:
        raise UserError(f"the {kind} rope scaling lacks {', '.join(missing)}.")
    given = {name: rope[name] for name in names}
    _check_values(given, "rope_scaling")
    return {"rope_theta": theta, "rope_scaling": RopeScaling(rope_type=kind, **given)}


def _rope_scaling_to_hf(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if scaling.rope_type == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return dataclasses.asdict(scaling)
