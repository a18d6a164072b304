"""Held-out histories from which a model in training generates sample texts.

They are chosen when the eval split is prepared and stored with its rows, so that an evaluation need
not read the sources again.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from parrot_jax.data.data_config import Task
from parrot_jax.data.templates.base import Template
from parrot_jax.dialogue.types import Dialogue, Role

HISTORIES = "histories.json"

_MOST = 5
"""Histories per task."""

_NEXT_TURN: dict[Task, int] = {"ask": 2, "chat": 3}
"""The turn that the model generates: the second question, or its answer."""


class History(NamedTuple):
    """The beginning of a held-out dialogue, and its next turn."""

    dialogue_id: str
    prompt: list[int]
    """Token ids of the history and of the next speaker's header."""
    truth: str
    """The text of the next turn."""


class Histories:
    """Picks the first few dialogues that are long enough, cut before the turn to generate.

    Attributes:
      found: By task, the fields of its histories.
    """

    def __init__(self, template: Template, max_prompt_tokens: int) -> None:
        """Starts without histories.

        Args:
          template: Makes the prompts.
          max_prompt_tokens: Dialogues with a longer history are skipped.
        """
        self._template, self._max_prompt_tokens = template, max_prompt_tokens
        self.found: dict[Task, list[dict[str, Any]]] = {task: [] for task in _NEXT_TURN}

    def watch(self, dialogues: Iterable[Dialogue]) -> Iterator[Dialogue]:
        """Yields all dialogues unchanged, and picks histories until there are enough."""
        for dialogue in dialogues:
            for task, found in self.found.items():
                if len(found) < _MOST and (history := self._cut(dialogue, _NEXT_TURN[task])):
                    found.append(history._asdict())
            yield dialogue

    def _cut(self, dialogue: Dialogue, next_turn: int) -> History | None:
        if len(dialogue.turns) <= next_turn:
            return None
        before: list[tuple[Role, str]] = [(t.role, t.whole) for t in dialogue.turns[:next_turn]]
        prompt = list(self._template.prompt(dialogue.system, before))
        if len(prompt) > self._max_prompt_tokens:
            return None
        return History(dialogue.id, prompt, dialogue.turns[next_turn].text)


def read_histories(path: Path, task: Task, *, max_prompt_tokens: int) -> list[History]:
    """Reads the stored histories.

    Args:
      path: The file of a prepared split.
      task: `ask` histories end before a later question, `chat` histories before its answer.
      max_prompt_tokens: Longer prompts are skipped, since a model's context may be shorter than the
        rows.
    """
    histories = [History(**fields) for fields in json.loads(path.read_text("utf-8"))[task]]
    return [history for history in histories if len(history.prompt) <= max_prompt_tokens]
