"""How the tokens of a vocabulary are made of bytes: what begins a word, which character is open.

- Byte-level BPE (GPT-2, Llama 3, Qwen): each character of a token stands for one byte; `Ġ` is the
  space.
- Metaspace with byte fallback (LLaMA, Mistral, Yi): tokens are text with `▁` for the space, and
  `<0x0A>` for a byte of a character that the vocabulary lacks.
"""

import abc
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

from parrot_jax.core.errors import UserError

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_SPACE = "▁"
_MOST_OPEN = 3
"""Bytes of a character in UTF-8, but for the last one."""


class Alphabet(abc.ABC):
    """The bytes of tokens."""

    @abc.abstractmethod
    def num_open(self, ids: Sequence[int], skipped: Container[int]) -> int:
        """The number of last ids whose text may change with further ids; `skipped` have no text."""

    @abc.abstractmethod
    def opening(self, token: str) -> int:
        """How suitable a token is to begin a text, 0 to 2; see `Tokenizer.openings`."""


class Fallback(Alphabet):
    """Metaspace with byte fallback.

    The decoder reads a run of bytes as a whole, and if it is not UTF-8, each byte becomes U+FFFD.
    So a run is open until it ends.
    """

    def __init__(self, vocab: Mapping[str, int]) -> None:
        """Finds the tokens of bytes."""
        self._byte_ids = frozenset(i for token, i in vocab.items() if _BYTE.fullmatch(token))

    def num_open(self, ids: Sequence[int], skipped: Container[int]) -> int:
        """See `Alphabet`."""
        count = 0
        for index in reversed(ids):
            if index not in self._byte_ids and index not in skipped:
                break
            count += 1
        return count

    def opening(self, token: str) -> int:
        """See `Alphabet`."""
        if token.startswith(_SPACE) or token == "<0x0A>":
            return 2
        byte = _BYTE.fullmatch(token)
        return 0 if byte and 0x80 <= int(byte[1], 16) < 0xC0 else 1


class ByteLevel(Alphabet):
    """Byte-level BPE.

    The decoder replaces what is not UTF-8 by U+FFFD, as soon as the bytes cannot become UTF-8. So
    only a beginning of a character at the end is open.
    """

    def __init__(self, vocab: Mapping[str, int], added: Container[int]) -> None:
        """Finds the bytes of each token; added tokens are text."""
        of_char = _byte_of_char()
        self._bytes = {
            index: bytes(of_char[char] for char in token)
            if index not in added and all(char in of_char for char in token)
            else token.encode()
            for token, index in vocab.items()
        }

    def num_open(self, ids: Sequence[int], skipped: Container[int]) -> int:
        """See `Alphabet`."""
        tail, starts = b"", []  # the last bytes, and how many there are from each id on
        for index in reversed(ids):
            if index not in skipped:
                tail = self._bytes.get(index, b"") + tail
            starts.append(len(tail))
            if len(tail) >= _MOST_OPEN:
                break
        wanted = _num_open_bytes(tail)
        return next(n for n, start in enumerate([0, *starts]) if start >= wanted)

    def opening(self, token: str) -> int:
        """See `Alphabet`."""
        if token.startswith(("Ġ", "Ċ")):
            return 2
        byte = _BYTE_OF_CHAR.get(token[:1], 0)
        return 0 if 0x80 <= byte < 0xC0 else 1


def _num_open_bytes(tail: bytes) -> int:
    """The number of last bytes that begin a character without completing it, 0 to 3."""
    for count in range(1, min(_MOST_OPEN, len(tail)) + 1):
        lead = tail[-count]
        if not 0x80 <= lead < 0xC0:  # not inside a character
            length = 2 if lead >= 0xC2 else 1
            length += (lead >= 0xE0) + (lead >= 0xF0)
            return count if count < length and lead < 0xF5 else 0
    return 0


def _byte_of_char() -> dict[str, int]:
    """The bytes of GPT-2's visible characters.

    Printable bytes stand for themselves; the others are numbered from U+0100.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(0x100 + number): byte for number, byte in enumerate(hidden)
    }


_BYTE_OF_CHAR = _byte_of_char()


def alphabet_of(
    described: Mapping[str, Any], vocab: Mapping[str, int], added: Container[int]
) -> Alphabet:
    """The alphabet of a tokenizer, by its decoder.

    Args:
      described: The values of its `tokenizer.json`.
      vocab: Ids by token.
      added: Ids of added tokens.

    Raises:
      UserError: Its decoder is of another kind.
    """
    decoder = described.get("decoder") or {}
    kinds = {each.get("type") for each in [decoder, *decoder.get("decoders", ())]}
    if "ByteLevel" in kinds:
        return ByteLevel(vocab, added)
    if kinds & {"Metaspace", "ByteFallback"}:
        return Fallback(vocab)
    found = ", ".join(sorted(kind for kind in kinds if kind)) or "none"
    raise UserError(
        f"the tokenizer's decoder is {found}; it must be ByteLevel, as in Llama 3 and Qwen, or "
        "Metaspace or ByteFallback, as in LLaMA 2 and Mistral."
    )
