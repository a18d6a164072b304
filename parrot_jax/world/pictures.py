"""Charts of the quickstart's report, each with a caption and its numbers as a table."""

from collections import Counter
from collections.abc import Mapping, Sequence

from parrot_jax.dialogue.types import Dialogue
from parrot_jax.evaluate.answer_config import History
from parrot_jax.intervals.wilson import share_interval
from parrot_jax.report.charts import Bars, Line, column_chart, line_chart, percent, row_chart
from parrot_jax.report.page import Hue, Picture, Table
from parrot_jax.world.questions import KINDS
from parrot_jax.world.report_files import Count, RunFiles

_ALL, _FIRST = "Parrot-Chat, trained on all turns", "Parrot-Chat, trained on first turns only"

KIND_NAMES = {"shift": "topic shift", "back": "back-reference", "invalid": "makes no sense"}
"""Readable names of some kinds."""

_HISTORIES: Mapping[History, str] = {
    "own": "its own answers", "reference": "the true answers", "none": "no history",
}  # fmt: skip
_MOST_LOSS_POINTS = 40


def accuracy_picture(all_turns: Sequence[Count], first_turns: Sequence[Count]) -> Picture:
    """Draws the share of right answers by exam question, for both chat models."""
    return _turns_picture(
        [(_ALL, "accent", all_turns), (_FIRST, "contrast", first_turns)],
        ("All turns", "First turns only"),
        label="Share of right answers at each question of the exam, for both chat models",
        caption=f"Each dot is the share among {all_turns[0].answers:,} answers. Bars and brackets "
        "are 95\N{NO-BREAK SPACE}% confidence intervals (Wilson): they cover the sampling of "
        "questions, not the randomness of training.",
    )


def histories_picture(counts: Mapping[History, Sequence[Count]]) -> Picture:
    """Draws the share of right answers by exam question, for each kind of history."""
    hues: Mapping[History, Hue] = {"own": "accent", "reference": "plain", "none": "contrast"}
    return _turns_picture(
        [(_HISTORIES[history], hue, counts[history]) for history, hue in hues.items()],
        [_HISTORIES[history] for history in hues],
        label="Share of right answers at each question of the exam, for each kind of history",
        caption="Parrot-Chat, trained on all turns. Intervals as above.",
    )


def capo_picture(before: Sequence[Count], after: Sequence[Count]) -> Picture:
    """Draws the share of right answers by exam question, before and after CaPO."""
    return _turns_picture(
        [("Parrot-Chat, after CaPO", "accent", after), ("before", "plain", before)],
        ("After CaPO", "Before"),
        label="Share of right answers at each question of the exam, before and after CaPO",
        caption="Intervals as above.",
    )


def _turns_picture(
    lines: Sequence[tuple[str, Hue, Sequence[Count]]],
    columns: Sequence[str],
    *,
    label: str,
    caption: str,
) -> Picture:
    """Draws lines of shares by question, (name, hue, counts); `columns` are their short names."""
    turns = zip(*(counts for _, _, counts in lines), strict=True)
    return Picture(
        chart=line_chart(
            [
                Line(
                    name=name,
                    hue=hue,
                    points=[(turn, count.share) for turn, count in enumerate(counts, start=1)],
                    intervals=[share_interval(*count) for count in counts],
                )
                for name, hue, counts in lines
            ],
            label=label,
            x_label="question of the dialogue",
            y_label="right answers",
            y_scale="share",
        ),
        caption=caption,
        numbers=Table(
            columns=("Question", *columns),
            rows=[
                (str(turn), *map(with_interval, found)) for turn, found in enumerate(turns, start=1)
            ],
        ),
    )


def kinds_picture(
    asker: Mapping[str, float], people: Mapping[str, float], examples: Mapping[str, str]
) -> Picture:
    """Draws the share of each kind of question, with examples."""
    # In the order of the world's kinds; others come last.
    kinds = [kind for kind in KINDS if kind in asker or kind in people]
    kinds += sorted((asker.keys() | people.keys()) - set(KINDS))
    names = [KIND_NAMES.get(kind, kind) for kind in kinds]
    notes = [examples.get(kind, "") for kind in kinds]
    shares, people_shares = ([found.get(kind, 0.0) for kind in kinds] for found in (asker, people))
    return Picture(
        chart=row_chart(
            list(zip(names, notes, strict=True)),
            [
                Bars(name="Parrot-Ask", hue="accent", values=shares),
                Bars(name="People", hue="plain", values=people_shares),
            ],
            label="Share of each kind of question, of Parrot-Ask and of people",
        ),
        caption="Share of each kind among the questions after the first, with an example. The "
        "possible kinds depend on the turn, so people’s questions are weighted by the turns of "
        "Parrot-Ask’s questions.",
        numbers=Table(
            columns=("Kind", "Example", "Parrot-Ask", "People"),
            rows=[
                (name, note, percent(share, 1), percent(people_share, 1))
                for name, note, share, people_share in zip(
                    names, notes, shares, people_shares, strict=True
                )
            ],
            text_columns=2,
        ),
    )


def lengths_picture(collected: Sequence[Dialogue], people: Sequence[Dialogue]) -> Picture:
    """Draws the distribution of the number of questions per dialogue."""
    lengths = range(1, max(dialogue.num_rounds for dialogue in (*collected, *people)) + 1)

    def bars(name: str, hue: Hue, dialogues: Sequence[Dialogue]) -> Bars:
        counts = Counter(dialogue.num_rounds for dialogue in dialogues)
        return Bars(name=name, hue=hue, values=[counts[n] / len(dialogues) for n in lengths])

    return Picture(
        chart=column_chart(
            [str(length) for length in lengths],
            [bars("Collected", "accent", collected), bars("People", "plain", people)],
            label="Distribution of the number of questions in a dialogue, collected and of people",
            x_label="questions in the dialogue",
            y_label="dialogues",
        ),
        caption=f"Share of dialogues by number of questions: {len(collected):,} "
        f"collected, {len(people):,} of people.",
    )


def losses_picture(ask: RunFiles, chat: RunFiles, chat_first_turn: RunFiles) -> Picture:
    """Draws the training loss of the three models."""
    chart = line_chart(
        [
            Line(name="Parrot-Ask", hue="plain", points=ask.mean_losses(_MOST_LOSS_POINTS)),
            Line(name=_ALL, hue="accent", points=chat.mean_losses(_MOST_LOSS_POINTS)),
            Line(
                name=_FIRST,
                hue="contrast",
                points=chat_first_turn.mean_losses(_MOST_LOSS_POINTS),
            ),
        ],
        label="Training loss of the three models by step",
        x_label="step",
        y_label="loss in nats per token",
        y_scale="log",
    )
    return Picture(
        chart=chart,
        caption="Log scale. Each line joins means over equal ranges of steps, at most "
        f"{_MOST_LOSS_POINTS} per run.",
    )


def with_interval(count: Count) -> str:
    """Formats a share with its interval, in percent."""
    low, high = share_interval(*count)
    numbers = f"{percent(count.share)} [{100 * low:.0f}, {100 * high:.0f}]"
    return numbers.replace(" ", "\N{NO-BREAK SPACE}")
