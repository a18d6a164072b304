"""The interface of tokenizers: encoding, decoding, and export to transformers."""

import abc
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import tokenizers
from numpy.typing import NDArray

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import atomic_write, hash_json, write_json
from parrot_jax.core.paths import AnyPath, as_path


class Tokenizer(abc.ABC):
    """A vocabulary behind the `tokenizers` library.

    A subclass knows how its kind marks word beginnings and encodes bytes.

    Attributes:
      bos_token: The token at the start of a rendering, `<s>` in LLaMA.
      eos_token: The token at the end of a turn, `</s>` in LLaMA.
      bos_id: Its id.
      eos_id: Its id.
      roles: Other tokens with a role, such as `pad_token`, by role.
      control_strings: Texts of special tokens; the template breaks them up.
      vocab_size: The largest id plus 1.
      max_piece_chars: Characters of the longest token, for a lower bound on the tokens of a text.
      fingerprint: Hash of the content, 64 hex digits; equal for equal tokenizers.
      left_out: Features of its folder that could not be converted, each with the reason.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_token: str,
        eos_token: str,
        roles: Mapping[str, str] = MappingProxyType({}),
        left_out: Sequence[str] = (),
    ) -> None:
        """Wraps a backend; use `load_tokenizer` to read one from a file."""
        self._backend = backend
        self.bos_token, self.eos_token = bos_token, eos_token
        self.bos_id, self.eos_id = self.id_of(bos_token), self.id_of(eos_token)
        self.roles, self.left_out = dict(roles), tuple(left_out)
        added = backend.get_added_tokens_decoder()
        special = {index: str(token.content) for index, token in added.items() if token.special}
        self.control_strings = tuple(sorted(set(special.values())))
        self._special_ids = frozenset(special)
        vocab = backend.get_vocab(with_added_tokens=True)
        self.max_piece_chars = max(map(len, vocab))
        self.vocab_size = max(vocab.values()) + 1
        # Hash what determines ids, not the library's file format, which may change.
        described = json.loads(backend.to_str())
        merges = [each if isinstance(each, list) else each.split(" ")
                  for each in described["model"]["merges"]]  # fmt: skip
        tokens = [[token["content"], token["id"], token["special"], token["lstrip"],
                   token["rstrip"], token["single_word"]]
                  for token in described["added_tokens"]]  # fmt: skip
        self.fingerprint = hash_json(
            [vocab, merges, tokens, bos_token, eos_token, sorted(self.roles.items())]
        )

    def encode_pieces(self, pieces: Sequence[str]) -> list[list[int]]:
        """Encodes each text as if it came right after a special token.

        Args:
          pieces: Texts without control strings; a content piece starts with its space.

        Returns:
          The ids of each piece, in order. One call with many pieces uses all cores.
        """
        texts = [self.eos_token + piece for piece in pieces]
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids[1:] for encoding in encodings]

    def num_ids_before(self, piece: str, place: int) -> int:
        """The number of ids of a piece that begin before a character.

        Args:
          piece: A text for `encode_pieces`.
          place: The index of the character, from 0.
        """
        encoding = self._backend.encode(self.eos_token + piece, add_special_tokens=False)
        limit = len(self.eos_token) + place
        return sum(start < limit for start, _ in encoding.offsets[1:])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens and without the leading space."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    @abc.abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of a separate text, as in transformers, without BOS."""

    @abc.abstractmethod
    def show(self, ids: Sequence[int]) -> str:
        """The text of `ids` with special tokens and leading spaces, for display."""

    @abc.abstractmethod
    def num_settled(self, ids: Sequence[int], *, special: bool) -> int:
        """The number of ids whose text cannot change with further ids.

        A run of bytes at the end is not settled: the decoder reads a run as a whole, and if it is
        not UTF-8, each byte becomes U+FFFD.

        Args:
          ids: Ids of a text so far.
          special: As in `text_inside`; if false, special tokens do not end a run.
        """

    @abc.abstractmethod
    def openings(self) -> NDArray[np.uint8]:
        """How suitable each id is to begin a text, [vocab_size].

        2 = begins a word or a line, 1 = begins a character, 0 = inside a character.
        """

    def text_inside(self, ids: Sequence[int], *, special: bool) -> str:
        """The text of `ids` as part of a longer text, so that consecutive parts can be joined.

        Args:
          ids: All ids, or a part that ends at `num_settled`.
          special: Whether to include special tokens.
        """
        if not special:
            ids = [index for index in ids if index not in self._special_ids]
        return self.show(ids)

    def save(
        self, folder: AnyPath | str, *, chat_template: str | None = None, max_tokens: int = 10**30
    ) -> None:
        """Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`.

        Args:
          folder: Created if missing; can be loaded by transformers' `AutoTokenizer` and vLLM.
          chat_template: The Jinja template, see `Template.chat_template`; None = no template.
          max_tokens: The model's context length, which transformers uses for warnings.
        """
        folder = as_path(folder)
        write_json(folder / "tokenizer.json", json.loads(self._backend.to_str()))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "unk_token": self._unk_token(),
            **self.roles,
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_tokens,
        }
        if chat_template is not None:
            # As a separate file, and here for older readers.
            config["chat_template"] = chat_template
            with atomic_write(folder / "chat_template.jinja") as file:
                file.write(chat_template)
        write_json(folder / "tokenizer_config.json", config)

    def id_of(self, token: str) -> int:
        """The id of a token by its text.

        Raises:
          UserError: The vocabulary lacks it.
        """
        index = self._backend.token_to_id(token)
        if index is None:
            raise UserError(f"the tokenizer has no token {token!r}.")
        return index

    def _unk_token(self) -> str:
        return self._backend.model.unk_token  # pyright: ignore[reportAttributeAccessIssue]
