"""Pages of Markdown from templates, and text from outside as Markdown shows it."""

import re
from pathlib import Path
from typing import Any

from parrot_jax.core.logs import visible


def render(template: Path, **values: Any) -> str:
    """Fills in a Jinja2 template; a slot without a value is an error.

    Nothing is escaped by itself, as the page is not HTML: what comes from outside goes through the
    filters `code` and `cell`, which are the functions below.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(code=code, cell=cell)
    return environment.get_template(template.name).render(**values)


def escape(text: str) -> str:
    r"""Text of any origin as one line or cell of a table, in which nothing is markup.

    >>> print(escape("a *b* | c"))
    a \*b\* \| c
    """
    line = " ".join(visible(text).split())
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#" else char for char in line)


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
