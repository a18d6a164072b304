"""The requests for each kind of negative: a prompt, and how much of the dialogue is given.

neglect           the question alone
hallucination     the question alone, with the order to guess what it refers to
misunderstanding  the dialogue and the question, with the order to answer from an irrelevant part

The prompt replaces the question as the last message; the dialogue's system message stays.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from parrot_jax.api.prompts import Prompt, load_prompt, packaged_prompt
from parrot_jax.core.errors import UserError
from parrot_jax.negatives.negatives_config import KINDS, Kind
from parrot_jax.negatives.questions import Question

_PACKAGED: Mapping[Kind, str] = {
    "neglect": "neglect_v1.jinja",
    "hallucination": "hallucination_v1.jinja",
    "misunderstanding": "misunderstanding_v1.jinja",
}
"""The version number of a file changes with its text."""

_SEES_DIALOGUE: Mapping[Kind, bool] = {
    "neglect": False, "hallucination": False, "misunderstanding": True,
}  # fmt: skip


def load_prompts(replaced: Mapping[str, str]) -> dict[str, Prompt]:
    """Loads the prompt of each kind.

    Args:
      replaced: Paths by kind; the others are those of the package.

    Raises:
      UserError: See `load_prompt`; or a prompt does not contain the question.
    """
    return {
        kind: _load(replaced[kind])
        if kind in replaced
        else packaged_prompt("parrot_jax.negatives", _PACKAGED[kind])
        for kind in KINDS
    }


def _load(path: str) -> Prompt:
    prompt = load_prompt(path, question="?")
    if prompt.render(question="one") == prompt.render(question="two"):
        raise UserError(
            f"the prompt {path} does not contain the question; write {{{{ question }}}} where it "
            "belongs."
        )
    return prompt


@dataclass(frozen=True)
class Negative:
    """A negative to be written."""

    question: Question
    kind: Kind
    prompt: Prompt

    @property
    def id(self) -> str:
        """The id of its pair."""
        return f"{self.question.dialogue.id}/{self.question.turn}/{self.kind}"

    @property
    def group(self) -> str:
        """The kind."""
        return self.kind

    def input(self) -> str:
        """The item in the journal; the texts are in its request."""
        content = {"negative": self.id, "sha256": self.question.sha256}
        return json.dumps(content, ensure_ascii=False)

    def requests(self) -> list[list[dict[str, str]]]:
        """Its only request."""
        asked = {"role": "user", "content": self.prompt.render(question=self.question.text)}
        if _SEES_DIALOGUE[self.kind]:
            return [[*self.question.messages()[:-1], asked]]
        return [[*self.question.system, asked]]
