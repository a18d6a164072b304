"""Texts of any origin, made fit for a page."""

import re

from parrot_jax.core.logs import visible

# Halves of surrogate pairs, which UTF-8 does not have, and two code points that XML does not.
_UNFIT = re.compile("[\ud800-\udfff\ufffe\uffff]")


def fit_text(text: str) -> str:
    r"""Text as XML and UTF-8 can hold it; it still has to be escaped.

    >>> fit_text("a\x00b\ud800")
    'a␀b\ufffd'
    """
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", visible(text))
