"""Tokenizers: one interface (`base`), and a file for each kind that is read."""

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import AnyPath, as_path, file_in
from parrot_jax.data.tokenizers.base import Tokenizer
from parrot_jax.data.tokenizers.sentencepiece import read_model, read_saved

_MAX_PADDING = 1024
"""Rows of an embedding are at most rounded up to a multiple of this."""


def load_tokenizer(path: AnyPath | str, *, num_rows: int | None = None) -> Tokenizer:
    """Reads a tokenizer.

    Args:
      path: A SentencePiece `tokenizer.model`, a folder that holds one with what it adds to it, or
        a folder that `Tokenizer.save` wrote. Other people's `tokenizer.json` files are not read:
        the layouts around do not all give SentencePiece's ids.
      num_rows: Rows of the model's embedding: added tokens beyond them are left out, and named in
        `Tokenizer.left_out`. None = not known.

    Raises:
      UserError: There is nothing to read, it is damaged, or its kind is not SentencePiece BPE as
        LLaMA uses it.
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
      name: What the tokenizer is called in errors.

    Returns:
      A note if rows are padding: some models round their number up; else None.

    Raises:
      UserError: There are more ids than rows, or over a thousand fewer: they are of different
        models.
    """
    padding = num_rows - tokenizer.vocab_size
    if padding < 0:
        raise UserError(
            f"the tokenizer {name} has {tokenizer.vocab_size:,} ids, more than the {num_rows:,} "
            "rows of the model (model.vocab_size); they are of different models, or raise the "
            "latter."
        )
    if padding >= _MAX_PADDING:
        raise UserError(
            f"the tokenizer {name} has {tokenizer.vocab_size:,} ids, but the model "
            f"{num_rows:,} rows (model.vocab_size); they are of different models: give the "
            "tokenizer of the weights."
        )
    return (
        f"{padding:,} of the {num_rows:,} rows of the embedding are padding, beyond the "
        f"{tokenizer.vocab_size:,} ids of the tokenizer"
        if padding
        else None
    )
