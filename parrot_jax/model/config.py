"""The sizes of a LLaMA, under the names Hugging Face gives them. Loads no jax."""

from dataclasses import dataclass
from types import MappingProxyType

from parrot_jax.core.errors import UserError


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
    rms_norm_eps: float = 1e-5
    """Added to the mean square inside every norm."""
    tie_word_embeddings: bool = False
    """Whether the embedding is also the output head."""
    max_position_embeddings: int = 4096
    """Positions the model was trained for; generation stops there."""
    initializer_range: float = 0.02
    """Standard deviation of the random initial weights."""

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "rope_theta",
            "rms_norm_eps",
            "max_position_embeddings",
            "initializer_range",
        )
        for name in sizes:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"model.{name} is {value}; it must be above 0.")
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

        >>> PRESETS["llama2-13b"].num_parameters()
        13015864320
        """
        d, h = self.hidden_size, self.head_width
        attention = 2 * d * h * (self.num_attention_heads + self.num_kv_heads)
        mlp = 3 * d * self.intermediate_size
        layer = attention + mlp + 2 * d
        embeddings = self.vocab_size * d * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + d


PRESETS = MappingProxyType(
    {
        # arXiv:2307.09288 and the config.json files of the published folders.
        "llama2-7b": LlamaConfig(),
        "llama2-13b": LlamaConfig(
            hidden_size=5120,
            intermediate_size=13824,
            num_hidden_layers=40,
            num_attention_heads=40,
        ),
        "llama2-70b": LlamaConfig(
            hidden_size=8192,
            intermediate_size=28672,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
        ),
        # arXiv:2302.13971, the base of the papers' first askers.
        "llama-13b": LlamaConfig(
            hidden_size=5120,
            intermediate_size=13824,
            num_hidden_layers=40,
            num_attention_heads=40,
            rms_norm_eps=1e-6,
            max_position_embeddings=2048,
        ),
        # arXiv:2401.02385.
        "tinyllama-1.1b": LlamaConfig(
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=22,
            num_attention_heads=32,
            num_key_value_heads=4,
            max_position_embeddings=2048,
        ),
    }
)
"""Published sizes by name."""
