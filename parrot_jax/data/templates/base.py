"""A chat template: how a dialogue becomes ids with spans for training, and a prompt.

A rendering is one text, and its ids are those of transformers and vLLM for this text. Where a
special token separates two turns, the tokenizer reads them separately, so they can be encoded one
by one, each behind its special token. Some tokenizers do not (a special token may take the white
space before it, for example); they are found at the start by a few dialogues, and read each
dialogue whole. Either way, the ids of header, text and terminator are told apart by the characters
that they come from.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import AnyPath
from parrot_jax.data.data_config import Task
from parrot_jax.data.templates.formats import Format, Part
from parrot_jax.data.templates.jinja import jinja_of
from parrot_jax.data.tokenizers import Tokenizer
from parrot_jax.dialogue.types import Role

TurnText: TypeAlias = tuple[Role, str] | tuple[Role, str, str]
"""Role, text and, for some answers, the context before the text."""


class RenderedTurn(NamedTuple):
    """The ids of one turn: header, content, terminator, and what follows it without loss."""

    ids: list[int]
    num_header: int
    """Number of ids of the header."""
    num_context: int = 0
    """Number of ids of the context, with which the content begins."""
    num_tail: int = 0
    """Number of ids behind the terminator, such as the line break of ChatML."""

    @property
    def num_dead(self) -> int:
        """Number of ids of header and context, which never carry loss."""
        return self.num_header + self.num_context


class Rendering(NamedTuple):
    """The ids of a dialogue: what stands before the turns, then the turns."""

    prefix: RenderedTurn
    """BOS and the system text; its tail is the terminator."""
    turns: list[RenderedTurn]
    opens_user: bool = False
    """Whether the prefix ends with the header of the first question, as in LLaMA-2's format; then
    the turn that follows it loses its own header."""

    def ids(self) -> list[int]:
        """All ids in order."""
        first = self.turns[0].num_header if self.opens_user and self.turns else 0
        said = itertools.chain.from_iterable(turn.ids for turn in self.turns)
        return [*self.prefix.ids, *itertools.islice(said, first, None)]


class _Slot(NamedTuple):
    """The texts of the prefix or of a turn."""

    header: str
    context: str = ""
    text: str = ""
    """With its terminator."""
    tail: str = ""

    def whole(self) -> str:
        return "".join(self)


# Whether separate encoding is exact is seen from how these begin and end.
_PROBE = ("Hello there", "12 apples", "'quoted'", "- list\n- of two", "日本", "🙂", "é", "x = (1)",
          "...", "")  # fmt: skip


class Template:
    """A chat format with a tokenizer.

    Attributes:
      name: The name in `data.template`.
      tokenizer: The tokenizer.
      stop_ids: Ids that end a turn, first the terminator of the format.
      control_strings: Texts of special tokens and boundaries; `render` breaks them up.
      cut_mark: Ids that replace the cut-off beginning of a text.
    """

    def __init__(self, name: str, layout: Format, tokenizer: Tokenizer) -> None:
        """Combines the two.

        Raises:
          UserError: The tokenizer lacks a special token of the format.
        """
        self.name, self.tokenizer, self._layout = name, tokenizer, layout
        specials = tokenizer.control_strings
        if lacking := [token for token in layout.tokens if token not in specials]:
            raise UserError(
                f"data.template {name} needs the special tokens {', '.join(layout.tokens)}, but "
                f"the tokenizer has no special token {', '.join(lacking)}; use data.template: "
                "parrot, or the tokenizer of a model with this format. If it is an ordinary token, "
                "name it in additional_special_tokens of tokenizer_config.json."
            )
        self.control_strings = tuple(sorted({*specials, *layout.marks}))
        self._roles = {role: self._filled(layout.part(role))
                       for role in ("system", "user", "assistant")}  # fmt: skip
        (self._begin,) = self._filled(Part(layout.begin))[:1]
        parts = [self._begin, *itertools.chain.from_iterable(self._roles.values())]
        self._borders = tuple(s for s in specials if any(s in part for part in parts))
        ends = [part.end for part in self._roles.values()]
        self.stop_ids = tuple(
            dict.fromkeys(
                [
                    *(tokenizer.id_of(s) for s in self._borders if ends[-1].endswith(s)),
                    tokenizer.eos_id,
                ]
            )
        )
        # Ids of headers and tails, by the anchor before them and their texts.
        self._edges: dict[tuple[str, str, str], tuple[list[int], list[int]]] = {}
        self._separately = True
        self._separately = self._reads_separately()
        last = _Slot(self._roles["user"].header, text=f"{self._roles['user'].lead}...")
        slots = self._slots("", [("user", "a"), ("assistant", "b")])
        ((*_, marked),) = self._encode([[*slots, last]])
        self._user_header = marked.ids[: marked.num_header]
        self.cut_mark = marked.ids[marked.num_header :]

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
        slots = [self._slots(system, turns) for system, turns in dialogues]
        return [
            self._rendering(dialogue[0], encoded)
            for dialogue, encoded in zip(dialogues, self._encode(slots), strict=True)
        ]

    def text(self, system: str, turns: Sequence[TurnText]) -> str:
        """The text that `render` encodes."""
        return "".join(slot.whole() for slot in self._slots(system, turns))

    def text_of_turns(self, system: str, turns: Sequence[TurnText]) -> str:
        """The same without what stands before the first turn."""
        return "".join(slot.whole() for slot in self._slots(system, turns)[1:])

    def check_loss_roles(self, roles: Sequence[str]) -> None:
        """Checks that a model can learn to end the turns of these roles.

        Raises:
          UserError: The format has no terminator behind the user's text.
        """
        if "user" in roles and not self._layout.user.end:
            raise UserError(
                f"data.template is {self.name}, which has no terminator behind the user's text: a "
                "model that asks would not learn where a question ends. Use parrot, llama3 or "
                "chatml for it."
            )

    def prompt(self, system: str, turns: Sequence[tuple[Role, str]]) -> list[int]:
        """The prompt for the next turn: the ids of the history and of the next speaker's header."""
        slots = self._slots(system, turns)
        speaker = "assistant" if turns and turns[-1][0] == "user" else "user"
        if turns or not self._opens(system):
            slots.append(_Slot(self._roles[speaker].header))
        (encoded,) = self._encode([slots])
        return [index for part in encoded for index in part.ids]

    def chat_template(self, task: Task) -> str:
        """The Jinja chat template for exported folders.

        It renders messages exactly as `render` does. With `add_generation_prompt`, an asker's
        template ends with the user header, so that a history ending with an answer gives the next
        question; a chat model's ends with the assistant header.
        """
        has_bos = self.tokenizer.bos_token is not None
        return jinja_of(self._layout, task, self.control_strings, has_bos=has_bos)

    def save(self, folder: AnyPath | str, task: Task, **settings: Any) -> None:
        """Writes the tokenizer with the chat template; passes `settings` to `Tokenizer.save`."""
        self.tokenizer.save(folder, chat_template=self.chat_template(task), **settings)

    def _filled(self, part: Part) -> Part:
        bos, eos = self.tokenizer.bos_token or "", self.tokenizer.eos_token
        return Part(*(text.replace("{bos}", bos).replace("{eos}", eos) for text in part))

    def _opens(self, system: str) -> bool:
        return self._layout.system_opens and bool(clean_text(system, self.control_strings))

    def _slots(self, system: str, turns: Sequence[TurnText]) -> list[_Slot]:
        """The texts of the prefix and of each turn."""
        system = clean_text(system, self.control_strings)
        part = self._roles["system"]
        prefix = _Slot(self._begin)
        opens = bool(system) and self._layout.system_opens
        if system:
            tail = part.end if opens else part.end + part.tail
            prefix = _Slot(self._begin + part.header, text=part.lead + system, tail=tail)
        slots = [prefix]
        for number, turn in enumerate(turns):
            part = self._roles[turn[0]]
            if opens and number == 0:
                part = part._replace(header="", lead=self._roles["system"].tail)
            text = clean_text(whole_text(turn), self.control_strings)
            lead = part.lead if text or self._layout.leads_empty else ""
            num_context = 0
            if whole_text(turn) != turn[1]:
                own = clean_text(turn[1], self.control_strings)
                num_context = len(lead) + len(text) - len(own)
            content = lead + text
            slots.append(_Slot(part.header, content[:num_context],
                               content[num_context:] + part.end, part.tail))  # fmt: skip
        return slots

    def _rendering(self, system: str, encoded: list[RenderedTurn]) -> Rendering:
        prefix, *turns = encoded
        if not self._opens(system):
            return Rendering(prefix, turns)
        if turns:
            ids = [*self._user_header, *turns[0].ids]
            first = turns[0]._replace(ids=ids, num_header=len(self._user_header))
            turns = [first, *turns[1:]]
        return Rendering(prefix, turns, opens_user=True)

    def _encode(self, dialogues: Sequence[Sequence[_Slot]]) -> list[list[RenderedTurn]]:
        """Encodes the slots of dialogues.

        Most units are one turn, whose ids begin with those of its header and end with those of its
        tail. Only the others need the places of ids, which take half as long again.
        """
        units = [list(self._units(slots)) for slots in dialogues]
        flat = [unit for found in units for unit in found]
        single = [self._is_single(slots) for _, slots in flat]
        texts = [anchor + "".join(slot.whole() for slot in slots) for anchor, slots in flat]
        plain = iter(self.tokenizer.encode(list(itertools.compress(texts, single))))
        others = [text for text, is_single in zip(texts, single, strict=True) if not is_single]
        places = iter(self.tokenizer.encode_with_places(others))
        turns = iter([
            self._turn(*unit, next(plain)) if is_single else _turns_of(*unit, next(places))
            for unit, is_single in zip(flat, single, strict=True)
        ])  # fmt: skip
        return [[turn for _ in found for turn in next(turns)] for found in units]

    def _is_single(self, unit: Sequence[_Slot]) -> bool:
        """Whether a unit is one turn, with a special token before its tail."""
        slot = unit[0]
        parted = not slot.tail or slot.text.endswith(self._borders)
        return len(unit) == 1 and not slot.context and parted

    def _turn(self, anchor: str, unit: Sequence[_Slot], ids: list[int]) -> list[RenderedTurn]:
        """Finds header and tail of a turn by their ids."""
        (slot,) = unit
        key = (anchor, slot.header, slot.tail)
        if key not in self._edges:
            whole = self.tokenizer.encode_with_places([anchor + slot.whole()])
            (turn,) = _turns_of(anchor, unit, whole[0])
            stop = len(turn.ids) - turn.num_tail
            self._edges[key] = (turn.ids[: turn.num_header], turn.ids[stop:])
        header, tail = self._edges[key]
        own = ids[1:] if anchor else ids
        if own[: len(header)] == header and own[len(own) - len(tail) :] == tail:
            return [RenderedTurn(own, len(header), num_tail=len(tail))]
        whole = self.tokenizer.encode_with_places([anchor + slot.whole()])
        return _turns_of(anchor, unit, whole[0])

    def _units(self, slots: Sequence[_Slot]) -> Iterable[tuple[str, list[_Slot]]]:
        """Yields what is encoded together, each with the special token before it."""
        unit: list[_Slot] = []
        anchor = ""
        for slot in slots:
            if unit and self._separately:
                before, here = unit[-1].whole(), slot.whole()
                if here.startswith(self._borders):
                    yield anchor, unit
                    unit, anchor = [], ""
                elif before.endswith(self._borders):
                    yield anchor, unit
                    unit, anchor = [], next(s for s in self._borders if before.endswith(s))
            unit.append(slot)
        yield anchor, unit

    def _reads_separately(self) -> bool:
        """Whether turns that are encoded separately have the ids of the whole rendering."""
        for system, shift in itertools.product(("", "Be brief."), range(len(_PROBE))):
            texts = [*_PROBE[shift:], *_PROBE[:shift]]
            turns: list[TurnText] = [("user" if n % 2 == 0 else "assistant", text)
                                     for n, text in enumerate(texts)]  # fmt: skip
            slots = self._slots(system, turns)
            for anchor, _ in self._units(slots):
                if anchor:
                    (alone,) = self.tokenizer.encode([f"{anchor}x"])
                    if alone[0] != self.tokenizer.id_of(anchor):
                        return False
            (parts,) = self._encode([slots])
            (whole,) = self.tokenizer.encode(["".join(slot.whole() for slot in slots)])
            if [index for part in parts for index in part.ids] != whole:
                return False
        return True


def _turns_of(anchor: str, unit: Sequence[_Slot], encoding: Any) -> list[RenderedTurn]:
    """Divides the ids of a unit among its slots."""
    ids: list[int] = encoding.ids
    place, places = len(anchor), []
    for slot in unit:
        for text in slot:
            places.append(place)
            place += len(text)
    starts = [*_num_ids_before(encoding, places, place), len(ids)]
    turns = []
    for number in range(len(unit)):
        header, context, text, tail, stop = starts[4 * number : 4 * number + 5]
        turns.append(RenderedTurn(ids[header:stop], context - header, text - context, stop - tail))
    return turns


def _num_ids_before(encoding: Any, places: Sequence[int], length: int) -> list[int]:
    """The numbers of ids that begin before characters; places ascend.

    An id of no character of its own, such as a prefix that the tokenizer adds, begins where the
    next one does.
    """
    found = []
    for place in places:
        # Some characters belong to no id, e.g. white space that the tokenizer removes.
        index = next(
            (i for at in range(place, length) if (i := encoding.char_to_token(at)) is not None),
            None,
        )
        if index is None:
            found.append(len(encoding.ids))
        else:
            found.append(index + (encoding.token_to_chars(index)[0] < place))
    return found


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
