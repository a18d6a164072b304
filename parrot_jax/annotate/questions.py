"""Draws the questions of dialogues to judge: each with the dialogue up to it."""

from collections.abc import Iterator, Mapping

from parrot_jax.annotate.items import (
    Candidate,
    Drawn,
    Item,
    Round,
    chance,
    check_count,
    draw_items,
)
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import read_sources
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.stats.inputs import source_of


def draw_questions(
    path: str, label: str, *, count: int | None, per_dialogue: int, seed: int
) -> Drawn:
    """Draws questions of the dialogues of a file; a first question is never drawn.

    In a collected dialogue, only questions after its beginning are drawn, which the asker wrote.

    Args:
      path: As for `parrot stats`.
      label: The name of the source in the report.
      count: The number of questions; None = `per_dialogue` of each dialogue.
      per_dialogue: The most questions of one dialogue, >= 1.
      seed: Seed of the draw.

    Raises:
      UserError: The file cannot be read, or there are not as many questions.
    """
    report = ReadReport()
    without, copies, seen = 0, 0, set[bytes]()

    def candidates() -> Iterator[Candidate]:
        nonlocal without, copies
        for dialogue in read_sources([source_of(path)], seed=seed, report=report):
            group = dialogue.content_hash().hex()
            turns = sorted(_turns(dialogue), key=lambda turn: chance(seed, "turn", group, turn))
            without += not turns
            for turn in turns[:per_dialogue]:
                item = _item(dialogue, turn, label)
                # Branches of one tree begin alike.
                place = chance(seed, item.content())
                if place in seen:
                    copies += 1
                    continue
                seen.add(place)
                yield Candidate(group, item)

    items = draw_items(candidates(), count, seed=seed)
    check_count(path, items, count, "questions after the first one")
    notes = [report.summary()]
    if without:
        notes.append(f"{label}: {without:,} dialogues have no question to draw")
    if copies:
        notes.append(f"{label}: {copies:,} questions are copies with the same dialogue before them")
    return Drawn(label, items, tuple(notes))


def _turns(dialogue: Dialogue) -> range:
    """The questions that may be drawn, from 1."""
    collected = dialogue.metadata.get("collection")
    begun = 1
    if isinstance(collected, Mapping) and isinstance(collected.get("collected_turns"), int):
        # The questions of the beginning are from people.
        begun = max(1, len(dialogue.turns) // 2 - collected["collected_turns"])
    return range(begun + 1, dialogue.num_rounds + 1)


def _item(dialogue: Dialogue, turn: int, label: str) -> Item:
    # Without the system text, which may tell who asks.
    before = dialogue.turns[: 2 * turn - 2]
    rounds = [
        Round(question.text, (answer.whole,))
        for question, answer in zip(before[::2], before[1::2], strict=True)
    ]
    marked = Round(dialogue.turns[2 * turn - 2].text)
    # Ids of people's files may be equal, within a file or in two of them.
    name = f"{dialogue.id} {dialogue.content_hash().hex()[:8]}"
    return Item((label,), name, turn, (*rounds, marked))
