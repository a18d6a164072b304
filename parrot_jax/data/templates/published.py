"""Compares our rendering of a format with the Jinja template that a model's folder brings along."""

import contextlib
import datetime
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import visible
from parrot_jax.data.templates.base import Template, TurnText, clean_text, whole_text
from parrot_jax.data.templates.formats import FORMATS
from parrot_jax.data.tokenizers import Tokenizer

MOST_COMPARED = 100
"""Dialogues that are compared."""

_THINKING = re.compile(r"<think>\s*</think>\s*")
_SHOWN = 60


def differences(
    template: Template, dialogues: Iterable[tuple[str, Sequence[TurnText]]]
) -> list[str]:
    """Names where the folder's template renders dialogues otherwise.

    It gets the texts as we render them: stripped, with special tokens broken up.

    Args:
      template: Not `parrot`, which is meant to differ.
      dialogues: System text and turns of each.

    Returns:
      The known kinds of differences, each with the number of dialogues; empty if there is none, or
      the folder has no template.

    Raises:
      UserError: A dialogue differs otherwise, so the model knows another format.
    """
    published = template.tokenizer.chat_template
    ours = (template.chat_template("ask"), template.chat_template("chat"))
    if template.name == "parrot" or published is None or published in ours:
        return []
    render = _compiled(published)
    found: Counter[str] = Counter()
    total = 0
    for system, turns in dialogues:
        total += 1
        texts = [(turn[0], clean_text(whole_text(turn), template.control_strings))
                 for turn in turns]  # fmt: skip
        system = clean_text(system, template.control_strings)
        messages = [{"role": role, "content": text} for role, text in texts]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        tokens = {"bos_token": template.tokenizer.bos_token or "",
                  "eos_token": template.tokenizer.eos_token}  # fmt: skip
        try:
            theirs = render.render(messages=messages, add_generation_prompt=False, **tokens)
        except Exception as error:  # a template may do anything
            raise UserError(
                f"the chat template of the tokenizer's folder cannot render a dialogue: {error}. "
                "Remove it (chat_template) from the folder to train without this comparison."
            ) from None
        found.update(_kinds(template, system, texts, theirs))
    return [f"{kind}, in {count:,} of {total:,} dialogues" for kind, count in found.items()]


def native_format(tokenizer: Tokenizer) -> str | None:
    """The format that the chat template of a tokenizer's folder writes, if we have it."""
    said: list[TurnText] = [("user", "Hi."), ("assistant", "Yes?"), ("user", "Bye."),
                            ("assistant", "Bye.")]  # fmt: skip
    if tokenizer.chat_template is None:
        return None
    for name, layout in FORMATS.items():
        with contextlib.suppress(UserError):
            if name != "parrot":
                differences(Template(name, layout, tokenizer), [("", said), ("Be brief.", said)])
                return name
    return None


def _kinds(
    template: Template, system: str, texts: Sequence[tuple[Any, str]], theirs: str
) -> list[str]:
    """Names the differences of one dialogue."""
    ours = template.text(system, texts)
    kinds = []
    if theirs == ours:
        return []
    if (plain := _THINKING.sub("", theirs)) != theirs:
        kinds.append("it writes empty <think> tags")
        theirs = plain
    if theirs.rstrip() == ours.rstrip() and theirs != ours:
        return [*kinds, "it ends with other white space"]
    if theirs == ours:
        return kinds
    said = template.text_of_turns(system, texts)
    if theirs.endswith(said):
        before = theirs[: len(theirs) - len(said)]
        shown = visible(before.strip())[:_SHOWN]
        kinds.append(f"it opens with a system text of its own, {shown!r}")
        return kinds
    if system and _without(theirs, system) == _without(ours, system):
        return [*kinds, "it puts the system text elsewhere"]
    at = next((n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b),
              min(len(theirs), len(ours)))  # fmt: skip
    raise UserError(
        f"data.template is {template.name}, but the chat template of the tokenizer's folder "
        f"renders another format: where ours has {ours[max(at - 20, 0) : at + _SHOWN]!r}, it has "
        f"{theirs[max(at - 20, 0) : at + _SHOWN]!r}. Choose the model's own format, or "
        "data.template: parrot; to teach it another format, remove chat_template from the folder."
    )


def _without(text: str, system: str) -> str:
    """A rendering without its system text and the blank line behind it."""
    return text.replace(f"{system}\n\n", "", 1) if f"{system}\n\n" in text else text.replace(
        system, "", 1
    )  # fmt: skip


def _compiled(published: str) -> jinja2.Template:
    """Compiles a template as transformers does, in a sandbox."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )

    def refuse(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda pattern: datetime.datetime.now().strftime(pattern),
    }
    # transformers' marks of the assistant's text, without effect on it.
    published = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", published)
    try:
        return environment.from_string(published)
    except jinja2.TemplateError as error:
        raise UserError(
            f"the chat template of the tokenizer's folder is not valid: {error}. Correct it, or "
            "remove it (chat_template) from the folder."
        ) from None
