"""The card as tables and notes, without formatting."""

from collections.abc import Iterator, Mapping, Sequence

from parrot_jax.askers.card import MEASURES, Card, Column, length_classes
from parrot_jax.report.page import Table
from parrot_jax.stats.measure_file import quantile

NOTHING = "–"
_MOST_EXAMPLES = 8
_SHOWN_CHARS = 300


def measures_table(card: Card) -> Table:
    """All measures: askers, people, and people's halves."""
    first, second = card.halves
    rows = []
    for key, measure in MEASURES.items():
        halves = [half.estimates.get(key) for half in (first, second)]
        values = [
            NOTHING if estimate is None else estimate._replace(low=None).shown(measure.unit)
            for estimate in halves
        ]
        # Of people, the classifier compares the halves with each other.
        shown = NOTHING if set(values) == {NOTHING} else " / ".join(values)
        rows.append([measure.name, *(_cell(column, key) for column in card.columns), shown])
        if key == "words":
            for name, share in (("median", 0.5), ("90th percentile", 0.9)):
                counts = [quantile(c.lengths, share) for c in (*card.columns, *card.halves)]
                *some, one, other = [NOTHING if n is None else f"{n:,}" for n in counts]
                rows.append([f"{measure.name}: {name}", *some, f"{one} / {other}"])
    columns = ("measure", *(column.name for column in card.columns), "halves of people")
    return Table(columns=columns, rows=rows)


def counts_table(card: Card) -> Table:
    """What became of the places."""
    rows = [
        [
            column.name, f"{column.questions:,}", f"{column.ended:,}", f"{column.cut:,}",
            f"{sum(column.missing.values()):,}", _by_reason(column.missing),
        ]
        for column in card.columns
    ]  # fmt: skip
    columns = ("asker", "questions", "ends", "cut at the limit", "missing", "why")
    return Table(columns=columns, rows=rows)


def lasting_table(card: Card) -> Table:
    """The share of dialogues that have each question."""
    turns = sorted({one.turn for column in card.columns for one in column.lasting})
    shares = [{one.turn: one.share for one in column.lasting} for column in card.columns]
    rows = [
        [str(turn), *(f"{100 * of[turn]:.1f} %" if turn in of else NOTHING for of in shares)]
        for turn in turns
    ]
    return Table(columns=("question", *(column.name for column in card.columns)), rows=rows)


def lengths_table(card: Card) -> Table:
    """The share of questions by their words."""
    shares = [column.shares_of_lengths() for column in card.columns]
    rows = [
        [name, *(f"{100 * of[place]:.1f} %" for of in shares)]
        for place, name in enumerate(length_classes())
    ]
    return Table(columns=("words", *(column.name for column in card.columns)), rows=rows)


def perplexity_table(card: Card) -> Table | None:
    """Perplexity of people's questions by turn; None if no asker's is known."""
    known = [column for column in card.askers if column.perplexity]
    if not known:
        return None
    turns = sorted({turn for c in known for turn in c.perplexity if turn is not None})
    rows = [
        ["2 and later" if turn is None else str(turn), *(_perplexity(c, turn) for c in known)]
        for turn in (*turns, None)
    ]
    return Table(columns=("question", *(column.name for column in known)), rows=rows)


def examples_table(card: Card) -> Table:
    """What everybody said at some places, at regular distances."""
    reference = card.reference
    places = [place for place in reference.places(first_turn=False) if place.turn > 1]
    step = max(len(places) // _MOST_EXAMPLES, 1)
    said = {name: {one.place: one for one in some} for name, some in card.said.items()}
    rows = []
    for place in places[step // 2 :: step][:_MOST_EXAMPLES]:
        turns = reference.dialogues[place.dialogue].turns
        person = reference.question(place)
        rows.append([
            _cut(turns[2 * place.turn - 4].text), _cut(turns[2 * place.turn - 3].text),
            *(_said(some[place].text, some[place].ended, some[place].reason)
              for some in said.values()),
            _said(person, person is None, ""),
        ])  # fmt: skip
    columns = ("question before", "its answer", *card.said, "the person")
    return Table(columns=columns, rows=rows, text_columns=len(columns))


def definitions_table() -> Table:
    """The definition and the population of each measure."""
    rows = [[measure.name, measure.of, measure.definition] for measure in MEASURES.values()]
    return Table(columns=("measure", "of", "definition"), rows=rows, text_columns=3)


def notes(card: Card) -> Iterator[str]:
    """How to read the numbers, and what was left out."""
    reference = card.reference
    yield (
        f"{len(reference.dialogues):,} dialogues of people, up to question "
        f"{reference.max_turns}. At each place, the asker sees the person's own dialogue so far "
        "and writes the next question."
    )
    yield (
        "In brackets: 95 % bootstrap intervals over whole dialogues. The last column has people's "
        "values in two random halves of the dialogues: equal speakers differ by as much."
    )
    for reason, count in reference.left_out.items():
        yield f"{count:,} dialogues are left out: {reason}."
    if reference.report.broken:
        yield f"Rejected rows: {_by_reason(reference.report.broken)}."


def _cell(column: Column, key: str) -> str:
    estimate = column.estimates.get(key)
    return NOTHING if estimate is None else estimate.shown(MEASURES[key].unit)


def _perplexity(column: Column, turn: int | None) -> str:
    estimate = column.perplexity.get(turn)
    return NOTHING if estimate is None else estimate.shown()


def _said(text: str | None, ended: bool, reason: str) -> str:
    return _cut(text) if text is not None else "(ends)" if ended else f"({reason})"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _by_reason(reasons: Mapping[str, int]) -> str:
    ordered: Sequence[tuple[str, int]] = sorted(reasons.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered)
