"""The sizes of a decoder, under Hugging Face's names. Loads no jax."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from parrot_jax.core.errors import UserError

# Upper limits, far above any model: a size from a damaged file must not be allocated.
_LARGEST = {
    "vocab_size": 10**7,
    "hidden_size": 10**6,
    "intermediate_size": 10**7,
    "num_hidden_layers": 10**4,
    "num_attention_heads": 10**5,
    "num_key_value_heads": 10**5,
    "head_dim": 10**5,
    "max_position_embeddings": 10**9,
    "sliding_window": 10**9,
    "original_max_position_embeddings": 10**9,
}
_OPTIONAL = (
    "num_key_value_heads", "head_dim", "rope_scaling", "sliding_window",
    "attention_factor", "mscale", "mscale_all_dim",
)  # fmt: skip
_SWITCHES = ("tie_word_embeddings", "truncate")


def check_values(values: Mapping[str, Any], block: str) -> None:
    """Rejects values of the wrong type, not above 0, not finite, or larger than in any model.

    Args:
      values: Some fields of `ModelConfig` or `RopeScaling`, by name.
      block: Their block of the config, for errors.

    Raises:
      UserError: For the first invalid value.
    """
    for name, value in values.items():
        if (value is None and name in _OPTIONAL) or name in ("rope_type", "rope_scaling", "family"):
            continue
        if name in _LARGEST:
            right = type(value) is int and 0 < value <= _LARGEST[name]
            allowed = f"a whole number from 1 to {_LARGEST[name]:,}"
        elif name in _SWITCHES:
            right, allowed = isinstance(value, bool), "true or false"
        else:
            right = (
                isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1e30
            )
            allowed = "a finite number above 0"
        if not right:
            raise UserError(f"{block}.{name} is {shown(value)}; it must be {allowed}.")


def shown(value: Any) -> str:
    """Formats a value of a file for an error message."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**50 else "a huge number"
    return text if len(text) <= 80 else f"{text[:80]}.."


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How the rotary wavelengths are stretched for texts longer than in pre-training.

    Raises:
      UserError: A number is out of its range.
    """

    rope_type: Literal["llama3", "linear", "yarn"]
    """`linear` stretches all wavelengths by `factor` (arXiv:2306.15595); `llama3` only the long
    ones, as LLaMA 3.1 and later do (arXiv:2407.21783); `yarn` too, and it sharpens attention, as
    Qwen 2.5 does for long texts (arXiv:2309.00071)."""
    factor: float
    """The factor, at least 1."""
    low_freq_factor: float = 1.0
    """llama3: wavelengths above original_max_position_embeddings / this are stretched fully."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below original_max_position_embeddings / this are left alone; those
    between are stretched in part. Above `low_freq_factor`."""
    original_max_position_embeddings: int = 8192
    """llama3, yarn: positions in pre-training."""
    beta_fast: float = 32.0
    """yarn: wavelengths that fit into these positions this often, or more, are left alone."""
    beta_slow: float = 1.0
    """yarn: wavelengths that fit into them this often, or less, are stretched fully; those between
    in part. At most `beta_fast`."""
    attention_factor: float | None = None
    """yarn: the factor of rotated queries and keys; None = m(1), where m(x) = 0.1 x ln(factor) + 1,
    or m(mscale) / m(mscale_all_dim) if these are set."""
    mscale: float | None = None
    """yarn: see `attention_factor`."""
    mscale_all_dim: float | None = None
    """yarn: see `attention_factor`."""
    truncate: bool = True
    """yarn: whether the first and the last stretched dim are rounded to whole numbers."""

    def __post_init__(self) -> None:
        check_values(vars(self), "rope_scaling")
        if self.factor < 1:
            raise UserError(f"rope_scaling.factor is {self.factor}; it must be at least 1.")
        if not self.low_freq_factor < self.high_freq_factor:
            raise UserError(
                f"rope_scaling has low_freq_factor={self.low_freq_factor} and high_freq_factor="
                f"{self.high_freq_factor}; the former must be below the latter."
            )
        if self.beta_slow > self.beta_fast:
            raise UserError(
                f"rope_scaling has beta_slow={self.beta_slow} and beta_fast={self.beta_fast}; the "
                "former must be at most the latter."
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The sizes of a model; the field names are those of HF's `config.json`.

    Raises:
      UserError: A size is not positive, or the numbers of heads are not divisible.
    """

    family: str = "llama"
    """A key of `families.FAMILIES`; HF calls it `model_type`."""
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
    """Key and value heads, K; must divide N. None = the number of query heads."""
    head_dim: int | None = None
    """Width of one head, H; even. None = hidden_size / num_attention_heads."""
    rope_theta: float = 10000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """How these are stretched for longer texts; None = not stretched."""
    rms_norm_eps: float = 1e-5
    """Added to the mean square inside every norm."""
    tie_word_embeddings: bool = False
    """Whether the embedding is also the output head."""
    max_position_embeddings: int = 4096
    """Positions the model was trained for; generation stops there."""
    sliding_window: int | None = None
    """Tokens that a token attends to in every layer, itself included; None = all earlier ones. Only
    for the families mistral, qwen2 and qwen3."""
    initializer_range: float = 0.02
    """Standard deviation of the random initial weights."""

    def __post_init__(self) -> None:
        check_values(vars(self), "model")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"model.hidden_size={self.hidden_size} is not divisible by "
                f"num_attention_heads={self.num_attention_heads}; change one of them or set "
                "model.head_dim."
            )
        if self.head_width % 2:
            raise UserError(
                f"the width of a head is {self.head_width}; rotary embedding needs an even number: "
                "set model.head_dim."
            )
        if self.rope_scaling and self.rope_scaling.rope_type == "yarn" and self.rope_theta <= 1:
            raise UserError(
                f"model.rope_theta is {self.rope_theta}; with yarn scaling it must be above 1."
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

    def window_within(self, length: int) -> int | None:
        """Returns the sliding window if it hides a token in rows of `length` tokens, else None."""
        window = self.sliding_window
        return window if window is not None and window < length else None

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes by the letters used in shapes."""
        return {
            "V": self.vocab_size,
            "D": self.hidden_size,
            "F": self.intermediate_size,
            "N": self.num_attention_heads,
            "K": self.num_kv_heads,
            "H": self.head_width,
            "L": self.num_hidden_layers,
        }
