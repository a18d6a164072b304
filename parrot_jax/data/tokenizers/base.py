"""A tokenizer: encoding, decoding, and export to transformers."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import atomic_write, hash_json, write_json
from parrot_jax.core.paths import AnyPath, as_path
from parrot_jax.data.tokenizers.added_tokens import is_breakable
from parrot_jax.data.tokenizers.alphabets import Alphabet, alphabet_of

_OURS = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
"""The pre-tokenizer of what `sentencepiece.read_model` makes."""


class Tokenizer:
    """A vocabulary behind the `tokenizers` library.

    Attributes:
      bos_token: The token at the start of a rendering, `<s>` in LLaMA; None if there is none, as in
        Qwen.
      eos_token: The token at the end of a text, `</s>` in LLaMA.
      bos_id: Its id, or None.
      eos_id: Its id.
      roles: Other tokens with a role, such as `pad_token`, by role.
      control_strings: Texts of special tokens; the template breaks them up. Without those that
        have white space, for example, which stay as they are in texts.
      vocab_size: The largest id plus 1.
      max_piece_chars: Characters of the longest token, for a lower bound on the tokens of a text.
      fingerprint: Hash of the content, 64 hex digits; equal for equal tokenizers.
      start_ids: What `add_special_tokens` of transformers and vLLM puts before a text.
      left_out: Features of its folder that could not be converted, each with the reason.
      chat_template: The Jinja template of its folder, or None.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_token: str | None,
        eos_token: str,
        roles: Mapping[str, str] = MappingProxyType({}),
        left_out: Sequence[str] = (),
        chat_template: str | None = None,
    ) -> None:
        """Wraps a backend; use `load_tokenizer` to read one from a file.

        Raises:
          UserError: The vocabulary lacks a token with a role, or has no decoder.
        """
        self._backend = backend
        self.bos_token, self.eos_token = bos_token, eos_token
        self.bos_id = None if bos_token is None else self.id_of(bos_token)
        self.eos_id = self.id_of(eos_token)
        self.roles, self.left_out = dict(roles), tuple(left_out)
        self.chat_template = chat_template
        added = backend.get_added_tokens_decoder()
        special = {index: str(token.content) for index, token in added.items() if token.special}
        self.control_strings = tuple(sorted({s for s in special.values() if is_breakable(s)}))
        self._special_ids = frozenset(special)
        vocab = backend.get_vocab(with_added_tokens=True)
        self.max_piece_chars = max(map(len, vocab))
        self.vocab_size = max(vocab.values()) + 1
        self.start_ids = _start_ids(backend)
        described = json.loads(backend.to_str())
        # It adds BOS, as the template does, and trims spaces from the places of ids.
        self._post_processor = described["post_processor"]
        backend.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]
        self.fingerprint = _fingerprint(described, vocab, [bos_token, eos_token], self.roles)
        self._alphabet: Alphabet = alphabet_of(described, vocab, added)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of separate texts, as in transformers with `add_special_tokens=False`.

        Special tokens in a text become their ids. One call with many texts uses all cores.
        """
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_places(self, texts: Sequence[str]) -> list[Any]:
        """As `encode`, as encodings of the `tokenizers` library: ids with their characters."""
        return self._backend.encode_batch(list(texts), add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens and without a leading space that was added."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def show(self, ids: Sequence[int]) -> str:
        """The text of `ids` with special tokens and leading spaces, for display."""
        # A decoder may strip the first space of a text, but not after a special token.
        text = self._backend.decode([self.eos_id, *ids], skip_special_tokens=False)
        return text.removeprefix(self.eos_token)

    def num_settled(self, ids: Sequence[int], *, special: bool) -> int:
        """The number of ids whose text cannot change with further ids.

        A character may be spread over several ids, so the last ones may be incomplete.

        Args:
          ids: Ids of a text so far.
          special: As in `text_inside`; if false, special tokens do not end a character.
        """
        count = len(ids)
        skipped = frozenset() if special else self._special_ids
        return count - self._alphabet.num_open(ids, skipped)

    def openings(self) -> NDArray[np.uint8]:
        """How suitable each id is to begin a text, [vocab_size].

        2 = begins a word or a line, 1 = begins a character, 0 = inside a character.
        """
        tokens = [self._backend.id_to_token(index) or "" for index in range(self.vocab_size)]
        return np.array([self._alphabet.opening(token) for token in tokens], np.uint8)

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
          chat_template: The Jinja template, see `Template.chat_template`; None = that of the folder
            from which the tokenizer was read, if any.
          max_tokens: The model's context length, which transformers uses for warnings.
        """
        folder = as_path(folder)
        values = json.loads(self._backend.to_str()) | {"post_processor": self._post_processor}
        write_json(folder / "tokenizer.json", values)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "unk_token": self._unk_token(),
            **self.roles,
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_tokens,
        }
        chat_template = chat_template or self.chat_template
        if chat_template is not None:
            # As a separate file, and here for older readers.
            config["chat_template"] = chat_template
            with atomic_write(folder / "chat_template.jinja") as file:
                file.write(chat_template)
        given = {name: value for name, value in config.items() if value is not None}
        write_json(folder / "tokenizer_config.json", given)

    def id_of(self, token: str) -> int:
        """The id of a token by its text.

        Raises:
          UserError: The vocabulary lacks it.
        """
        index = self._backend.token_to_id(token)
        if index is None:
            raise UserError(f"the tokenizer has no token {token!r}.")
        return index

    def _unk_token(self) -> str | None:
        return self._backend.model.unk_token  # pyright: ignore[reportAttributeAccessIssue]


def _start_ids(backend: tokenizers.Tokenizer) -> tuple[int, ...]:
    with_specials = backend.encode("a", add_special_tokens=True).ids
    plain = backend.encode("a", add_special_tokens=False).ids
    starts = range(len(with_specials) - len(plain) + 1)
    number = next((n for n in starts if with_specials[n : n + len(plain)] == plain), 0)
    return tuple(with_specials[:number])


def _fingerprint(
    described: Mapping[str, Any],
    vocab: Mapping[str, int],
    ends: Sequence[str | None],
    roles: Mapping[str, str],
) -> str:
    """A hash of what determines ids, not of the library's file format, which may change."""
    model = described["model"]
    merges = [each if isinstance(each, list) else each.split(" ") for each in model["merges"]]
    tokens = [[token["content"], token["id"], token["special"], token["lstrip"],
               token["rstrip"], token["single_word"]]
              for token in described["added_tokens"]]  # fmt: skip
    parts = [vocab, merges, tokens, *ends, sorted(roles.items())]
    if described["pre_tokenizer"] != _OURS or described["normalizer"] is not None:
        rest = {name: value for name, value in model.items() if name not in ("vocab", "merges")}
        normalized = [token["normalized"] for token in described["added_tokens"]]
        parts += [rest, normalized, *(described[name] for name in
                                      ("normalizer", "pre_tokenizer", "decoder"))]  # fmt: skip
    return hash_json(parts)
