"""Splits texts into words for comparison; the one definition of "the same words".

Case, white space and the punctuation of prose are ignored. Accents of any script, numbers, emoji,
and the symbols of formulas and code are kept.
"""

import functools
import re
import unicodedata
from typing import NamedTuple

# Variants of the same letters: ligatures, and the wide forms in Chinese and Japanese text. Not all
# of NFKC, which maps 2² to 22.
_SAME_LETTERS = {
    code: unicodedata.normalize("NFKC", chr(code))
    for code in (*range(0xFB00, 0xFB07), *range(0xFF01, 0xFF5F))
}

# In scripts without spaces each letter is a word: Thai, Lao, Burmese, Khmer, kana, Han.
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_LAST_SCRIPT = 0x20000
"""From here on there are only Han letters and variation selectors."""


def normal_words(text: str) -> list[str]:
    """The words of a text without case and symbols, for counting; the same split as ROUGE.

    >>> normal_words("Don't  PANIC, it is ﬁne: 1.5 cafés, 你好!")
    ['don', 't', 'panic', 'it', 'is', 'fine', '1', '5', 'cafés', '你', '好']
    """
    return _patterns().words.findall(_normal(text))


def words_and_signs(text: str) -> list[str]:
    """The words of a text and the symbols that change its meaning, for comparing texts.

    >>> words_and_signs("Is C++ like C#? 3 - 4, (x²), well-known 👍")
    ['is', 'c', '+', '+', 'like', 'c', '#', '3', '-', '4', '(', 'x²', ')', 'well', 'known', '👍']
    """
    return _patterns().words_and_signs.findall(_normal(text))


def signed_words(text: str) -> list[str]:
    """The words of a text, each with the symbols after it, for finding a text inside another.

    Brackets and Markdown marks are left out, since they may surround any text.

    >>> signed_words("**Is C++ like (C#)?** 3 - 4, really")
    ['is', 'c++', 'like', 'c#', '3-', '4', 'really']
    """
    found = _patterns().signed_words.findall(_normal(text))
    return [word + "".join(signs.split()) for word, signs in found]


class _Patterns(NamedTuple):
    words: re.Pattern[str]
    words_and_signs: re.Pattern[str]
    signed_words: re.Pattern[str]


def _normal(text: str) -> str:
    # Not `casefold`, which maps the German Maße to Masse.
    return unicodedata.normalize("NFC", text).translate(_SAME_LETTERS).lower()


@functools.cache
def _patterns() -> _Patterns:
    marks, symbols = _class_of("M") + "\U000e0100-\U000e01ef", _class_of("S")
    letters = rf"[^\W_{_SPACELESS}]"
    plain = rf"""
        {letters}+(?:[{marks}\u200c\u200d]+{letters}*)*
      | (?=\w)[{_SPACELESS}][{marks}]*
    """
    word = rf"""
        (?:(?<!\w)[.])?\d+(?:[.,:]\d+)*(?!\w)               # a number keeps its points
      | {letters}+(?:[{marks}\u200c\u200d]+{letters}*|_+{letters}+)*
      | (?=\w)[{_SPACELESS}][{marks}]*
    """
    sign = rf"""
        (?![`\w\s])[{symbols}][{marks}]*(?:\u200d[{symbols}][{marks}]*)*  # an emoji has parts
      | [#%&@/\\]
      | -(?![^\W\d_]) | (?<![^\W\d_])-(?=[^\W\d_])        # no hyphen
      | [\u2013\u2014](?=\s?\d) | (?<=\d)!                # minus, factorial
    """
    one_star = r"(?<!\*)\*(?!\*)"
    behind = rf"(?:{sign}|{one_star})"
    # The possessive `++` prevents backtracking, so the time is linear.
    signed = rf"({word})((?:{behind})++|[ \t]*(?:{behind}[ \t]*)++(?=\w))?"
    return _Patterns(
        re.compile(plain, re.VERBOSE),
        re.compile(rf"{word}|{sign}|[*()\[\]{{}}]", re.VERBOSE),
        re.compile(signed, re.VERBOSE),
    )


def _class_of(category: str) -> str:
    """The characters of a Unicode category, for a character class of a pattern."""
    ranges: list[list[int]] = []
    for code in range(_LAST_SCRIPT):
        if unicodedata.category(chr(code))[0] != category:
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in ranges)
