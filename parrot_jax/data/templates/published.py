"""Compares our rendering of a format with the Jinja template that a model's folder brings along."""

import contextlib
import functools
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import visible
from parrot_jax.data.templates.base import Template, TurnText, clean_text, whole_text
from parrot_jax.data.templates.formats import FORMATS
from parrot_jax.data.tokenizers import Tokenizer

MOST_COMPARED = 100
"""Dialogues that are compared."""

_RENDERING = Path(__file__).with_name("rendering.py")
_TIMEOUT_S = 60
_EMPTY_THINKING = re.compile(r"<think>\s*</think>\s*")
_THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_SHOWN = 60
_MOST_ERROR_CHARS = 300


def differences(
    template: Template, dialogues: Iterable[tuple[str, Sequence[TurnText]]]
) -> list[str]:
    """Names where the folder's template renders dialogues otherwise.

    It gets the texts as we render them: stripped, with special tokens broken up. A question at the
    end is left out, since some templates open the answer to it at once.

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
    compared = []
    for system, turns in dialogues:
        texts = [(turn[0], clean_text(whole_text(turn), template.control_strings))
                 for turn in turns]  # fmt: skip
        if texts and texts[-1][0] == "user":
            texts.pop()
        if texts:
            compared.append((clean_text(system, template.control_strings), texts))
    found: Counter[str] = Counter()
    rendered = _rendered(template.tokenizer, published, compared)
    for (system, texts), theirs in zip(compared, rendered, strict=True):
        found.update(_kinds(template, system, texts, theirs))
    return [f"{kind}, in {count:,} of {len(compared):,} dialogues" for kind, count in found.items()]


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


def _rendered(
    tokenizer: Tokenizer, published: str, dialogues: Sequence[tuple[str, Sequence[tuple[Any, str]]]]
) -> list[str]:
    """The dialogues as the folder's template renders them.

    Raises:
      UserError: It cannot, or needs too long.
    """
    tokens = {**tokenizer.roles, "bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    asked = {
        "template": published,
        "tokens": {name: text for name, text in tokens.items() if text is not None},
        "dialogues": [
            [*([{"role": "system", "content": system}] if system else []),
             *({"role": role, "content": text} for role, text in texts)]
            for system, texts in dialogues
        ],
    }  # fmt: skip
    found = _answer(json.dumps(asked))
    if "texts" in found:
        return found["texts"]
    reason = visible(str(found.get("error")))[:_MOST_ERROR_CHARS]
    raise UserError(
        f"the chat template of the tokenizer's folder {reason}. Correct it, or remove it "
        "(chat_template) from the folder to train without this comparison."
    )


@functools.lru_cache(maxsize=4)
def _answer(asked: str) -> dict[str, Any]:
    """Runs `rendering` in a process of its own."""
    # Without -P, the modules beside the script would hide others of the same names.
    command = [sys.executable, "-P", str(_RENDERING)]
    try:
        done = subprocess.run(
            command, input=asked, capture_output=True, encoding="utf-8", timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return {"error": f"needs more than {_TIMEOUT_S} seconds for a few dialogues"}
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"error": f"cannot render a dialogue: the process ended with {done.returncode}"}


def _kinds(
    template: Template, system: str, texts: Sequence[tuple[Any, str]], theirs: str
) -> list[str]:
    """Names the differences of one dialogue."""
    ours, said = template.text(system, texts), template.text_of_turns(system, texts)
    whole = (theirs, ours)
    kinds = []
    if theirs == ours:
        return []
    if len(_EMPTY_THINKING.findall(theirs)) > len(_EMPTY_THINKING.findall(ours)):
        kinds.append("it writes empty <think> tags")
        theirs, ours, said = (_EMPTY_THINKING.sub("", text) for text in (theirs, ours, said))
    if theirs == ours:
        return kinds
    if theirs[len(theirs.rstrip()) :] != ours[len(ours.rstrip()) :]:
        kinds.append("it ends with other white space")
        theirs, ours, said = theirs.rstrip(), ours.rstrip(), said.rstrip()
    for _ in range(2):
        if theirs == ours:
            return kinds
        if theirs.endswith(said):
            before, own = theirs.removesuffix(said), ours.removesuffix(said)
            return [*kinds, _opening(template.tokenizer.bos_token, system, before, own)]
        if system and _without(theirs, system) == _without(ours, system):
            return [*kinds, "it puts the system text elsewhere"]
        if not any("</think>" in text for role, text in texts if role == "assistant"):
            break
        kinds.append("it changes answers with <think> tags")
        texts = [(role, text.rpartition("</think>")[2] if role == "assistant" else text)
                 for role, text in texts]  # fmt: skip
        theirs = _THINKING.sub("", theirs)
        ours, said = template.text(system, texts), template.text_of_turns(system, texts)
        if "it ends with other white space" in kinds:
            ours, said = ours.rstrip(), said.rstrip()
    theirs, ours = whole
    at = next((n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b),
              min(len(theirs), len(ours)))  # fmt: skip
    raise UserError(
        f"data.template is {template.name}, but the chat template of the tokenizer's folder "
        f"renders another format: where ours has {ours[max(at - 20, 0) : at + _SHOWN]!r}, it has "
        f"{theirs[max(at - 20, 0) : at + _SHOWN]!r}. Choose the model's own format, or "
        "data.template: parrot; to teach it another format, remove chat_template from the folder."
    )


def _opening(bos: str | None, system: str, theirs: str, ours: str) -> str:
    """Names the difference of what stands before the turns."""
    if bos and theirs == bos + ours:
        return f"it opens with {bos}"
    if bos and ours == bos + theirs:
        return f"it opens without {bos}"
    if system and system not in theirs:
        return "it leaves out the system text"
    shown = visible(theirs.strip())[:_SHOWN]
    if system and len(theirs) <= len(ours):
        return f"it writes the system text otherwise, {shown!r}"
    return f"it opens with a system text of its own, {shown!r}"


def _without(text: str, system: str) -> str:
    """A rendering without its system text and the blank line behind it."""
    return text.replace(f"{system}\n\n", "", 1) if f"{system}\n\n" in text else text.replace(
        system, "", 1
    )  # fmt: skip
