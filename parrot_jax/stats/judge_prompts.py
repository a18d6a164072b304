"""The judge's prompts, and the parsing of its replies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from parrot_jax.api.brackets import number_in_brackets
from parrot_jax.api.prompts import Prompt, packaged_prompt
from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.stats.sessions import Session


@dataclass(frozen=True, kw_only=True)
class JudgedMeasure:
    """A measure that a judge counts in a session."""

    name: str
    prompt: str
    """The prompt's file in the package; its version number changes with its text."""
    range_of: Callable[[Session], tuple[int, int]]
    """The smallest and the largest possible number."""
    definition: str

    def load(self) -> Prompt:
        """Loads the prompt of this measure."""
        return packaged_prompt("parrot_jax.stats", self.prompt)


JUDGED: Mapping[str, JudgedMeasure] = MappingProxyType(
    {
        "topics": JudgedMeasure(
            name="topics",
            prompt="topics_v2.txt",
            range_of=lambda session: (1, len(session.questions)),
            definition="distinct topics of a session; each question has one",
        ),
        "ref_count": JudgedMeasure(
            name="RefCount",
            prompt="references_v2.txt",
            # At most one per character: a bound that also holds for scripts without spaces.
            range_of=lambda session: (0, sum(map(len, session.questions))),
            definition="references in a session's questions to earlier turns",
        ),
        "context_dependent": JudgedMeasure(
            name="context-dependent",
            prompt="context_dependent_v2.txt",
            range_of=lambda session: (0, len(session.questions) - 1),
            definition="questions of a session that cannot be understood alone",
        ),
    }
)
"""By key in `stats.json`. A measure's index is the `step` of its requests in the journal."""


def messages_about(session: Session, prompt: Prompt) -> list[dict[str, str]]:
    r"""Returns the messages to the judge about a session.

    >>> messages_about(Session(("Why?", "How?")), Prompt("", "Look: {{ questions }}"))
    [{'role': 'user', 'content': 'Look: [1] Why?\n\n[2] How?'}]
    """
    numbered = (f"[{number}] {text}" for number, text in enumerate(session.questions, 1))
    return [{"role": "user", "content": prompt.render(questions="\n\n".join(numbered))}]


class Judgment(NamedTuple):
    """A judge's result for a session: a number, or the reason why it is missing."""

    number: int | None
    reason: str = ""
    """Empty if there is a number."""


def read_reply(reply: Reply, allowed: tuple[int, int]) -> Judgment:
    """Parses a reply. Without exactly one number in the range there is no result, rather than 0.

    Numbers in the judge's reasoning are ignored.

    >>> read_reply(Reply(Outcome.COMPLETE, "Food, travel: [[2]]"), (1, 3))
    Judgment(number=2, reason='')
    >>> read_reply(Reply(Outcome.COMPLETE, "There are 2."), (1, 3)).reason
    'no [[number]] in the reply'
    """
    if reply.outcome is not Outcome.COMPLETE:
        return Judgment(None, f"the reply is {reply.outcome.value}")
    found = number_in_brackets(reply.text, *allowed, whole=True)
    return Judgment(None if found.number is None else int(found.number), found.reason)
