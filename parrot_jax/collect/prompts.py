"""The prompts of a collection's speakers, and their place among the messages."""

from parrot_jax.api.prompts import Prompt, load_prompt
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.dialogue_state import Speak, Speaker


def load_prompts(config: CollectConfig) -> dict[str, Prompt]:
    """Loads the prompts of the speakers that have one.

    Raises:
      UserError: See `load_prompt`; the variables are `first_question` and `max_turns`.
    """
    return {
        name: load_prompt(speaker.prompt, first_question="?", max_turns=1)
        for name, speaker in config.speakers().items()
        if speaker.prompt
    }


def messages_for(
    step: Speak, speaker: Speaker, prompt: Prompt | None, *, max_turns: int
) -> list[dict[str, str]]:
    """The messages of a request: the visible dialogue and the speaker's instruction.

    An asker's instruction comes last, as a user message: if it came first, a chat model would soon
    forget that it plays the user, and answer. An answerer's instruction is the system message.
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
