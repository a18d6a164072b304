"""Texts as word lists for comparison: what counts as "the same words" everywhere in cleaning."""

import re
import unicodedata

# One word a character where a script has no spaces (Han, Hiragana, Katakana), else runs of letters
# and digits. Punctuation separates and never counts.
_SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W_{_SPACELESS}]+")


def normal_words(text: str) -> list[str]:
    """The words of a text without case, punctuation and compatibility forms.

    >>> normal_words("Don't  PANIC, it is ﬁne: 你好!")
    ['don', 't', 'panic', 'it', 'is', 'fine', '你', '好']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
