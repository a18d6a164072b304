"""Extracts the prose of a text, without code, formulas, links and stack traces."""

import re

_CODE_BLOCK = re.compile(r"(```|~~~).*?(?:\1|\Z)", re.S)
_INLINE = re.compile(
    r"""
    `[^`\n]*`                                               # code
  | \$\$.*?(?:\$\$|\Z) | \\\[.*?(?:\\\]|\Z) | \\\([^\n]{0,200}?\\\)  # formulas
  | \$(?=\S)[^$\n]*(?<=\S)\$
  | <[/!a-zA-Z][^<>]*>                                      # tags
  | \b(?:https?|ftp)://\S+ | \bwww\.\S+ | (?<![\w.+-])[\w.+-]++@[\w.-]+
    """,
    re.S | re.X,
)
_TRACE = re.compile(
    r"\s*(?:Traceback \(most recent|File \".*\", line \d|at [\w.$<>/]+ ?\(|Caused by: |"
    r"(?:[\w.]+\.)?\w*(?:Error|Exception)\b|>>> |\.\.\. |\$ )"
)
_CODE_SIGNS = re.compile(r"[{}\[\]()<>=;_|\\/*&^%$#@~+]")
_ASCII_WORD = re.compile(r"[!-~]+")
# Punctuation around words in prose.
_AROUND = "()[]{}<>.,;:!?\"'*_~-"
_CODE_IN_WORD = re.compile(r"[{}\[\]()<>=;_|\\/*&^%$#@~+:\d]|[a-z][A-Z]|\w\.\w")
_MOST_SIGNS = 0.2
"""A line with more code symbols per letter is code."""


def prose(text: str) -> str:
    r"""Removes code blocks and lines, formulas, links, traces, and words with code symbols.

    >>> prose("Fix `f`: see https://a.org\nx = [f(i) for i in y]\nWhy does get_x(1) fail?")
    'Fix : see\nWhy does fail?'
    """
    text = _INLINE.sub(" ", _CODE_BLOCK.sub(" ", text))
    lines = (line for line in text.splitlines() if not _is_code(line))
    return "\n".join(" ".join(_ASCII_WORD.sub(_word, line).split()) for line in lines)


def _is_code(line: str) -> bool:
    letters = sum(map(str.isalpha, line))
    return len(_CODE_SIGNS.findall(line)) > _MOST_SIGNS * letters or bool(_TRACE.match(line))


def _word(match: re.Match[str]) -> str:
    return " " if _CODE_IN_WORD.search(match[0].strip(_AROUND)) else match[0]
