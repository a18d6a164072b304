"""Which texts end a dialogue: each rule a setting of its own, each with a reason of its own."""

import re
from dataclasses import dataclass

from parrot_jax.api.replies import Reply
from parrot_jax.collect.dialogue_state import DialogueState, StopReason
from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StopConfig:
    """Texts that end a dialogue; what ends it is left out.

    Raises:
      UserError: A value is outside its range, or a pattern is none.
    """

    meaningless_answers: tuple[str, ...] = ()
    """Regular expressions. An answer in which one is found says nothing: it ends the dialogue, and
    is left out together with its question."""

    def __post_init__(self) -> None:
        for pattern in self.meaningless_answers:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"meaningless_answers: {pattern!r} is no regular expression: {error}."
                ) from None


class StopJudge:
    """Says why a reply ends its dialogue, if it does."""

    def __init__(self, config: StopConfig) -> None:
        """Prepares the patterns."""
        self._meaningless = tuple(map(re.compile, config.meaningless_answers))

    def __call__(self, state: DialogueState, reply: Reply) -> str | None:
        """The verdict: a `StopReason`, with `: ` and a detail where there is more to say; or None.

        Args:
          state: The dialogue before the reply.
          reply: A complete one.
        """
        if state.next_speaker == "answerer" and any(
            pattern.search(reply.text) for pattern in self._meaningless
        ):
            return StopReason.MEANINGLESS_ANSWER
        return None
