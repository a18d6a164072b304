"""Rules for questions that depend on their dialogue: words that refer back, and words left out.

They are lists of English words, so they are instant, free and easy to check by hand. They read only
what the user wrote for this turn: quotes, code and pasted texts are left out, because a pronoun in
them has its referent there. docs/negatives.md has their precision and recall on labelled questions.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from parrot_jax.dialogue.phrases import only_thanks
from parrot_jax.dialogue.prose import prose
from parrot_jax.dialogue.words import normal_words
from parrot_jax.stats.context_marks import is_elliptical

LANGUAGE = "en"
"""The language that the rules know, as an ISO 639-1 code."""

_JUDGED_CHARS = 8000
_WORDS_BEFORE_PRONOUN = 16
"""Later in a question, a pronoun most often has its referent in the question."""
_FEWEST_PASTED_WORDS = 8
"""A colon followed by as many words introduces a pasted text."""
_GAP = "…"
"""Stands for what was left out."""

_QUOTE = re.compile(r'"[^"]*(?:"|$)|“[^”]*(?:”|$)')
_BEFORE_PASTED = re.compile(r"[:;]\s*(?=\S)|\n\s*\n")
_CODE = re.compile(r"[{}]|=>|<-")

_CONTINUATION = re.compile(
    r"""[\W_]*(?:(?:please|can\ you|could\ you|ok(?:ay)?)[ ,]+)*(?:
        and|also|but|then|so|now|again|instead|still|actually|no|nope|not|yes|yeah|yep
      | continue|go\ (?:on|ahead)|proceed|keep\ going|start\ over|try\ (?:again|to)|redo
      | next|more|another|shorter|longer|simpler|shorten|lengthen|elaborate
      | (?:do\ |does\ )?(?:the\ )?same|what\ (?:about|else)|how\ (?:about|come)|anything\ else
      | why\ not|which\ ones?|make\ (?:it|them|this|that|sure)|i\ (?:got|get|tried|still)
    )\b(?!\ of\ the\ following)""",
    re.I | re.X,
)

_POINTS_BACK = re.compile(
    r"""\b(?:
        (?:the|my|our|your|this|that|in|to)\ (?:\w+\ )?
        (?:above|previous|earlier|original|preceding)\b(?!:)
      | as\ (?:above|before)\b | (?:mentioned|listed|provided|described|posted)\ (?:above|earlier)
      | (?:you|we)(?:'ve|\ have|\ had)?\ (?:just\ )?
        (?:mentioned|said|suggested|provided|posted|listed|gave|sent|wrote|described|used)\b
      | the\ same\ (?:as|thing|way|error|problem|for)\b | (?:another|other)\ ones?\b
      | another\ \w+\ like\ (?:this|that|it)\b | follow[ -]?up\b | (?:the\ )?whole\ thing\b
      | the\ (?:first|second|third|last|next|other)\ (?:one|two|three|part|chapter|paragraph)s?\b
      | (?:part|chapter|scene|episode|step|section)\ \d+\b
    )""",
    re.I | re.X,
)

_PRONOUNS = frozenset(
    {
        *("it", "its", "they", "them", "their", "theirs", "he", "him", "his", "she", "her", "hers"),
        *("this", "that", "these", "those"),
    }
)
_WITHOUT_REFERENT = (
    re.compile(
        r"\b(?:is|was|would|will|could|makes?|find) it (?:\w+ )?(?:ok(?:ay)?|possible|good|better|"
        r"bad|true|safe|legal|normal|necessary|worth|to|that)\b|\bit(?:'s| is) (?:\w+ )?(?:to|that)"
        r"\b",
        re.I,
    ),
    re.compile(
        r"\bthat (?:i|you|we|the|an?|is|are|was|were|has|have|can|will|uses?|would|could|should)\b"
        r"|\b(?:say|says|know|think|mean|means|sure|so|believe|specify|show) that\b",
        re.I,
    ),
    # What is pasted: "check this text: ..."
    re.compile(rf"\b(?:this|these)\b(?! (?:to|for|in|with|and|by)\b)[^.?!]*{_GAP}", re.I),
)
"""Pronouns that do not point to the dialogue."""


def rule_of(text: str) -> str | None:
    """The name of the first rule that says that a question depends on its dialogue; None = none.

    >>> [rule_of(text) for text in ("And its river?", "Who wrote it?", "Less formal")]
    ['continuation', 'pronoun', 'ellipsis']
    >>> rule_of("Use the code you posted above."), rule_of("Fix this text: " + "it is red. " * 5)
    ('points back', None)

    Args:
      text: A question after the first one, in `LANGUAGE`.
    """
    own = _own_words(text)
    words = normal_words(own)
    if not words or only_thanks(text):
        return None
    return next((name for name, holds in RULES.items() if holds(own, words)), None)


def _own_words(text: str) -> str:
    """The text without what the user quotes or pastes, on one line."""
    text = _QUOTE.sub(f" {_GAP} ", text[:_JUDGED_CHARS].replace("’", "'"))
    for found in _BEFORE_PASTED.finditer(text):
        if len(text[found.end() :].split()) >= _FEWEST_PASTED_WORDS:
            text = f"{text[: found.start()]} {_GAP}"
            break
    said = []
    for line in text.splitlines():
        own = "" if _CODE.search(line) else prose(line)
        said.append(own or (_GAP if line.strip() else ""))
    return " ".join(" ".join(said).split())


def _has_early_pronoun(own: str) -> bool:
    for pattern in _WITHOUT_REFERENT:
        own = pattern.sub(" _ ", own)
    first_sentence = re.split(r"(?<=[.!?])\s", own, maxsplit=1)[0]
    return not _PRONOUNS.isdisjoint(normal_words(first_sentence)[:_WORDS_BEFORE_PRONOUN])


def _leaves_words_out(own: str, words: Sequence[str]) -> bool:
    # Words of other languages would count as no verbs.
    return own.isascii() and is_elliptical(words)


RULES: Mapping[str, Callable[[str, Sequence[str]], bool]] = MappingProxyType(
    {
        "continuation": lambda own, _: _CONTINUATION.match(own) is not None,
        "points back": lambda own, _: _POINTS_BACK.search(own) is not None,
        "pronoun": lambda own, _: _has_early_pronoun(own),
        "ellipsis": _leaves_words_out,
    }
)
"""By name, in the order in which they are tried. Each gets the user's own words, as a text and as a
list from `normal_words`."""
