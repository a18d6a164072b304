"""The types that all packages use: `Dialogue` and `Turn`, as text with roles and origin."""

import copyreg
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: a role and a text."""

    role: Role
    text: str
    weight: float = 1.0
    """Multiplies the loss on this turn if its role is trained; 0 makes it context only."""
    context: str = ""
    """Text before `text` in the same turn that is never trained on: tool calls and results. Only
    assistant turns have one."""

    @property
    def whole(self) -> str:
        """The context and the text, as shown to a model."""
        return f"{self.context}\n\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """A conversation that starts with the user and alternates strictly.

    Raises:
      ValueError: The turns are empty, do not alternate, do not start with the user, have a blank
        text or text that is not valid Unicode, a weight is negative or not finite, a user turn has
        a context, or `rejected` is not another answer.
    """

    turns: tuple[Turn, ...]
    system: str = ""
    """The instruction before the first turn; empty = none."""
    id: str = ""
    """The id from the source file, else `file:row`."""
    source: str = ""
    """The row's `source`, else the file it was read from."""
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Other keys of the row (model, language, licence, ...)."""
    rejected: Turn | None = None
    """In a preference pair, a worse answer than the last turn, which is the chosen one."""

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
        if self.rejected is not None:
            if self.turns[-1].role != "assistant" or self.rejected.role != "assistant":
                raise ValueError("a preference pair must end with two answers")
            if not self.rejected.text.strip():
                raise ValueError("the rejected answer is blank")
            _check_unicode("rejected answer", self.rejected.whole)

    @property
    def num_rounds(self) -> int:
        """Number of questions; the papers call these turns."""
        return (len(self.turns) + 1) // 2

    def questions(self) -> list[str]:
        """The texts of the user turns."""
        return [turn.text for turn in self.turns if turn.role == "user"]

    def messages(self) -> list[dict[str, str]]:
        """The dialogue as OpenAI-style messages, with the system text first if there is one."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return system + [{"role": turn.role, "content": turn.whole} for turn in self.turns]

    def texts(self) -> list[str]:
        """All texts: the system text, the turns in order, and the rejected answer of a pair."""
        turns = (*self.turns, *([self.rejected] if self.rejected else []))
        return [self.system, *(turn.whole for turn in turns)]

    def content_hash(self) -> bytes:
        """SHA-256 of the content (system text, all turns), independent of id and source."""
        digest = hashlib.sha256()
        for part in self.texts():
            encoded = part.encode("utf-8")
            # The length distinguishes "ab", "c" from "a", "bc"; the roles follow from the order.
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.digest()


def is_unicode(text: str) -> bool:
    r"""Whether a text is valid Unicode. JSON can contain lone halves of surrogate pairs.

    >>> is_unicode("é"), is_unicode("\ud83d")
    (True, False)
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_unicode(where: str, text: str) -> None:
    # JSON can contain lone surrogates, which no tokenizer accepts.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the {where} is not valid Unicode: {error.reason}") from None


def _read_only(values: dict[str, Any]) -> MappingProxyType[str, Any]:
    return MappingProxyType(values)


# So that dialogues can be pickled, to be sent to other processes.
copyreg.pickle(MappingProxyType, lambda proxy: (_read_only, (dict(proxy),)))
