"""Finds duplicate dialogues: exact by hash, near by MinHash and locality-sensitive hashing.

Both work on a stream and keep the first dialogue of a group. Memory per kept dialogue is about 0.15
KB for exact and about 6 KB for near duplicates with 128 permutations (70,000 dialogues: 10 MB and
430 MB). Whole dialogues are compared: the system text and all turns, in order.
"""

import hashlib
import unicodedata
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from parrot_jax.dialogue.clean import require
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.words import words_and_signs

EXACT_REASON = "exact duplicate of an earlier dialogue"
NEAR_REASON = "near duplicate of an earlier dialogue"

_SHINGLES_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class ExactDuplicatesConfig:
    """Drop exact duplicates of earlier dialogues; about 0.15 KB of memory per dialogue."""

    ignore_case: bool = False
    """Also drop dialogues that differ only in case and white space."""


@dataclass(frozen=True, kw_only=True)
class NearDuplicatesConfig:
    """Drop a near duplicate of an earlier dialogue; about 6 KB of memory per kept dialogue."""

    threshold: float = 0.8
    """Jaccard similarity of shingles from which a dialogue is dropped, in (0, 1]."""
    shingle_words: int = 5
    """Words in a shingle, >= 1."""
    num_permutations: int = 128
    """Length of a MinHash, >= 16. More is more accurate, but slower and larger."""

    def __post_init__(self) -> None:
        require(0 < self.threshold <= 1, "threshold", self.threshold, "above 0 and at most 1")
        require(self.shingle_words >= 1, "shingle_words", self.shingle_words, ">= 1")
        require(self.num_permutations >= 16, "num_permutations", self.num_permutations, ">= 16")


class ExactDuplicates:
    """Rejects dialogues with exactly the text of an earlier one.

    White space around turns and Unicode normalisation are ignored.

    Args:
      config: The settings.
    """

    def __init__(self, config: ExactDuplicatesConfig) -> None:
        self._ignore_case = config.ignore_case
        self._seen: set[bytes] = set()

    def __call__(self, dialogue: Dialogue) -> str | None:
        """Returns a reason for a duplicate; remembers any other dialogue and returns None."""
        digest = self._digest(dialogue)
        if digest in self._seen:
            return EXACT_REASON
        self._seen.add(digest)
        return None

    def _digest(self, dialogue: Dialogue) -> bytes:
        digest = hashlib.sha256()
        for text in dialogue.texts():
            same = unicodedata.normalize("NFC", text).strip()
            if self._ignore_case:
                same = " ".join(same.lower().split())
            encoded = same.encode("utf-8")
            # The length distinguishes "ab", "c" from "a", "bc".
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.digest()[:16]


class NearTexts:
    """Finds texts that share most of their word shingles with an earlier one.

    The locality-sensitive index proposes candidates and the MinHash estimate of their Jaccard
    similarity decides, with a standard error of at most 0.5 / sqrt(num_permutations) (0.044 for
    128). The index may miss a pair just above the threshold, but hardly ever one far above it.
    Cost: about 2 ms per 1,000 words.

    Args:
      config: The threshold and the size of the sketches.
      seed: Chooses the permutations; the same seed gives the same result.
    """

    def __init__(self, config: NearDuplicatesConfig, *, seed: int) -> None:
        from datasketch import MinHash, MinHashLSH

        self._config = config
        self._empty = MinHash(num_perm=config.num_permutations, seed=seed)
        # Every candidate is checked below, so the index should prefer false positives: with the
        # library's even weights it misses 60 % of the pairs at a threshold of 0.8. Near 1 it has no
        # layout for short sketches.
        self._index = MinHashLSH(
            threshold=min(config.threshold, 0.9),
            num_perm=config.num_permutations,
            weights=(0.02, 0.98),
        )
        self._sketches: dict[Hashable, Any] = {}

    def sketch(self, text: str) -> Any:
        """The MinHash of a text."""
        sketch = self._empty.copy()
        shingles = iter(_shingles(text, self._config.shingle_words))
        # In batches, because the permutations of all shingles of a book would fill the memory.
        while piece := list(islice(shingles, _SHINGLES_AT_ONCE)):
            sketch.update_batch(piece)
        return sketch

    def is_known(self, sketch: Any) -> bool:
        """Whether a similar text was remembered."""
        return any(
            (self._sketches[candidate] == sketch.hashvalues).mean() >= self._config.threshold
            for candidate in self._index.query(sketch)
        )

    def remember(self, sketch: Any) -> None:
        """Adds a text to the earlier ones."""
        number = len(self._sketches)
        self._index.insert(number, sketch, check_duplication=False)
        self._sketches[number] = sketch.hashvalues


class NearDuplicates:
    """Rejects near duplicates of earlier dialogues; see `NearTexts`.

    Args:
      config: The threshold and the size of the sketches.
      seed: Chooses the permutations; the same seed gives the same result.
    """

    def __init__(self, config: NearDuplicatesConfig, *, seed: int) -> None:
        self._seen = NearTexts(config, seed=seed)

    def __call__(self, dialogue: Dialogue) -> str | None:
        """Returns a reason for a near duplicate; remembers any other dialogue and returns None."""
        sketch = self._seen.sketch("\n".join(dialogue.texts()))
        if self._seen.is_known(sketch):
            return NEAR_REASON
        self._seen.remember(sketch)
        return None


def _shingles(text: str, size: int) -> Iterator[bytes]:
    words = words_and_signs(text)
    if len(words) < size:
        yield (" ".join(words) or text).encode("utf-8")
    for start in range(len(words) - size + 1):
        yield " ".join(words[start : start + size]).encode("utf-8")
