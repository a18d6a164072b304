"""Held-out histories after which a model in training speaks, so that people can read along."""

from collections.abc import Sequence
from typing import NamedTuple

from parrot_jax.data.config import DataConfig, Task
from parrot_jax.data.prepare import read_split
from parrot_jax.data.templates.base import Template
from parrot_jax.dialogue.types import Role


class History(NamedTuple):
    """The beginning of a held-out dialogue, and what a person said next."""

    dialogue_id: str
    system: str
    turns: Sequence[tuple[Role, str]]
    prompt: list[int]
    """The ids of the history and of the next speaker's header."""
    truth: str
    """The text that followed."""


def held_out_histories(
    config: DataConfig, task: Task, template: Template, *, count: int, max_prompt_tokens: int
) -> list[History]:
    """The first few held-out dialogues, each cut where the model would speak.

    Args:
      config: The data of the run.
      task: `ask` cuts before a later question, `chat` before the answer to a later question.
      template: Makes the prompts.
      count: How many; fewer where there are not enough.
      max_prompt_tokens: Dialogues whose history is longer are passed over.

    Returns:
      The same histories at every call.
    """
    found: list[History] = []
    next_turn = 2 if task == "ask" else 3
    for dialogue in read_split(config, "eval"):
        turns: list[tuple[Role, str]] = [(turn.role, turn.whole) for turn in dialogue.turns]
        if len(turns) <= next_turn:
            continue
        before, truth = turns[:next_turn], dialogue.turns[next_turn].text
        prompt = template.prompt(dialogue.system, before)
        if len(prompt) <= max_prompt_tokens:
            found.append(History(dialogue.id, dialogue.system, before, prompt, truth))
        if len(found) == count:
            break
    return found
