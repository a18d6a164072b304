"""The Jinja environment of all pages: escaping, and text that a page can show."""

from typing import Any

import jinja2
from markupsafe import Markup

from parrot_jax.report.texts import fit_text


def make_environment(*packages: str) -> jinja2.Environment:
    """Returns an environment that loads templates from the first package that has them.

    Args:
      packages: Names of packages with a folder `templates`.
    """
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_fit,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _fit(value: Any) -> Any:
    """Applies `fit_text` to all text but the output of macros, where it was applied already."""
    return fit_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value
