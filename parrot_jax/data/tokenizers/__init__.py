"""Tokenizers: a vocabulary with its roles (`base`), and one file for each source.

- `library`: any `tokenizer.json` with byte-level BPE or Metaspace BPE, used as it is.
- `sentencepiece`: LLaMA's `tokenizer.model`, with the tokens that its folder adds (`added_tokens`).
- `alphabets`: how tokens are made of bytes.
"""

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import AnyPath, as_path, file_in
from parrot_jax.data.tokenizers.base import Tokenizer
from parrot_jax.data.tokenizers.library import read_library
from parrot_jax.data.tokenizers.sentencepiece import NotLlamaError, read_model

_MAX_PADDING = 4096
"""Most rows of an embedding beyond the ids of its tokenizer; DeepSeek 7B has 2,385."""


def load_tokenizer(path: AnyPath | str, *, num_rows: int | None = None) -> Tokenizer:
    """Reads a tokenizer.

    Args:
      path: A SentencePiece `tokenizer.model`, or a folder with one and its added tokens, or with a
        `tokenizer.json`. Of both files, a `tokenizer.model` as in LLaMA is read, since not every
        `tokenizer.json` beside one gives SentencePiece's ids.
      num_rows: Rows of the model's embedding: added tokens beyond them are left out, and listed in
        `Tokenizer.left_out`. None = unknown.

    Raises:
      UserError: There is no tokenizer, it is damaged, or of an unsupported kind.
    """
    path = as_path(path)
    if path.is_dir():
        model = file_in(path, "tokenizer.model")
        if not model.exists():
            return read_library(path)
        try:
            return read_model(model, folder=path, num_rows=num_rows)
        except NotLlamaError as error:
            if not file_in(path, "tokenizer.json").exists():
                raise
            return read_library(path, left_out=(f"tokenizer.model: {error}",))
    if not path.is_file():
        raise UserError(
            f"there is no tokenizer at {path}; give a tokenizer.model or a model's folder."
        )
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
      UserError: There are more ids than rows, or over 4,096 fewer, as of another model.
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
