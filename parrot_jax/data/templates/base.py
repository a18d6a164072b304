"""The interface of chat templates: ids with spans for training, prompts, and a Jinja template."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import AnyPath
from parrot_jax.data.data_config import Task
from parrot_jax.data.tokenizers import Tokenizer
from parrot_jax.dialogue.types import Role

TurnText: TypeAlias = tuple[Role, str] | tuple[Role, str, str]
"""Role, text and, for some answers, the context before the text."""


class RenderedTurn(NamedTuple):
    """The ids of one turn: header, content, terminator."""

    ids: list[int]
    num_header: int
    """Number of ids of the header."""
    num_context: int = 0
    """Number of ids of the context, with which the content begins."""

    @property
    def num_dead(self) -> int:
        """Number of ids of header and context, which never carry loss."""
        return self.num_header + self.num_context


class Rendering(NamedTuple):
    """The ids of a dialogue: `prefix` (BOS and the system text), then the turns."""

    prefix: list[int]
    turns: list[RenderedTurn]

    def ids(self) -> list[int]:
        """All ids in order."""
        return [*self.prefix, *(index for turn in self.turns for index in turn.ids)]


class Template(abc.ABC):
    """A chat template for a tokenizer.

    A subclass defines how a turn begins (`header`), how dialogues become ids (`render`) and the
    equivalent Jinja template for transformers and vLLM (`chat_template`). `data.template` selects
    it.

    Attributes:
      name: The name for `data.template`.
      tokenizer: The tokenizer.
      stop_ids: Ids that end a turn.
      control_strings: Texts of special tokens; `render` breaks them up.
      cut_mark: Ids that replace the cut-off beginning of a text.
    """

    name: ClassVar[str]

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Stores the tokenizer."""
        self.tokenizer = tokenizer
        self.stop_ids: tuple[int, ...] = (tokenizer.eos_id,)
        self.control_strings = tokenizer.control_strings
        (self.cut_mark,) = tokenizer.encode_pieces([" ..."])

    @abc.abstractmethod
    def header(self, role: Role | str) -> list[int]:
        """The ids that begin the system text or a turn of this role."""

    @abc.abstractmethod
    def render(self, dialogues: Sequence[tuple[str, Sequence[TurnText]]]) -> list[Rendering]:
        """Renders dialogues to ids, in one call of the encoder.

        Args:
          dialogues: The system text (empty = none) and the turns of each. An empty text renders as
            header and terminator, which is how an asker ends a dialogue. For a turn with context,
            both texts are encoded together with a blank line between them; an id with characters of
            both counts as context.

        Returns:
          One rendering per dialogue; its joined ids equal transformers' `apply_chat_template` with
          `chat_template`.
        """

    @abc.abstractmethod
    def chat_template(self, task: Task) -> str:
        """The Jinja chat template for exported folders.

        It renders messages exactly as `render` does. With `add_generation_prompt`, an asker's
        template ends with the user header, so that a history ending with an answer gives the next
        question; a chat model's ends with the assistant header.
        """

    def save(self, folder: AnyPath | str, task: Task, **settings: Any) -> None:
        """Writes the tokenizer with the chat template; passes `settings` to `Tokenizer.save`."""
        self.tokenizer.save(folder, chat_template=self.chat_template(task), **settings)

    def prompt(self, system: str, turns: Sequence[tuple[Role, str]]) -> list[int]:
        """The prompt for the next turn: the ids of the history and of the next speaker's header."""
        (rendering,) = self.render([(system, turns)])
        speaker = "assistant" if turns and turns[-1][0] == "user" else "user"
        return rendering.ids() + self.header(speaker)


def check_speaker(task: Task, roles: Sequence[str]) -> None:
    """Rejects a history that this task's model cannot continue.

    Raises:
      UserError: The last message is by the model's own role.
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
    """Strips white space and breaks up the texts of special tokens.

    >>> clean_text("  a </s> b ", ["<s>", "</s>"])
    'a < /s> b'
    """
    text = text.strip()
    for control in control_strings:
        text = text.replace(control, broken(control))
    return text


def broken(control: str) -> str:
    """The text of a special token with a space after its first character.

    The change is visible, and it cannot create another control string, since none contains a space.
    """
    return f"{control[0]} {control[1:]}"


def whole_text(turn: TurnText) -> str:
    """The context, if any, and the text."""
    return f"{turn[2]}\n\n{turn[1]}" if len(turn) == 3 and turn[2] else turn[1]
