"""The template of this project, for any tokenizer: Vicuna's with a terminator after each turn.

    <s>SYSTEM: be brief</s>USER: hi</s>ASSISTANT: hello</s>USER: bye</s>

Each turn is a header, a space and the text, and a terminator. A text cannot fake a boundary:
special tokens in texts are broken up (`</s>` becomes `< /s>`), so the terminator's id occurs only
at the end of turns. Texts are stripped, because servers reply with a leading space which, sent
back, would make every later turn differ from training.
"""

from collections.abc import Sequence
from pathlib import Path

from parrot_jax.data.data_config import Task
from parrot_jax.data.templates.base import (
    RenderedTurn,
    Rendering,
    Template,
    TurnText,
    broken,
    clean_text,
    whole_text,
)
from parrot_jax.data.tokenizers import Tokenizer
from parrot_jax.dialogue.types import Role

HEADERS = {"system": "SYSTEM:", "user": "USER:", "assistant": "ASSISTANT:"}
_JINJA = Path(__file__).with_suffix(".jinja")


class ParrotTemplate(Template):
    """Headers as words, and `</s>` after every turn of both roles."""

    name = "parrot"

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Encodes the headers."""
        super().__init__(tokenizer)
        self._headers = dict(
            zip(HEADERS, tokenizer.encode_pieces(list(HEADERS.values())), strict=True)
        )

    def header(self, role: Role | str) -> list[int]:
        """`USER:`, `ASSISTANT:` or `SYSTEM:`."""
        return self._headers[role]

    def render(self, dialogues: Sequence[tuple[str, Sequence[TurnText]]]) -> list[Rendering]:
        """See `Template`."""
        pieces: list[str] = []
        for system, turns in dialogues:
            pieces += [self._content_piece(text) for text in (system, *map(whole_text, turns))]
        encoded = iter(self.tokenizer.encode_pieces(pieces))
        renderings = []
        for _, turns in dialogues:
            system_ids = next(encoded)
            prefix = [self.tokenizer.bos_id]
            if system_ids:
                prefix += [*self.header("system"), *system_ids, self.tokenizer.eos_id]
            rendered = [
                RenderedTurn(
                    [*self.header(turn[0]), *next(encoded), self.tokenizer.eos_id],
                    len(self.header(turn[0])),
                    self._num_context(turn),
                )
                for turn in turns
            ]
            renderings.append(Rendering(prefix, rendered))
        return renderings

    def chat_template(self, task: Task) -> str:
        """See `Template`."""
        breaks = "".join(f" | replace({c!r}, {broken(c)!r})" for c in self.control_strings)
        if task == "ask":
            # Without turns, an asker's prompt is the user header: it opens the dialogue.
            out_of_turn, speaker = "turns.last == 'user'", "user"
            wrong = (
                "this model asks the next question, so the last message must be an assistant "
                "message"
            )
        else:
            out_of_turn, speaker = "turns.last != 'user'", "assistant"
            wrong = "this model answers, so the last message must be a user message"
        return (
            _JINJA.read_text(encoding="utf-8")
            .replace("@BREAKS", breaks)
            .replace("@OUT_OF_TURN", out_of_turn)
            .replace("@WRONG", wrong)
            .replace("@SPEAKER", HEADERS[speaker])
            .replace("@SYSTEM", HEADERS["system"])
            .replace("@USER", HEADERS["user"])
            .replace("@ASSISTANT", HEADERS["assistant"])
        )

    def _content_piece(self, text: str) -> str:
        text = clean_text(text, self.control_strings)
        return f" {text}" if text else ""

    def _num_context(self, turn: TurnText) -> int:
        whole = whole_text(turn)
        if whole == turn[1]:
            return 0
        piece = self._content_piece(whole)
        return self.tokenizer.num_ids_before(
            piece, len(piece) - len(clean_text(turn[1], self.control_strings))
        )
