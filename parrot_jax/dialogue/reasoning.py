"""Separates the reasoning in a model's reply from its answer.

Reasoning is recognised only where models put it: at the start of a reply, or before a closing mark
whose opening mark is in the prompt, as in the chat template of DeepSeek-R1. An answer that mentions
such marks in a sentence or in code keeps them.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

_NAMES = (
    *("think", "thinking", "thought", "thoughts", "reasoning", "reason", "reflection"),
    *("scratchpad", "seed:think", "longcat_think", "thought_process", "inner_monologue"),
    "antThinking",
)
_ONLY_OPENED = (
    (r"<analysis>", r"</analysis>"),
    # Open WebUI
    (
        r"<details(?=[^<>\n]{0,99}\stype=[\"']?reasoning\b)[^<>\n]{0,199}>",
        r"</details>",
    ),
)
"""Forms whose closing mark alone is not enough, as it has other uses."""
_FORMS = (
    *((rf"<{name}(?: [^<>\n]{{0,99}})?>", rf"</{name}\s?>") for name in _NAMES),
    (r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    (r"◁think▷", r"◁/think▷"),  # Kimi
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command A
    (r"<\|channel>thought", r"<channel\|>"),  # Gemma 4
    (r"<\|think(?:ing)?\|>", r"<\|/think(?:ing)?\|>"),
    (r"<unused94>(?:thought\n)?", r"<unused95>"),  # MedGemma
    *((rf"&lt;{name}&gt;", rf"&lt;/{name}&gt;") for name in _NAMES),
    *_ONLY_OPENED,
)
_MARKS = re.compile(
    r"(?=[<\[◁&])(?:"  # first characters of all marks
    + "|".join(
        f"(?P<open{number}>{opening})|(?P<close{number}>{closing})"
        for number, (opening, closing) in enumerate(_FORMS)
    )
    + ")",
    re.I,
)
_FIRST_PAIRED = len(_FORMS) - len(_ONLY_OPENED)
_SPACE = re.compile(r"\s*")
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.S)
# gpt-oss: channels with one message each; also with the marks removed by the server.
_HARMONY = re.compile(r"(?:<\|start\|>assistant)?<\|channel\|>")
_HARMONY_MARK = re.compile(r"<\|(start|end|return|call|channel|message|constrain)\|>")
_BARE_HARMONY = re.compile(r"analysis(?=[A-Z\"'])")
_BARE_FINAL = "assistantfinal"
# Ollama's command line.
_OLLAMA = re.compile(r"Thinking\.\.\.[ \t]*\n")
_OLLAMA_END = re.compile(r"^[ \t]*\.\.\.done thinking\.[ \t]*$", re.M)
_FENCE = re.compile(r"(`{3,})(?:think|thinking|thoughts?|reasoning)[ \t]*(?=\n|\Z)", re.I)
_FENCE_LINE = re.compile(r"^(`{3,})[ \t]*(\S?)[^`\n]*$", re.M)
# R1-Zero
_ANSWER = re.compile(r"<(answer|final_answer|response)>", re.I)
_MOST_INDENT = 80
_ENDS_A_SENTENCE = ".!?:;…。！？)*"


class _Mark(NamedTuple):
    opens: bool
    form: int
    start: int
    end: int


class SplitReply(NamedTuple):
    """A reply in two parts."""

    text: str
    """The answer; empty if all of it is reasoning; the unchanged reply if there is no mark."""
    reasoning: str
    """Empty if there is none."""


def split_reasoning(text: str, *, closing_mark_alone: bool = True) -> SplitReply:
    r"""Separates the reasoning in a reply from the answer.

    Reasoning is any number of marked blocks at the start, even if the last is never closed;
    everything before a closing mark without an opening one; and, if the reply began with reasoning,
    later blocks that start a line outside of code. Answer marks around the rest are removed. Time
    is linear in the length of the text.

    >>> split_reasoning("<think>\nA capital.\n</think>\n\nParis.")
    SplitReply(text='Paris.', reasoning='A capital.')
    >>> split_reasoning("A capital.\n</think>\n\nParis.")
    SplitReply(text='Paris.', reasoning='A capital.')
    >>> split_reasoning("Close it with `</think>`.").reasoning
    ''

    Args:
      text: The reply.
      closing_mark_alone: Whether a closing mark without an opening one counts.
    """
    start = _skip_space(text, 0)
    if _HARMONY.match(text, start):
        return _split_channels(text)
    if _BARE_HARMONY.match(text, start) and (final := text.find(_BARE_FINAL, start)) >= 0:
        thought = text[start + len("analysis") : final]
        return SplitReply(text[final + len(_BARE_FINAL) :].strip(), thought.strip())
    if (ollama := _OLLAMA.match(text, start)) and (end := _OLLAMA_END.search(text, ollama.end())):
        return SplitReply(text[end.end() :].strip(), text[ollama.end() : end.start()].strip())
    if fence := _FENCE.match(text, start):
        return _split_fence(text, fence)
    marks = [_mark(match) for match in _MARKS.finditer(text)] if _may_hold_marks(text) else []
    code = [match.span() for match in _CODE.finditer(text)] if marks else []
    thoughts: list[str] = []
    form, place = None, 0
    while place < len(marks):
        mark = marks[place]
        if mark.opens and mark.start == start:
            form, start, closing = mark.form, mark.end, _closing_of(marks, place)
            if closing is None:
                return SplitReply("", _joined([*thoughts, text[start:]]))
        elif closing_mark_alone and (found := _lone_closing(text, marks, place, code)) is not None:
            form, closing = marks[found].form, found
        else:
            break
        thoughts.append(text[start : marks[closing].start])
        start, place = _skip_space(text, marks[closing].end), closing + 1
    if form is None:
        return SplitReply(text, "")
    pieces: list[str] = []
    later = [mark for mark in marks[place:] if mark.form == form and not _is_in(code, mark)]
    start = _take_later_blocks(text, start, later, pieces, thoughts)
    return SplitReply(_bare_answer("".join([*pieces, text[start:]]).strip()), _joined(thoughts))


def _may_hold_marks(text: str) -> bool:
    # A hundred times faster than the pattern on most texts, which have no marks.
    return any(first in text for first in ("<", "[", "◁", "&lt;"))


def _mark(match: re.Match[str]) -> _Mark:
    assert match.lastgroup is not None
    opens = match.lastgroup.startswith("open")
    number = match.lastgroup.removeprefix("open" if opens else "close")
    return _Mark(opens, int(number), *match.span())


def _closing_of(marks: Sequence[_Mark], opening: int) -> int | None:
    """The index of the mark that closes a block, skipping nested blocks; None if none does."""
    depth, last = 0, None
    for place in range(opening, len(marks)):
        if marks[place].form != marks[opening].form:
            continue
        depth += 1 if marks[place].opens else -1
        last = last if marks[place].opens else place
        if depth == 0:
            break
    # More marks are opened than closed: the reasoning only mentions a mark.
    return last


def _lone_closing(
    text: str, marks: Sequence[_Mark], first: int, code: Sequence[tuple[int, int]]
) -> int | None:
    """The index of the first closing mark without an opening one, unless a sentence mentions it."""
    depths: dict[int, int] = {}
    for place in range(first, len(marks)):
        mark = marks[place]
        if _is_in(code, mark):
            continue
        depth = depths.get(mark.form, 0)
        if mark.opens or depth:
            depths[mark.form] = depth + (1 if mark.opens else -1)
        elif mark.form < _FIRST_PAIRED and _stands_alone(text, mark):
            return place
    return None


def _stands_alone(text: str, mark: _Mark) -> bool:
    """Whether a closing mark ends the text before it, rather than being a word in a sentence."""
    before = text[mark.start - 1] if mark.start else "\n"
    return (
        _starts_line(text, mark)
        or before.isalnum()
        or before in _ENDS_A_SENTENCE
        or re.match(r"[ \t]*\n[ \t]*\n", text[mark.end : mark.end + _MOST_INDENT]) is not None
    )


def _starts_line(text: str, mark: _Mark) -> bool:
    before = text[max(0, mark.start - _MOST_INDENT) : mark.start]
    is_whole = len(before) == mark.start or "\n" in before
    return is_whole and not before.rpartition("\n")[2].strip()


def _take_later_blocks(
    text: str, start: int, marks: Sequence[_Mark], pieces: list[str], thoughts: list[str]
) -> int:
    """Moves the text between blocks to `pieces`, and the blocks to `thoughts`.

    Returns:
      The start of the text after the last block.
    """
    place = 0
    while place < len(marks):
        mark = marks[place]
        if mark.start < start or not mark.opens or not _starts_line(text, mark):
            place += 1
            continue
        closing = _closing_of(marks, place)
        pieces.append(text[start : mark.start])
        if closing is None:
            thoughts.append(text[mark.end :])
            return len(text)
        thoughts.append(text[mark.end : marks[closing].start])
        start, place = marks[closing].end, closing + 1
    return start


def _split_channels(text: str) -> SplitReply:
    """Splits gpt-oss's format: only the channel `final` is the answer."""
    channel, said, thoughts = "", [], []
    _, *pieces = _HARMONY_MARK.split(text)
    for mark, piece in zip(pieces[::2], pieces[1::2], strict=True):
        if mark == "channel":
            channel = piece.strip()
        elif mark == "message":
            (said if channel.startswith("final") else thoughts).append(piece)
    return SplitReply("".join(said).strip(), _joined(thoughts))


def _split_fence(text: str, fence: re.Match[str]) -> SplitReply:
    """Splits a code block named thinking; it may contain nested fences."""
    depth = 1
    for line in _FENCE_LINE.finditer(text, fence.end()):
        if line[2]:
            depth += 1
        elif len(line[1]) >= len(fence[1]):
            depth -= 1
        if depth == 0:
            return SplitReply(text[line.end() :].strip(), text[fence.end() : line.start()].strip())
    return SplitReply("", text[fence.end() :].strip())


def _bare_answer(said: str) -> str:
    """The answer after the reasoning, without answer marks around it."""
    opening = _ANSWER.match(said)
    if opening is None:
        return said
    inner, closing = said[opening.end() :], f"</{opening[1]}>"
    if inner.lower().endswith(closing.lower()):
        inner = inner[: -len(closing)]
    return said if closing.lower() in inner.lower() else inner.strip()


def _is_in(spans: Sequence[tuple[int, int]], mark: _Mark) -> bool:
    place = bisect_right(spans, (mark.start, len(spans) and spans[-1][1])) - 1
    return place >= 0 and mark.start < spans[place][1]


def _skip_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _joined(thoughts: Sequence[str]) -> str:
    return "\n\n".join(filter(None, map(str.strip, thoughts)))
