"""Prompts for models that were not trained for their task: Jinja2 templates, rendered strictly."""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input

if TYPE_CHECKING:
    import jinja2


@dataclass(frozen=True)
class Prompt:
    """A Jinja2 template.

    >>> Prompt("hello.jinja", "Hello {{ name }}!").render(name="Ada")
    'Hello Ada!'
    """

    path: str
    """Where it was read from; stored beside its text, never read again."""
    text: str

    @property
    def sha256(self) -> str:
        """The hash of the text, in hexadecimal; stored to identify the prompt."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def record(self) -> dict[str, str]:
        """The journal's record of the prompt."""
        return {"path": self.path, "sha256": self.sha256, "text": self.text}

    def render(self, **slots: object) -> str:
        """The rendered text, stripped.

        Args:
          **slots: A value for each variable of the template. A missing one raises jinja2's
            `UndefinedError`; `load_prompt` finds that before anything is sent.
        """
        return self._template.render(**slots).strip()

    @functools.cached_property
    def _template(self) -> "jinja2.Template":
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        return ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined).from_string(
            self.text
        )


def load_prompt(path: str, **examples: object) -> Prompt:
    """Reads a prompt and renders it once, to find errors before anything is sent.

    Args:
      path: The file.
      **examples: Its variables by name, each with an example value.

    Raises:
      UserError: The file cannot be read, is empty, is not a template, or has an unknown variable.
    """
    import jinja2

    with open_input(path) as file:
        try:
            prompt = Prompt(path, file.read())
        except UnicodeDecodeError as error:
            raise UserError(f"the prompt {path} is not UTF-8: {error.reason}.") from None
    try:
        rendered = prompt.render(**examples)
    except jinja2.TemplateError as error:
        raise UserError(
            f"the prompt {path} cannot be rendered: {error.message}; its variables are "
            f"{' and '.join(examples)}."
        ) from None
    if not rendered:
        raise UserError(f"the prompt {path} is empty.")
    return prompt


def packaged_prompt(package: str, name: str) -> Prompt:
    """A prompt that ships in the `templates` folder of a package."""
    file = resources.files(package) / "templates" / name
    return Prompt(name, file.read_text(encoding="utf-8"))


def records_of(prompts: Mapping[str, Prompt]) -> dict[str, dict[str, str]]:
    """The journal's records of prompts."""
    return {name: prompt.record() for name, prompt in prompts.items()}


def changed_prompts(
    old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """Yields the prompts whose text differs, for an error; both are records of a journal."""
    for name in {**old, **new}:
        was, is_now = (records.get(name, {}).get("sha256", "none") for records in (old, new))
        if was != is_now:
            yield f"{name}.prompt_text: sha256 {was[:8]} -> {is_now[:8]}"
