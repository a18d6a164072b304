"""What every chat format provides: ids with spans for training, prompts, and a Jinja text."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import AnyPath
from parrot_jax.data.data_config import Task
from parrot_jax.data.tokenizers import Tokenizer
from parrot_jax.dialogue.types import Role

TurnText: TypeAlias = tuple[Role, str] | tuple[Role, str, str]
"""Speaker, text and, where an answer has one, the context that stands before the text."""


class RenderedTurn(NamedTuple):
    """The ids of one turn: header, content, terminator."""

    ids: list[int]
    num_header: int
    """Ids of the header."""
    num_context: int = 0
    """Ids of the context, with which the content begins."""

    @property
    def num_dead(self) -> int:
        """Ids of header and context; the rest, text and terminator, is what a loss may see."""
        return self.num_header + self.num_context


class Rendering(NamedTuple):
    """The ids of a dialogue: `prefix` (BOS and the system text), then the turns."""

    prefix: list[int]
    turns: list[RenderedTurn]

    def ids(self) -> list[int]:
        """All ids in order."""
        return [*self.prefix, *(index for turn in self.turns for index in turn.ids)]


class Template(abc.ABC):
    """A chat format over a tokenizer.

    A subclass says how a turn begins (`header`), how dialogues become ids (`render`) and how
    transformers and vLLM render the same (`chat_template`). `data.template` names it.

    Attributes:
      name: As `data.template` has it.
      tokenizer: Its vocabulary.
      stop_ids: Ids that end a turn.
      control_strings: Texts that would become special tokens; `render` breaks them.
      cut_mark: Ids that stand where the beginning of a text was cut off.
    """

    name: ClassVar[str]

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Takes the vocabulary."""
        self.tokenizer = tokenizer
        self.stop_ids: tuple[int, ...] = (tokenizer.eos_id,)
        self.control_strings = tokenizer.control_strings
        (self.cut_mark,) = tokenizer.encode_pieces([" ..."])

    @abc.abstractmethod
    def header(self, role: Role | str) -> list[int]:
        """The ids with which the system text or a turn of this role begins."""

    @abc.abstractmethod
    def render(self, dialogues: Sequence[tuple[str, Sequence[TurnText]]]) -> list[Rendering]:
        """Renders dialogues to ids, all texts in one call of the encoder.

        Args:
          dialogues: For each, the system text (empty = none) and its turns. An empty text is
            allowed: it renders as a header with its terminator, which is how an asker says that it
            is done. A turn with a context has the ids of both texts together, a blank line between
            them; an id that holds characters of both is the context's.

        Returns:
          One rendering a dialogue; joined, its ids equal transformers' `apply_chat_template` with
          `chat_template`.
        """

    @abc.abstractmethod
    def chat_template(self, task: Task) -> str:
        """The Jinja text that an exported folder carries.

        It renders messages exactly as `render` does. With `add_generation_prompt`, that of an asker
        ends with the user's header, so that a client that sends a history ending with an answer
        gets the next question; that of a chat model ends with the assistant's.
        """

    def save(self, folder: AnyPath | str, task: Task, **settings: Any) -> None:
        """Writes the tokenizer with the chat template; `settings` are those of `Tokenizer.save`."""
        self.tokenizer.save(folder, chat_template=self.chat_template(task), **settings)

    def prompt(self, system: str, turns: Sequence[tuple[Role, str]]) -> list[int]:
        """The ids behind which the next speaker's text follows: the history, and its header."""
        (rendering,) = self.render([(system, turns)])
        speaker = "assistant" if turns and turns[-1][0] == "user" else "user"
        return rendering.ids() + self.header(speaker)


def check_speaker(task: Task, roles: Sequence[str]) -> None:
    """Refuses a history after which a model of this task does not speak.

    Raises:
      UserError: The last message is by the speaker whose turn it is.
    """
    last = roles[-1] if roles else "assistant"
    if task == "ask" and last == "user":
        raise UserError(
            "the last message is the user's, but this model asks: end the messages with an "
            "assistant message to get the next question."
        )
    if task == "chat" and last != "user":
        raise UserError(
            "the last message is not the user's, but this model answers: end the messages with a "
            "user message to get the answer."
        )


def clean_text(text: str, control_strings: Sequence[str]) -> str:
    """Trims outer white space and breaks the strings of special tokens.

    >>> clean_text("  a </s> b ", ["<s>", "</s>"])
    'a < /s> b'
    """
    text = text.strip()
    for control in control_strings:
        text = text.replace(control, broken(control))
    return text


def broken(control: str) -> str:
    """The string of a special token with a space behind its first character.

    People can see it, and no other control string can arise, since none holds a space.
    """
    return f"{control[0]} {control[1:]}"


def whole_text(turn: TurnText) -> str:
    """The context, where a turn has one, and the text."""
    return f"{turn[2]}\n\n{turn[1]}" if len(turn) == 3 and turn[2] else turn[1]
