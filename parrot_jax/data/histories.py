"""Held-out histories after which a model in training speaks, so that people can read along.

They are chosen while the eval split is prepared and stored with its rows: an evaluation reads no
source again.
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
"""Histories a task."""

_NEXT_TURN: dict[Task, int] = {"ask": 2, "chat": 3}
"""The turn that the model gives: the second question, or the answer to it."""


class History(NamedTuple):
    """The beginning of a held-out dialogue, and what a person said next."""

    dialogue_id: str
    prompt: list[int]
    """The ids of the history and of the next speaker's header."""
    truth: str
    """The text that followed."""


class Histories:
    """Picks the first few dialogues that are long enough, each cut where the model would speak.

    Attributes:
      found: For each task the fields of its histories.
    """

    def __init__(self, template: Template, max_prompt_tokens: int) -> None:
        """Picks nothing yet.

        Args:
          template: Makes the prompts.
          max_prompt_tokens: A dialogue with a longer history is skipped.
        """
        self._template, self._max_prompt_tokens = template, max_prompt_tokens
        self.found: dict[Task, list[dict[str, Any]]] = {task: [] for task in _NEXT_TURN}

    def watch(self, dialogues: Iterable[Dialogue]) -> Iterator[Dialogue]:
        """Passes all dialogues on, and looks at them until there are enough histories."""
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
    """Reads what `Histories` found.

    Args:
      path: The file of a prepared split.
      task: `ask` has histories that end before a later question, `chat` before its answer.
      max_prompt_tokens: Of those whose prompt is longer none is given; a model may be shorter than
        the rows.
    """
    histories = [History(**fields) for fields in json.loads(path.read_text("utf-8"))[task]]
    return [history for history in histories if len(history.prompt) <= max_prompt_tokens]
