"""Language detection and filter, with `py3langid` (naive Bayes over byte n-grams, CPU only)."""

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.dialogue.clean import require
from parrot_jax.dialogue.prose import prose
from parrot_jax.dialogue.types import Dialogue

MIN_LETTERS = 20
"""Texts with fewer letters are kept: on them the classifier is little better than chance ("hi" and
"2" score as Serbian)."""

_VARIETIES: Mapping[str, str] = {
    "pcm": "en",
    "wuu": "zh",
    "yue": "zh",
    "ary": "ar",
    "arz": "ar",
    "nb": "no",
    "nn": "no",
}
"""Varieties that look alike: English with code scores as Pidgin, short Chinese as Wu."""
_CHARS_READ = 8
"""Multiple of `max_chars` that is searched for prose, since code may be most of a text."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Keep dialogues in some languages, judged by the user's messages; code is ignored."""

    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes."""
    min_probability: float = 0.5
    """Keep a text if one of the languages has at least this probability; drop it if another one has
    more than 1 minus this. In [0, 1]; the classifier is confident on most texts, so values from 0.2
    to 0.9 differ little."""
    max_chars: int = 2000
    """Characters of prose to classify, >= 1; 2,000 take about 1 ms."""

    def __post_init__(self) -> None:
        require(0 <= self.min_probability <= 1, "min_probability", self.min_probability, "0..1")
        require(self.max_chars >= 1, "max_chars", self.max_chars, ">= 1")
        require(bool(self.languages), "languages", self.languages, "one code or more")


def language_filter(config: LanguageConfig) -> Callable[[Dialogue], str | None]:
    """Makes a filter that drops dialogues in other languages.

    A dialogue is kept if its user messages (since an answer may be a translation) or all its
    messages are in one of the languages. It is also kept if no language is likely, as in a list of
    names, or if it has too little prose.

    Returns:
      A function that returns the reason to drop a dialogue, or `None` to keep it.

    Raises:
      UserError: The classifier does not know a language.
    """
    identifier = _identifier()
    languages = frozenset(config.languages)
    unknown = sorted(languages - set(identifier.labels))
    if unknown:
        known = ", ".join(sorted(label for label in identifier.labels if len(label) == 2))
        raise UserError(f"language codes {unknown} are unknown; choose from {known}.")

    def reason_against(dialogue: Dialogue) -> str | None:
        asked = dialogue.questions()
        against = None
        for texts in (asked, [turn.text for turn in dialogue.turns]):
            text = _prose_of(texts, config.max_chars)
            if _num_letters(text) < MIN_LETTERS:
                continue
            shares = _shares(identifier, text, languages)
            if sum(shares.get(language, 0) for language in languages) >= config.min_probability:
                return None
            likeliest, share = max(shares.items(), key=lambda item: item[1])
            if likeliest not in languages and share > 1 - config.min_probability:
                against = against or f"language {likeliest}"
        return against

    return reason_against


def language_of(*, max_chars: int = 400) -> Callable[[str], tuple[str, float] | None]:
    """Makes a function that detects the language of a text.

    Args:
      max_chars: Characters to classify, without code blocks.

    Returns:
      A function that returns the most likely language, as an ISO 639-1 code, and its probability;
      None for a text with fewer than `MIN_LETTERS` letters.
    """
    identifier = _identifier()

    def name(text: str) -> tuple[str, float] | None:
        said = _prose_of([text], max_chars)
        if _num_letters(said) < MIN_LETTERS:
            return None
        return max(_shares(identifier, said, frozenset()).items(), key=lambda item: item[1])

    return name


def switched_language(
    language: Callable[[str], tuple[str, float] | None], first: str, text: str, least: float
) -> tuple[str, str] | None:
    """Whether a text is in another language than an earlier one.

    Args:
      language: From `language_of`.
      first: The earlier text.
      text: The later one.
      least: Least probability of both languages, in (0, 1].

    Returns:
      Both languages; None if they are the same, or one is not recognised.
    """
    was, is_now = language(first), language(text)
    if was is None or is_now is None or was[0] == is_now[0] or min(was[1], is_now[1]) < least:
        return None
    return was[0], is_now[0]


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # The library unpacks its model to a temporary file.
    with disk_full_is_a_user_error("the language classifier"):
        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _shares(identifier: Any, text: str, wanted: frozenset[str]) -> dict[str, float]:
    """The probability of each language, including its varieties that are not wanted themselves."""
    shares: dict[str, float] = defaultdict(float)
    for label, share in identifier.rank(text):
        shares[label if label in wanted else _VARIETIES.get(label, label)] += float(share)
    return shares


def _prose_of(texts: Sequence[str], max_chars: int) -> str:
    pieces: list[str] = []
    room = max_chars
    for text in texts:
        piece = prose(text[: _CHARS_READ * room])[:room]
        pieces.append(piece)
        room -= len(piece)
        if room <= 0:
            break
    return "\n".join(pieces)


def _num_letters(text: str) -> int:
    return sum(map(str.isalpha, text))
