"""Which language a dialogue is in, by `py3langid` (naive Bayes over byte n-grams, CPU only)."""

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
"""A text with fewer letters is kept: on it the classifier is little better than chance ("hi" and
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
"""Written alike: English with code scores as Pidgin, short Chinese as Wu."""
_CHARS_READ = 8
"""So many times `max_chars` are read for prose: code may be most of a text."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Keep dialogues in some languages, judged by what the user says; code does not count."""

    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes."""
    min_probability: float = 0.5
    """A text with at least this probability of being in one of the languages is; one with more than
    1 minus this of being in another is not. In [0, 1]; the classifier is sure of most texts, so
    values from 0.2 to 0.9 differ little."""
    max_chars: int = 2000
    """How many characters of prose are looked at, >= 1; 2,000 cost about 1 ms."""

    def __post_init__(self) -> None:
        require(0 <= self.min_probability <= 1, "min_probability", self.min_probability, "0..1")
        require(self.max_chars >= 1, "max_chars", self.max_chars, ">= 1")
        require(bool(self.languages), "languages", self.languages, "one code or more")


def language_filter(config: LanguageConfig) -> Callable[[Dialogue], str | None]:
    """Makes a predicate that drops dialogues in other languages.

    Kept is a dialogue that is in one of the languages by what the user says, for an answer may be a
    translation, or by all that is said. So is one that is likely in no language, such as a list of
    names, or has too little prose to tell: nothing is known against it.

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
    """Makes a function that names the language of one text.

    Args:
      max_chars: How many characters are looked at, code blocks left out.

    Returns:
      A function to the likeliest language, as an ISO 639-1 code, and its probability; None for a
      text of fewer than `MIN_LETTERS` letters.
    """
    identifier = _identifier()

    def name(text: str) -> tuple[str, float] | None:
        said = _prose_of([text], max_chars)
        if _num_letters(said) < MIN_LETTERS:
            return None
        return max(_shares(identifier, said, frozenset()).items(), key=lambda item: item[1])

    return name


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # It unpacks its model into a temporary file.
    with disk_full_is_a_user_error("the classifier of languages"):
        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _shares(identifier: Any, text: str, wanted: frozenset[str]) -> dict[str, float]:
    """The probability of each language, with that of its varieties that are not wanted apart."""
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
