"""Text from outside, as Markdown shows it."""

import re
from typing import Any


def code(text: Any) -> str:
    """A value as inline code: in one line, and with nothing in it that Markdown would act on.

    >>> code("a *b*")
    '`a *b*`'
    >>> code("a `b`")
    '`` a `b` ``'
    """
    flat = " ".join(str(text).split())
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def cell(text: Any) -> str:
    r"""The same for the cell of a table, which a bar would end.

    >>> print(cell("a|b"))
    `a\|b`
    """
    return code(text).replace("|", "\\|")
