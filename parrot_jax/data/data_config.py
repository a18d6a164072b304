"""Settings of the data: sources, split, tokenizer, masks, rows. Loads no jax."""

from dataclasses import dataclass
from typing import Literal

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import require_local
from parrot_jax.dialogue.keys import WEIGHTS
from parrot_jax.dialogue.sources import SourceConfig

Task = Literal["ask", "chat"]
"""What a model is for: `ask` writes the next question, `chat` the next answer."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which turns are live, that is, bear loss. A live turn's headers never are."""

    loss_roles: tuple[Literal["user", "assistant"], ...]
    """Speakers whose turns are live: `[user]` trains an asker, `[assistant]` an answerer."""

    skip_first_turn: bool = False
    """Keep the dialogue's first question as context only, as Parrot-Ask does."""

    max_turns: int | None = None
    """Keep this many questions with their answers and drop the rest of the dialogue; null = all."""

    turn_weights: tuple[float, ...] = ()
    """Loss weight of the first, second, ... question and of its answer; the last value holds for
    all later ones. Empty = 1 everywhere."""

    train_end: bool = False
    """Add one live empty user turn after the last answer, so that an asker learns to end."""

    def __post_init__(self) -> None:
        if not self.loss_roles:
            raise UserError("mask.loss_roles is empty; name user, assistant or both.")
        if self.max_turns is not None and self.max_turns < 1:
            raise UserError(f"mask.max_turns is {self.max_turns}; it must be at least 1, or null.")
        # One of these times that of a row has to fit float32.
        low, high = WEIGHTS
        if not all(w == 0 or low <= w <= high for w in self.turn_weights):
            raise UserError(
                f"mask.turn_weights is {list(self.turn_weights)}; weights are 0 or from {low:g} to "
                f"{high:g}."
            )
        if self.train_end and "user" not in self.loss_roles:
            raise UserError("mask.train_end trains the user's ending; add user to mask.loss_roles.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Dialogues in, packed rows out."""

    sources: tuple[SourceConfig, ...]
    """Files of dialogues to train on."""

    eval_sources: tuple[SourceConfig, ...] = ()
    """Files of held-out dialogues; instead of, or beside, `eval_fraction`."""

    eval_fraction: float = 0.0
    """Share of `sources` held out, in [0, 1), chosen by the dialogue's first question, so that
    copies and branches of one dialogue fall on one side."""

    tokenizer: str
    """A SentencePiece `tokenizer.model`, or a folder with one; also in a bucket."""

    template: str = "parrot"
    """The chat format, see `data/templates`."""

    mask: MaskConfig
    """Which turns are live."""

    row_tokens: int = 4096
    """Tokens in a row (T). Longer dialogues become several windows."""

    packing: bool = True
    """Put several dialogues in a row; off, each window has a row of its own. This changes what a
    batch of rows means: compare sessions a step."""

    trim_dead: bool = True
    """Leave out the text that no live turn needs. Off, the rows are the same under every mask,
    which comparisons of masks need and nothing else: an asker's rows grow by half."""

    seed: int = 0
    """Decides the held-out split and which dialogues a fractional source weight keeps."""

    cache_dir: str = ".parrot_cache"
    """Local folder of prepared rows, one subfolder a content hash; safe to delete. The rows are
    mapped into memory, so it cannot be in a bucket."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("data.sources is empty; name at least one {kind, path}.")
        if not 0 <= self.eval_fraction < 1:
            raise UserError(f"data.eval_fraction is {self.eval_fraction}; it must be in [0, 1).")
        if self.row_tokens < 16:
            raise UserError(f"data.row_tokens is {self.row_tokens}; it must be at least 16.")
        require_local(self.cache_dir, "data.cache_dir")
