"""The Jinja chat template of a format, for transformers and vLLM."""

import json
from collections.abc import Sequence
from pathlib import Path

from parrot_jax.data.data_config import Task
from parrot_jax.data.templates.formats import Format, Part

_JINJA = Path(__file__).with_name("chat.jinja")


def jinja_of(layout: Format, task: Task, controls: Sequence[str], *, has_bos: bool) -> str:
    """Writes the template.

    Args:
      layout: The format.
      task: The speaker of `add_generation_prompt`.
      controls: Texts that are broken up.
      has_bos: Whether the tokenizer has a `bos_token`.
    """

    def quoted(text: str) -> str:
        text = text.replace("{bos}", "\0bos_token\0" if has_bos else "")
        pieces = text.replace("{eos}", "\0eos_token\0").split("\0")
        terms = [name if number % 2 else json.dumps(name)
                 for number, name in enumerate(pieces) if name]  # fmt: skip
        return " + ".join(terms) or "''"

    def said(part: Part, text: str = "text") -> str:
        lead = f"{quoted(part.lead)} + {text}" if part.lead else text
        if part.lead and not layout.leads_empty:
            lead = f"({lead} if {text} else '')"
        return f"{quoted(part.header)} + {lead} + {quoted(part.end + part.tail)}"

    system, first = layout.system, "''"
    opening = "{{- " + said(system) + " -}}"
    if layout.system_opens:
        opening = "{%- set turns.system = text -%}"
        lead = Part("", system.tail, layout.user.end, layout.user.tail)
        first = f"{said(Part(system.header, '', system.end), 'turns.system')} + {said(lead)}"
    if task == "ask":
        # Without turns, an asker's prompt is the user header: it opens the dialogue.
        out_of_turn, speaker = "turns.last == 'user'", layout.user
        wrong = (
            "this model asks the next question, so the last message must be an assistant message"
        )
    else:
        out_of_turn, speaker = "turns.last != 'user'", layout.assistant
        wrong = "this model answers, so the last message must be a user message"
    values = {
        "@BEGIN": quoted(layout.begin),
        "@CONTROLS": json.dumps(list(controls)),
        "@SYSTEM": opening,
        "@FIRST": first,
        "@USER": said(layout.user),
        "@ASSISTANT": said(layout.assistant),
        "@OUT_OF_TURN": out_of_turn,
        "@WRONG": wrong,
        "@SPEAKER": quoted(speaker.header),
    }
    template = _JINJA.read_text(encoding="utf-8")
    for name, value in values.items():
        template = template.replace(name, value)
    return template
