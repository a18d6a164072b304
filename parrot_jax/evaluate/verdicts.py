"""Reads a judge's text: a grade from 1 to 10, or which of two models is better."""

from typing import NamedTuple

from parrot_jax.api.brackets import letter_in_brackets, number_in_brackets

SCALE = (1.0, 10.0)
"""The lowest and the highest grade that the prompts of MT-Bench allow."""

# Assistant A is model 1 in the first order, and model 2 in the second.
_ORDERS = (
    {"A": "model_1", "B": "model_2", "C": "tie"},
    {"A": "model_2", "B": "model_1", "C": "tie"},
)


class Verdict(NamedTuple):
    """What a judge's text says."""

    value: float | str | None
    """A grade, or `model_1`, `model_2` or `tie`; None = it says nothing clear."""
    reason: str = ""
    """Why the value is None."""


def read_grade(text: str, *, or_single: bool = False) -> Verdict:
    """The grade in a text; see `number_in_brackets`."""
    found = number_in_brackets(text, *SCALE, or_single=or_single)
    return Verdict(found.number, found.reason)


def read_comparison(text: str, order: int) -> Verdict:
    """The better model in a text.

    Args:
      text: The judge's.
      order: 0 = model 1 was assistant A, 1 = model 2 was.

    >>> read_comparison("Shorter, but right: [[A]]", 1)
    Verdict(value='model_2', reason='')
    """
    letter, reason = letter_in_brackets(text, "ABC")
    return Verdict(_ORDERS[order].get(letter), reason)
