"""Instructions for models that were not trained for their part: files, strictly filled in."""

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parrot_jax.collect.config import CollectConfig
from parrot_jax.collect.dialogue_state import Speak, Speaker
from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input

if TYPE_CHECKING:
    import jinja2


@dataclass(frozen=True)
class Prompt:
    """An instruction as a Jinja2 template."""

    path: str
    text: str

    @property
    def sha256(self) -> str:
        """Of the text, in hexadecimal: by it a dialogue says what made it."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def render(self, *, first_question: str, max_turns: int) -> str:
        """The instruction for one dialogue."""
        return self._template.render(first_question=first_question, max_turns=max_turns).strip()

    @functools.cached_property
    def _template(self) -> "jinja2.Template":
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        return ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined).from_string(
            self.text
        )


def load_prompt(path: str) -> Prompt:
    """Reads a prompt and tries it, so that nothing is sent before it is known to work.

    Raises:
      UserError: The file cannot be read, is empty, is no template, or names an unknown slot.
    """
    import jinja2

    with open_input(path) as file:
        try:
            prompt = Prompt(path, file.read())
        except UnicodeDecodeError as error:
            raise UserError(f"the prompt {path} is not UTF-8: {error.reason}.") from None
    try:
        rendered = prompt.render(first_question="?", max_turns=1)
    except jinja2.TemplateError as error:
        raise UserError(
            f"the prompt {path} cannot be filled in: {error.message}; its slots are "
            "first_question and max_turns."
        ) from None
    if not rendered:
        raise UserError(f"the prompt {path} is empty.")
    return prompt


def load_prompts(config: CollectConfig) -> dict[str, Prompt]:
    """The prompts of the speakers that have one; errors are those of `load_prompt`."""
    speakers = config.speakers().items()
    return {name: load_prompt(speaker.prompt) for name, speaker in speakers if speaker.prompt}


def messages_for(
    step: Speak, speaker: Speaker, prompt: Prompt | None, *, max_turns: int
) -> list[dict[str, str]]:
    """The messages of a request: what the speaker is shown, with its instruction.

    The instruction of an asker comes last, as a user's message: in front, a chat model soon forgets
    that it plays the user, and answers. That of an answerer is the system's.
    """
    messages = step.shown.messages()
    if prompt is None:
        return messages
    text = prompt.render(first_question=step.shown.turns[0].text, max_turns=max_turns)
    if speaker == "writer":
        return [{"role": "user", "content": text}]
    if speaker == "asker":
        return [*messages, {"role": "user", "content": text}]
    rest = messages[1:] if step.shown.system else messages
    return [
        {"role": "system", "content": "\n\n".join(filter(None, (text, step.shown.system)))},
        *rest,
    ]
