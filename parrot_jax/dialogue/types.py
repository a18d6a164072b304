"""The dialogue as every room sees it: who said what, and where it came from. Knows no tokens."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: a speaker and what was said."""

    role: Role
    text: str
    weight: float = 1.0
    """Multiplies the loss on this turn where its role is trained; 0 keeps it as context only."""
    context: str = ""
    """What stands before the text in the same turn and is never learnt: calls of tools and what
    they gave. Only an assistant's turn has one."""

    @property
    def whole(self) -> str:
        """The context and the text, as a model reads them."""
        return f"{self.context}\n\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """A conversation: the user speaks first, then both strictly in turn.

    Raises:
      ValueError: The turns are empty, do not alternate, do not start with the user, hold a blank
        text or text that is not valid Unicode, a weight is negative or not finite, or a user has a
        context.
    """

    turns: tuple[Turn, ...]
    system: str = ""
    """The instruction before the first turn; empty = none."""
    id: str = ""
    """The id the source file gave it, else `file:row`."""
    source: str = ""
    """What the row itself says under `source`, else the file it was read from."""
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Whatever else the source said about it (model, language, licence, ...)."""

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError("a dialogue needs at least one turn")
        _check_unicode("system text", self.system)
        for number, turn in enumerate(self.turns):
            expected = "user" if number % 2 == 0 else "assistant"
            if turn.role != expected:
                raise ValueError(
                    f"turn {number + 1} is by {turn.role!r}, but the turns must alternate and "
                    f"start with the user: {expected!r} was expected"
                )
            if not turn.text.strip():
                raise ValueError(f"turn {number + 1} is blank")
            if not 0 <= turn.weight < math.inf:
                raise ValueError(
                    f"turn {number + 1} has weight {turn.weight}; it must be finite and >= 0"
                )
            if turn.context and turn.role == "user":
                raise ValueError(f"turn {number + 1} is the user's and has a context")
            _check_unicode(f"turn {number + 1}", turn.whole)

    @property
    def num_rounds(self) -> int:
        """Questions in the dialogue: what the papers count as its turns."""
        return (len(self.turns) + 1) // 2

    def questions(self) -> list[str]:
        """The texts of the user's turns."""
        return [turn.text for turn in self.turns if turn.role == "user"]

    def messages(self) -> list[dict[str, str]]:
        """The dialogue as OpenAI-style messages, the system text first where there is one."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return system + [{"role": turn.role, "content": turn.whole} for turn in self.turns]

    def content_hash(self) -> bytes:
        """SHA-256 of what is said (system text, roles, texts), whatever the id and the source."""
        digest = hashlib.sha256()
        for part in (self.system, *(turn.whole for turn in self.turns)):
            encoded = part.encode("utf-8")
            # The length keeps "ab", "c" apart from "a", "bc"; the roles follow from the order.
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.digest()


def _check_unicode(where: str, text: str) -> None:
    # JSON can hold half of a surrogate pair, which no tokenizer accepts.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the {where} is not valid Unicode: {error.reason}") from None
