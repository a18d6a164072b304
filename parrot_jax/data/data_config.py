"""Settings of the data: sources, split, tokenizer, masks, rows. Does not import jax."""

from dataclasses import dataclass
from typing import Literal

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import require_local
from parrot_jax.dialogue.keys import WEIGHTS
from parrot_jax.dialogue.sources import SourceConfig

Task = Literal["ask", "chat"]
"""The task of a model: `ask` writes the next question, `chat` the next answer."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which turns are live, that is, carry loss. Headers of turns are never live."""

    loss_roles: tuple[Literal["user", "assistant"], ...]
    """Roles whose turns are live: `[user]` trains an asker, `[assistant]` an answerer."""

    skip_first_turn: bool = False
    """Use the first question as context only, as Parrot-Ask does."""

    max_turns: int | None = None
    """Most questions with their answers to keep; the rest of the dialogue is dropped. Null =
    all."""

    turn_weights: tuple[float, ...] = ()
    """Loss weight of the first, second, ... question and its answer; the last value applies to all
    later ones. Empty = 1 everywhere."""

    train_end: bool = False
    """Add a live empty user turn after the last answer, so that an asker learns when to end."""

    def __post_init__(self) -> None:
        if not self.loss_roles:
            raise UserError("mask.loss_roles is empty; name user, assistant or both.")
        if self.max_turns is not None and self.max_turns < 1:
            raise UserError(f"mask.max_turns is {self.max_turns}; it must be at least 1, or null.")
        # The product with a row's weight must fit float32.
        low, high = WEIGHTS
        if not all(w == 0 or low <= w <= high for w in self.turn_weights):
            raise UserError(
                f"mask.turn_weights is {list(self.turn_weights)}; each must be 0 or from {low:g} "
                f"to {high:g}."
            )
        if self.train_end and "user" not in self.loss_roles:
            raise UserError("mask.train_end needs user in mask.loss_roles; add it.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Dialogues in, packed rows out."""

    sources: tuple[SourceConfig, ...]
    """Files of dialogues to train on."""

    eval_sources: tuple[SourceConfig, ...] = ()
    """Files of held-out dialogues; instead of or in addition to `eval_fraction`."""

    eval_fraction: float = 0.0
    """Share of `sources` to hold out, in [0, 1). The choice depends on a dialogue's first question,
    so copies and branches of a dialogue are on the same side."""

    tokenizer: str
    """A SentencePiece `tokenizer.model`, or a folder with one or with a `tokenizer.json`; also in a
    bucket."""

    template: str = "parrot"
    """The chat format: parrot (any tokenizer), llama3, chatml (Qwen, SmolLM, Yi), mistral (0.3 and
    later), mistral_v1 (0.1 and 0.2), llama2 or vicuna."""

    mask: MaskConfig
    """Which turns are live."""

    row_tokens: int = 4096
    """Tokens per row (T). Longer dialogues are cut into several windows."""

    packing: bool = True
    """Pack several dialogues into a row; if false, each window has its own row. This changes the
    number of sessions per step."""

    trim_dead: bool = True
    """Leave out text after the last live turn and other text that no live turn needs. If false, the
    rows are the same for every mask, which is useful only to compare masks: an asker's rows grow by
    half."""

    seed: int = 0
    """Seed of the held-out split, and of fractional source weights."""

    cache_dir: str = ".parrot_cache"
    """Local folder of prepared rows, with one subfolder per content hash; safe to delete. Rows are
    memory-mapped, so it cannot be in a bucket."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("data.sources is empty; name at least one {kind, path}.")
        if not 0 <= self.eval_fraction < 1:
            raise UserError(f"data.eval_fraction is {self.eval_fraction}; it must be in [0, 1).")
        if self.row_tokens < 16:
            raise UserError(f"data.row_tokens is {self.row_tokens}; it must be at least 16.")
        require_local(self.cache_dir, "data.cache_dir")
