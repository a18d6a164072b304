"""Cleans untrusted text for a page."""

import re

from parrot_jax.core.logs import visible

# Two code points that XML forbids.
_UNFIT = re.compile("[\ufffe\uffff]")


def fit_text(text: str) -> str:
    r"""Replaces characters that XML or UTF-8 cannot represent. The result must still be escaped.

    >>> fit_text("a\x00b\ud800")
    'a␀b\ufffd'
    """
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", visible(text))
