"""Tokenizers: the interface (`base`), and one file per supported kind."""

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import AnyPath, as_path, file_in
from parrot_jax.data.tokenizers.base import Tokenizer
from parrot_jax.data.tokenizers.sentencepiece import read_model, read_saved

_MAX_PADDING = 1024
"""Embedding rows are rounded up to at most a multiple of this."""


def load_tokenizer(path: AnyPath | str, *, num_rows: int | None = None) -> Tokenizer:
    """Reads a tokenizer.

    Args:
      path: A SentencePiece `tokenizer.model`, a folder with one and its added tokens, or a folder
        written by `Tokenizer.save`. Other `tokenizer.json` files are not supported, because not all
        of them give SentencePiece's ids.
      num_rows: Rows of the model's embedding: added tokens beyond them are left out, and listed in
        `Tokenizer.left_out`. None = unknown.

    Raises:
      UserError: There is no tokenizer, it is damaged, or it is not SentencePiece BPE as in LLaMA.
    """
    path = as_path(path)
    if path.is_dir():
        model = file_in(path, "tokenizer.model")
        if model.exists():
            return read_model(model, folder=path, num_rows=num_rows)
        return read_saved(path)
    if not path.is_file():
        raise UserError(f"there is no tokenizer at {path}; give a tokenizer.model or its folder.")
    return read_model(path)


def check_rows(tokenizer: Tokenizer, num_rows: int, name: str) -> str | None:
    """Compares the ids of a tokenizer with the rows of an embedding.

    Args:
      tokenizer: The tokenizer.
      num_rows: Rows, `model.vocab_size`.
      name: The tokenizer's name for errors.

    Returns:
      A note if some rows are padding (some models round their number up); else None.

    Raises:
      UserError: There are more ids than rows, or over a thousand fewer, so they belong to different
        models.
    """
    padding = num_rows - tokenizer.vocab_size
    if padding < 0:
        raise UserError(
            f"the tokenizer {name} has {tokenizer.vocab_size:,} ids, more than the {num_rows:,} "
            "rows of the model (model.vocab_size); use the model's own tokenizer, or raise "
            "model.vocab_size."
        )
    if padding >= _MAX_PADDING:
        raise UserError(
            f"the tokenizer {name} has {tokenizer.vocab_size:,} ids, but the model "
            f"{num_rows:,} rows (model.vocab_size); they belong to different models: give the "
            "tokenizer of the weights."
        )
    return (
        f"{padding:,} of the {num_rows:,} rows of the embedding are padding, beyond the "
        f"{tokenizer.vocab_size:,} ids of the tokenizer"
        if padding
        else None
    )
