"""How a dialogue becomes text and ids: one format for training, transformers and vLLM.

    <s>SYSTEM: be brief</s>USER: hi</s>ASSISTANT: hello</s>USER: bye</s>

Each turn is a header, a space and the text, and a terminator. A text can never forge a boundary:
the strings of special tokens are broken (`</s>` becomes `< /s>`), so the terminator's id stands
only where we put it. Outer white space is trimmed, because servers reply with a leading space
which, sent back, would make every later turn differ from training.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from parrot_jax.core.errors import UserError
from parrot_jax.data.config import Task
from parrot_jax.data.tokenizer import Tokenizer
from parrot_jax.dialogue.types import Role

_CHAT_TEMPLATE = """\
{%- if tools or documents -%}
  {{- raise_exception('this model knows no tools and no documents') -}}
{%- endif -%}
{%- set turns = namespace(count=0, last='') -%}
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message['tool_calls'] or message['function_call'] -%}
    {{- raise_exception('this model knows no tools: a message has tool_calls') -}}
  {%- endif -%}
  {%- set content = message['content'] -%}
  {%- if content is string -%}
    {%- set text = content -%}
  {%- elif content is undefined or content is mapping or content is not iterable -%}
    {{- raise_exception('the content of a message must be a text or a list of text parts') -}}
  {%- else -%}
    {%- for part in content -%}
      {%- if part['type'] != 'text' or part['text'] is not string -%}
        {{- raise_exception('a content part must be {type: text, text: ..}') -}}
      {%- endif -%}
    {%- endfor -%}
    {%- set text = content | map(attribute='text') | join('\\n') -%}
  {%- endif -%}
  {%- set text = text | trim@BREAKS -%}
  {%- if message['role'] == 'system' -%}
    {%- if not loop.first -%}
      {{- raise_exception('a system message must be the first message') -}}
    {%- endif -%}
    {%- if text -%}
      {{- '@SYSTEM ' + text + eos_token -}}
    {%- endif -%}
  {%- elif message['role'] not in ('user', 'assistant') -%}
    {{- raise_exception('roles are system, user and assistant, not ' ~ message['role']) -}}
  {%- elif message['role'] != ('user' if turns.count % 2 == 0 else 'assistant') -%}
    {{- raise_exception('user and assistant messages must alternate, the user first') -}}
  {%- else -%}
    {%- set turns.count = turns.count + 1 -%}
    {%- set turns.last = message['role'] -%}
    {{- '@USER' if message['role'] == 'user' else '@ASSISTANT' -}}
    {{- (' ' + text if text else '') + eos_token -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {%- if @OUT_OF_TURN -%}
    {{- raise_exception('@WRONG') -}}
  {%- endif -%}
  {{- '@SPEAKER' -}}
{%- endif -%}
"""

TurnText: TypeAlias = tuple[Role, str] | tuple[Role, str, str]
"""Speaker, text and, where an answer has one, the context that stands before the text."""

HEADERS = {"system": "SYSTEM:", "user": "USER:", "assistant": "ASSISTANT:"}


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


def clean_text(text: str, control_strings: Sequence[str]) -> str:
    """Trims outer white space and breaks the strings of special tokens.

    >>> clean_text("  a </s> b ", ["<s>", "</s>"])
    'a < /s> b'
    """
    text = text.strip()
    for control in control_strings:
        text = text.replace(control, _broken(control))
    return text


def render(
    dialogues: Sequence[tuple[str, Sequence[TurnText]]], tokenizer: Tokenizer
) -> list[Rendering]:
    """Renders dialogues to ids, all texts in one call of the encoder.

    Args:
      dialogues: For each, the system text (empty = none) and its turns. An empty text is allowed:
        it renders as a header with its terminator, which is how an asker says that it is done. A
        turn with a context has the ids of both texts together, a blank line between them; an id
        that holds characters of both is the context's.
      tokenizer: The vocabulary.

    Returns:
      One rendering a dialogue; joined, its ids equal transformers' `apply_chat_template` of the
      folder that `Tokenizer.save` writes.
    """
    pieces: list[str] = list(HEADERS.values())
    for system, turns in dialogues:
        texts = (system, *map(_whole, turns))
        pieces.extend(_content_piece(text, tokenizer) for text in texts)
    encoded = iter(tokenizer.encode_pieces(pieces))
    headers = {role: next(encoded) for role in HEADERS}
    renderings = []
    for _, turns in dialogues:
        system_ids = next(encoded)
        prefix = [tokenizer.bos_id]
        if system_ids:
            prefix += [*headers["system"], *system_ids, tokenizer.eos_id]
        rendered = [
            RenderedTurn(
                [*headers[turn[0]], *next(encoded), tokenizer.eos_id],
                len(headers[turn[0]]),
                _num_context(turn, tokenizer),
            )
            for turn in turns
        ]
        renderings.append(Rendering(prefix, rendered))
    return renderings


def render_prompt(
    system: str, turns: Sequence[tuple[Role, str]], tokenizer: Tokenizer
) -> list[int]:
    """The ids behind which the next speaker's text follows: the history, that speaker's header."""
    (rendering,) = render([(system, turns)], tokenizer)
    speaker = "assistant" if turns and turns[-1][0] == "user" else "user"
    return rendering.ids() + tokenizer.encode_pieces([HEADERS[speaker]])[0]


def chat_template(task: Task, tokenizer: Tokenizer) -> str:
    """The Jinja chat template that an exported folder carries.

    It renders messages exactly as `render` does. With `add_generation_prompt`, the `ask` template
    ends with the user's header, so that a client that sends a history ending with an answer gets
    the next question; the `chat` template ends with the assistant's header.

    Args:
      task: Which of the two.
      tokenizer: Names the control strings to break.
    """
    breaks = "".join(f" | replace({c!r}, {_broken(c)!r})" for c in tokenizer.control_strings)
    if task == "ask":
        # An asker may open a dialogue: with no turn yet, its prompt is the bare user header.
        out_of_turn, speaker = "turns.last == 'user'", "user"
        wrong = (
            "this model asks the next question, so the last message must be an assistant message"
        )
    else:
        out_of_turn, speaker = "turns.last != 'user'", "assistant"
        wrong = "this model answers, so the last message must be a user message"
    return (
        _CHAT_TEMPLATE.replace("@BREAKS", breaks)
        .replace("@OUT_OF_TURN", out_of_turn)
        .replace("@WRONG", wrong)
        .replace("@SPEAKER", HEADERS[speaker])
        .replace("@SYSTEM", HEADERS["system"])
        .replace("@USER", HEADERS["user"])
        .replace("@ASSISTANT", HEADERS["assistant"])
    )


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


def _whole(turn: TurnText) -> str:
    return f"{turn[2]}\n\n{turn[1]}" if len(turn) == 3 and turn[2] else turn[1]


def _num_context(turn: TurnText, tokenizer: Tokenizer) -> int:
    whole = _whole(turn)
    if whole == turn[1]:
        return 0
    piece = _content_piece(whole, tokenizer)
    return tokenizer.num_ids_before(
        piece, len(piece) - len(clean_text(turn[1], tokenizer.control_strings))
    )


def _content_piece(text: str, tokenizer: Tokenizer) -> str:
    text = clean_text(text, tokenizer.control_strings)
    return f" {text}" if text else ""


def _broken(control: str) -> str:
    # A space behind the first character: visible to people, and no other control string can arise,
    # since none holds a space.
    return f"{control[0]} {control[1:]}"
