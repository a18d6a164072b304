"""Reads a judge's number or letter in double brackets, strictly: `Rating: [[7]]`, `[[A]]`."""

import re
from typing import NamedTuple

from parrot_jax.dialogue.reasoning import split_reasoning

_DOUBLE = re.compile(r"\[\[([^\[\]]*)\]\]")
_SINGLE = re.compile(r"(?<!\[)\[([^\[\]]*)\](?!\])")
_NUMBER = re.compile(r"-?[0-9]{1,6}(?:\.[0-9]{1,6})?")


class Found(NamedTuple):
    """A number, or why it is missing."""

    number: float | None
    reason: str = ""
    """Empty if there is a number."""


def number_in_brackets(
    text: str, least: float, most: float, *, whole: bool = False, or_single: bool = False
) -> Found:
    """The one number in double brackets of a judge's reply.

    Reasoning at the start of the reply is ignored, and so are brackets without a digit, because
    judges quote the requested format (`[[rating]]`). The same number may appear twice.

    Args:
      text: The reply.
      least: The smallest valid number.
      most: The largest.
      whole: Whether 7.5 is invalid.
      or_single: Whether `[7]` counts if there are no double brackets, as in FastChat.

    >>> number_in_brackets("Good, but short. Rating: [[7]]", 1, 10)
    Found(number=7.0, reason='')
    >>> number_in_brackets("First [[3]], then [[8]].", 1, 10).reason
    'several [[numbers]] in the reply'
    >>> number_in_brackets("Rating: [[11]]", 1, 10).reason
    'a number out of range'
    """
    verdict = split_reasoning(text).text
    found = _with_digits(_DOUBLE, verdict)
    if not found and or_single:
        found = _with_digits(_SINGLE, verdict)
    if not found:
        return Found(None, "no [[number]] in the reply" if text.strip() else "an empty reply")
    if not all(map(_NUMBER.fullmatch, found)):
        return Found(None, "no plain number in the brackets")
    numbers = {float(said) for said in found}
    if len(numbers) > 1:
        return Found(None, "several [[numbers]] in the reply")
    (number,) = numbers
    if not least <= number <= most:
        return Found(None, "a number out of range")
    if whole and not number.is_integer():
        return Found(None, "no whole number in the brackets")
    return Found(number)


def letter_in_brackets(text: str, letters: str) -> tuple[str, str]:
    """The one letter in double brackets of a judge's reply, and why it is missing.

    >>> letter_in_brackets("Both are fine. [[C]]", "ABC")
    ('C', '')
    >>> letter_in_brackets("[[A]] or [[B]]", "ABC")
    ('', 'several verdicts in the reply')
    """
    verdict = split_reasoning(text).text
    found = [said.strip() for said in _DOUBLE.findall(verdict)]
    valid = sorted({said for said in found if len(said) == 1 and said in letters})
    if len(valid) == 1:
        return valid[0], ""
    if valid:
        return "", "several verdicts in the reply"
    if not text.strip():
        return "", "an empty reply"
    return "", f"no [[{']], [['.join(letters)}]] in the reply"


def _with_digits(brackets: re.Pattern[str], text: str) -> list[str]:
    return [said.strip() for said in brackets.findall(text) if re.search(r"\d", said)]
