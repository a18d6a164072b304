"""From what a user types to a search of SQLite, and back to the places that it found."""

import re
from collections.abc import Iterator, Sequence

# Scripts that write no spaces between words: each character is a word of the index, and a search
# for several of them is a search for a phrase.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_CHARACTER = re.compile(f"([{_UNSPACED}\U00020000-\U0003ffff])")
_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')


def terms_of(search: str) -> list[str]:
    """The words and the phrases in quotes of a search; a missing last quote is added.

    >>> terms_of('river "of Velora" -- "and')
    ['river', 'of Velora', 'and']
    """
    found = (phrase or word for phrase, word in _TERM.findall(search.replace("\0", " ")))
    # SQLite has no token for a term without letters or digits, so it would find nothing.
    return [term.strip() for term in found if any(map(str.isalnum, term))]


def match_of(search: str) -> str:
    """The search as an expression of FTS5 that finds all its terms; empty = nothing to search for.

    Each term is quoted, so no text is an operator or a wrong expression.

    >>> match_of('NEAR( OR "of Velora')
    '"NEAR(" AND "OR" AND "of Velora"'
    """
    return " AND ".join(f'"{spaced(term)}"' for term in terms_of(search))


def spaced(text: str) -> str:
    """Puts spaces around the characters of scripts without spaces; for texts and searches."""
    return text if text.isascii() else _CHARACTER.sub(r" \1 ", text)


def marked(text: str, terms: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Cuts a text where terms were found.

    Yields:
      Whether a part is a found term, and the part.

    >>> list(marked("The River runs", ["river"]))
    [(False, 'The '), (True, 'River'), (False, ' runs')]
    """
    patterns = [
        r"\W+".join(map(re.escape, words)) for term in terms if (words := re.findall(r"\w+", term))
    ]
    if not patterns:
        yield False, text
        return
    # Where no letter can follow without a space, a part of a longer run is a hit as well.
    found = re.compile(
        rf"(?:(?<!\w)|(?<=[{_UNSPACED}]))(?:{'|'.join(patterns)})(?:(?!\w)|(?=[{_UNSPACED}]))"
        if not any(_CHARACTER.search(term) for term in terms)
        else "|".join(patterns),
        re.I,
    )
    end = 0
    for hit in found.finditer(text):
        if hit.start() > end:
            yield False, text[end : hit.start()]
        yield True, hit[0]
        end = hit.end()
    if end < len(text):
        yield False, text[end:]
