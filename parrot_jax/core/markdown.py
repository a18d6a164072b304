"""Markdown pages from templates, and escaping of untrusted text in them."""

import re
from pathlib import Path
from typing import Any

from parrot_jax.core.logs import visible


def render(template: Path, **values: Any) -> str:
    """Renders a Jinja2 template; an undefined variable is an error.

    Autoescaping is off, because the page is not HTML: templates pass untrusted text through the
    filters `code` and `cell`, the functions below.
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
    r"""Escapes untrusted text for one line or table cell.

    >>> print(escape("a *b* | c"))
    a \*b\* \| c
    """
    line = " ".join(visible(text).split())
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#" else char for char in line)


def code(text: Any) -> str:
    """Formats a value as inline code in one line; Markdown in it has no effect.

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
    r"""Formats a value as inline code for a table cell, with `|` escaped.

    >>> print(cell("a|b"))
    `a\|b`
    """
    return code(text).replace("|", "\\|")
