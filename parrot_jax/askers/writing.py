"""Writes the card as JSON and as a page, and prints it."""

from collections.abc import Sequence
from pathlib import Path

from parrot_jax.askers.card import Card, Column, length_classes
from parrot_jax.askers.tables import (
    counts_table,
    definitions_table,
    examples_table,
    lasting_table,
    lengths_table,
    measures_table,
    notes,
    perplexity_table,
)
from parrot_jax.core.errors import disk_full_is_a_user_error
from parrot_jax.core.files import write_json
from parrot_jax.core.logs import console, visible
from parrot_jax.report.charts import Bars, Line, column_chart, line_chart, percent
from parrot_jax.report.console import print_table
from parrot_jax.report.page import HUES, Hue, Page, Picture, Section, Tile, write_page

CARD, PAGE = "card.json", "card.html"


def write_card(card: Card, out: Path) -> list[Path]:
    """Writes `card.json` and `card.html`, each atomically.

    Raises:
      DiskFullError: The disk is full.
    """
    with disk_full_is_a_user_error(f"the card in {out}"):
        write_json(out / CARD, card.to_json())
    write_page(out / PAGE, card_page(card))
    return [out / CARD, out / PAGE]


def print_card(card: Card, written: Sequence[Path]) -> None:
    """Prints the tables and where the page is."""
    print_table(measures_table(card), "Report card")
    if (table := perplexity_table(card)) is not None:
        print_table(table, "Perplexity of people's questions")
    print_table(lasting_table(card), "Dialogues that have this question")
    print_table(counts_table(card), "Places")
    for line in notes(card):
        console.print(visible(line), markup=False, highlight=False)
    for example in card.reference.report.examples:
        console.print(visible(f"  {example}"), markup=False, highlight=False)
    console.print(f"wrote {', '.join(map(str, written))}", markup=False, highlight=False)


def card_page(card: Card) -> Page:
    """Lays out the page."""
    shown = _in_charts(card)
    has_more = len(shown) < len(card.columns)
    sections = [
        Section(heading="Measures", text=list(notes(card)), blocks=[measures_table(card)]),
        Section(
            heading="Where dialogues end",
            text=[
                "The share of dialogues that have each question. An asker that never ends a "
                "dialogue stays at 100 %.",
                *(["The charts have the first two askers, the tables all."] * has_more),
            ],
            blocks=[
                Picture(
                    chart=line_chart(
                        [
                            Line(
                                name=column.name,
                                hue=hue,
                                points=[(one.turn, one.share) for one in column.lasting],
                            )
                            for column, hue in shown
                        ],
                        label="Dialogues that have each question",
                        x_label="question",
                        y_label="dialogues",
                        y_scale="share",
                    ),
                    caption="Dialogues that last until each question, if the asker decides it.",
                    numbers=lasting_table(card),
                )
            ],
        ),
        Section(
            heading="Length of a question",
            text=[],
            blocks=[
                Picture(
                    chart=column_chart(
                        length_classes(),
                        [
                            Bars(name=column.name, hue=hue, values=column.shares_of_lengths())
                            for column, hue in shown
                        ],
                        label="Words of a question",
                        x_label="words",
                        y_label="questions",
                    ),
                    caption="Share of the questions after the first by their number of words.",
                    numbers=lengths_table(card),
                )
            ],
        ),
        *_perplexity(card),
        Section(
            heading="Side by side",
            text=["What everybody said at the same place, at regular distances."],
            blocks=[examples_table(card)],
        ),
        Section(heading="Places", text=[], blocks=[counts_table(card)]),
        Section(heading="Definitions", text=[], blocks=[definitions_table()]),
    ]
    names = ", ".join(column.name for column in card.askers)
    return Page(
        title="Report card of an asker" if len(card.askers) == 1 else "Report card of askers",
        lead=f"{names}: do the questions resemble people's?",
        tiles=_tiles(card),
        sections=sections,
    )


def _tiles(card: Card) -> list[Tile]:
    found = []
    subject = card.askers[0]
    for key, name in (
        ("naturalness_auc", "told from people; 50 % is best"),
        ("role_drift", "questions that read like answers"),
        ("end_f1", "ends where people end (F1)"),
    ):
        estimate, people = subject.estimates.get(key), card.people.estimates.get(key)
        if estimate is not None:
            beside = f", people {percent(people.value, 1)}" if people is not None else ""
            found.append(Tile(percent(estimate.value, 1), name, f"{subject.name}{beside}"))
    if None in subject.perplexity:
        found.append(
            Tile(
                subject.perplexity[None].shown().partition(" ")[0],
                "perplexity of people's later questions",
                subject.name,
            )
        )
    return found


def _in_charts(card: Card) -> list[tuple[Column, Hue]]:
    """The first two askers and people: more lines are hard to tell apart."""
    columns = [*card.askers[: len(HUES) - 1], card.people]
    return list(zip(columns, (*HUES[: len(columns) - 1], HUES[-1]), strict=True))


def _perplexity(card: Card) -> list[Section]:
    table = perplexity_table(card)
    if table is None:
        return []
    lines = []
    for column, hue in _in_charts(card):
        by_turn = {turn: e for turn, e in column.perplexity.items() if turn is not None}
        if by_turn:
            lines.append(
                Line(
                    name=column.name,
                    hue=hue,
                    points=[(turn, e.value) for turn, e in by_turn.items()],
                    intervals=[
                        (e.value, e.value) if e.low is None or e.high is None else (e.low, e.high)
                        for e in by_turn.values()
                    ],
                )
            )
    if not lines:
        return [Section(heading="Perplexity", text=[], blocks=[table])]
    chart = line_chart(
        lines, label="Perplexity by question", x_label="question", y_label="perplexity",
        y_scale="log",
    )  # fmt: skip
    caption = "Perplexity of people's questions, by turn, with 95 % intervals; lower is better."
    return [
        Section(
            heading="Perplexity",
            text=["How well the model predicts people's questions in these dialogues."],
            blocks=[Picture(chart=chart, caption=caption, numbers=table)],
        )
    ]
