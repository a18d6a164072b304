"""Which language a dialogue is in, by `py3langid` (naive Bayes over byte n-grams, CPU only)."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.dialogue.clean import require
from parrot_jax.dialogue.types import Dialogue

MIN_LETTERS = 20
"""A text with fewer letters is kept: on it the classifier is little better than chance ("hi" and
"2" score as Serbian)."""

_CODE_BLOCK = re.compile(r"```.*?(?:```|\Z)", re.S)


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Keep dialogues in some languages, judged by all turns together."""

    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes."""
    min_probability: float = 0.5
    """Kept is what has at least this probability, in [0, 1], of being in one of the languages. The
    classifier is sure of most texts, so values from 0.2 to 0.9 differ little."""
    max_chars: int = 2000
    """How many characters of a dialogue are looked at, >= 1; 2,000 cost about 1 ms."""

    def __post_init__(self) -> None:
        require(0 <= self.min_probability <= 1, "min_probability", self.min_probability, "0..1")
        require(self.max_chars >= 1, "max_chars", self.max_chars, ">= 1")
        require(bool(self.languages), "languages", self.languages, "one code or more")


def language_filter(config: LanguageConfig) -> Callable[[Dialogue], str | None]:
    """Makes a predicate that drops dialogues in other languages.

    All turns count together, as single ones are often too short to tell; code blocks do not count.

    Returns:
      A function that names the reason against a dialogue, or gives `None` to keep it.

    Raises:
      UserError: The classifier does not know a language.
    """
    identifier = _identifier()
    languages = frozenset(config.languages)
    unknown = sorted(languages - set(identifier.labels))
    if unknown:
        known = ", ".join(sorted(label for label in identifier.labels if len(label) == 2))
        raise UserError(f"language codes {unknown} are not known; choose some of {known}.")

    def reason_against(dialogue: Dialogue) -> str | None:
        text = _prose(dialogue, config.max_chars)
        if sum(character.isalpha() for character in text) < MIN_LETTERS:
            return None
        ranked = identifier.rank(text)
        if sum(share for label, share in ranked if label in languages) >= config.min_probability:
            return None
        return f"language {ranked[0][0]}" if ranked[0][0] not in languages else "language unsure"

    return reason_against


def language_of(*, max_chars: int = 400) -> Callable[[str], tuple[str, float] | None]:
    """Makes a function that names the language of one text.

    Args:
      max_chars: How many characters are looked at, code blocks left out.

    Returns:
      A function to the likeliest language, as an ISO 639-1 code, and its probability; None for a
      text of fewer than `MIN_LETTERS` letters.
    """
    identifier = _identifier()

    def name(text: str) -> tuple[str, float] | None:
        prose = _CODE_BLOCK.sub(" ", text)[:max_chars]
        if sum(character.isalpha() for character in prose) < MIN_LETTERS:
            return None
        language, probability = identifier.classify(prose)
        return language, float(probability)

    return name


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # It unpacks its model into a temporary file.
    with disk_full_is_a_user_error("the classifier of languages"):
        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _prose(dialogue: Dialogue, max_chars: int) -> str:
    pieces: list[str] = []
    room = max_chars
    for turn in dialogue.turns:
        piece = _CODE_BLOCK.sub(" ", turn.text)[:room]
        pieces.append(piece)
        room -= len(piece)
        if room <= 0:
            break
    return "\n".join(pieces)
