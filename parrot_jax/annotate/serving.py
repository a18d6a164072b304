"""Runs an annotation: draws the items, opens the file, serves the pages."""

from collections.abc import Sequence
from pathlib import Path

from parrot_jax.annotate.answers import read_answers
from parrot_jax.annotate.desk import Desk, VerdictDesk
from parrot_jax.annotate.items import Drawn, shuffled
from parrot_jax.annotate.pages import PACKAGE, make_routes
from parrot_jax.annotate.questions import draw_questions
from parrot_jax.annotate.review_desk import ReviewDesk
from parrot_jax.annotate.tasks import TASKS, TaskName
from parrot_jax.annotate.verdict_file import VerdictFile
from parrot_jax.browser.serving import serve_pages
from parrot_jax.core.logs import console, visible
from parrot_jax.core.paths import require_local
from parrot_jax.serve.background import open_port
from parrot_jax.stats.inputs import labels_of


def annotate(
    files: Sequence[str],
    out: str | None,
    *,
    task: TaskName,
    questions: int | None,
    per_dialogue: int,
    benchmark: str | None,
    seed: int,
    port: int,
) -> None:
    """Serves the pages until Ctrl-C; the options are those of the command.

    Raises:
      UserError: A file is invalid, there is too little to draw, or `out` is of another annotation.
    """
    if task == "review":
        with open_port(port=port) as listener, ReviewDesk(files[0]) as desk:
            serve_pages(make_routes(desk), PACKAGE, listener, title="Review")
            _print_progress(desk, files[0])
        return
    assert out is not None
    require_local(out, "--out")
    drawn = draw(
        files, task=task, questions=questions, per_dialogue=per_dialogue, benchmark=benchmark,
        seed=seed,
    )  # fmt: skip
    items = shuffled([item for one in drawn for item in one.items], seed=seed)
    settings = {
        "task": task,
        "seed": seed,
        "files": sorted(one.label for one in drawn),
        "questions": questions,
        "per_dialogue": per_dialogue,
    }
    with open_port(port=port) as listener, VerdictFile(Path(out), settings, items) as file:
        desk = VerdictDesk(file, TASKS[task])
        serve_pages(make_routes(desk), PACKAGE, listener, title=f"{len(items):,} items in {out}")
        _print_progress(desk, out)


def draw(
    files: Sequence[str],
    *,
    task: TaskName,
    questions: int | None,
    per_dialogue: int,
    benchmark: str | None,
    seed: int,
) -> list[Drawn]:
    """Draws the items of each source, and prints what was read and what was left out.

    Raises:
      UserError: A file is invalid, or there is too little to draw.
    """
    if task == "human-like":
        drawn = [
            draw_questions(path, label, count=questions, per_dialogue=per_dialogue, seed=seed)
            for path, label in zip(files, labels_of(list(files)), strict=True)
        ]
    else:
        answers = read_answers(files, benchmark)
        for note in answers.notes:
            console.print(visible(note))
        sides = 2 if task == "compare" else 1
        drawn = list(
            answers.draw(sides=sides, count=questions, per_dialogue=per_dialogue, seed=seed)
        )
    for one in drawn:
        for note in (*one.notes, f"{one.label}: {len(one.items):,} drawn"):
            console.print(visible(note))
    return drawn


def _print_progress(desk: Desk, file: str) -> None:
    for name in desk.annotators():
        state = desk.state(name)
        console.print(visible(f"{name}: {state.done:,} of {state.total:,} done"))
    console.print(visible(f"all verdicts are in {file}"))
