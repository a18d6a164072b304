"""The quickstart's report: what was done on the synthetic world, and the results.

`report_files` reads the results, `pictures` draws the charts, and `parrot_jax/report` lays out the
page.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from parrot_jax.dialogue.types import Dialogue
from parrot_jax.intervals.wilson import share_interval
from parrot_jax.report.charts import percent
from parrot_jax.report.page import (
    Answer,
    Link,
    Listing,
    Page,
    Round,
    Section,
    Table,
    Tile,
    TranscriptPanel,
    write_page,
)
from parrot_jax.world.exam_measures import asked_kinds
from parrot_jax.world.mistakes import ERROR_KINDS, ErrorKind
from parrot_jax.world.pictures import (
    KIND_NAMES,
    accuracy_picture,
    capo_picture,
    histories_picture,
    kinds_picture,
    lengths_picture,
    losses_picture,
    with_interval,
)
from parrot_jax.world.questions import Language
from parrot_jax.world.report_files import (
    Collected,
    Count,
    ExamRow,
    QuickstartFiles,
    read_quickstart,
)

_STOP_REASONS = {
    "max_turns": "it reached the maximum number of questions",
    "meaningless_answer": "the answerer did not understand a question",
    "asker_left": "Parrot-Ask ended it",
    "empty_answer": "an answer was empty",
    "cut_question": "a question was too long",
    "cut_answer": "an answer was too long",
    "context_full": "it exceeded a model's context length",
}
_ERROR_NAMES: Mapping[ErrorKind, str] = {
    "neglect": "neglect",
    "hallucination": "hallucination",
    "misunderstanding": "misunderstanding",
    "wrong_fact": "a wrong value",
    "other": "not a sentence of this world",
}
_PARTS = {"question": "a first question", "session": "a short session"}
_NUM_EXAM_DIALOGUES = 2
_NUM_EXAMPLE_DIALOGUES = 100

_LEAD = (
    "A model learned to ask questions like a user. It talked with an answerer, and a chat model "
    "was trained on these dialogues. This page shows one such run on a synthetic world in which "
    "every true answer is known."
)
_PAPER = Link(
    "The paper: Parrot: Enhancing Multi-Turn Chat Models by Learning to Ask Questions",
    "https://arxiv.org/abs/2310.07301",
)
_COMMANDS = """\
# an asker, from your dialogues
parrot train configs/train/ask_wildchat_cpu.yaml --out runs/ask \\
    --data.sources.0.path dialogues.jsonl --data.tokenizer tokenizer.model
parrot serve runs/ask --port 8000

# in another terminal: collect dialogues with an answerer; its key is in OPENAI_API_KEY
parrot collect configs/collect/parrot_40k.yaml --out runs/collect \\
    --asker.model ask --answerer.model gpt-4o-mini \\
    --beginnings.0.path short_sessions.jsonl --beginnings.1.path ultrachat.jsonl

# a chat model, from the collected dialogues
parrot train configs/train/chat_cpu.yaml --out runs/chat \\
    --data.sources.0.path runs/collect/dialogues.jsonl --data.tokenizer tokenizer.model

# CaPO: wrong answers on request, and training to prefer the collected ones
parrot negatives build configs/negatives/capo_openai.yaml --out runs/negatives \\
    --sources.0.path runs/collect/dialogues.jsonl --selection null
parrot train configs/train/capo_cpu.yaml --out runs/capo --init-from runs/chat \\
    --data.sources.0.path 'runs/negatives/pairs/*.jsonl' --data.tokenizer tokenizer.model
"""


def write_report(folder: Path) -> Path:
    """Writes `report.html` from the results in a quickstart's folder.

    Args:
      folder: The quickstart's folder.

    Returns:
      The path of the page.

    Raises:
      UserError: A file is missing or invalid; the message names it.
      DiskFullError: The disk is full.
    """
    files = read_quickstart(folder)
    page = Page(
        title="Parrot on a synthetic world",
        lead=_LEAD,
        tiles=_tiles(files),
        sections=[
            _what_was_done(files),
            _accuracy(files),
            _histories(files),
            _capo(files),
            _kinds(files),
            _lengths(files),
            _learning(files),
            _examples(files),
            _your_own(folder),
        ],
        footer=f"Seed {files.summary.seed}; {_versions(files)}.",
        links=[_PAPER],
    )
    path = folder / "report.html"
    write_page(path, page)
    return path


def _tiles(files: QuickstartFiles) -> list[Tile]:
    ask = files.summary.ask
    last, last_of_first_turns = (
        exam.by_turn()[-1].share for exam in (files.exam, files.exam_first_turn)
    )
    return [
        Tile(
            percent(ask.valid_question_rate, 1),
            "of Parrot-Ask’s questions make sense",
            f"{ask.n:,} questions, each in its dialogue",
        ),
        Tile(
            f"{ask.kind_distance:.2f}",
            "distance from people’s distribution of questions",
            f"between two samples of people: {ask.kind_distance_floor:.2f}",
        ),
        Tile(
            f"{files.summary.collection.mean_turns:.1f}",
            "questions in a collected dialogue",
            f"in people’s dialogues: {_mean_rounds(files.people):.1f}",
        ),
        Tile(
            percent(last),
            f"right answers at question {len(files.exam.by_turn())}",
            f"trained on first turns only: {percent(last_of_first_turns)}",
        ),
    ]


def _what_was_done(files: QuickstartFiles) -> Section:
    world, stages = files.world, files.summary.stages
    stories = {
        "world": ("People", f"{len(files.people):,} dialogues of simulated people."),
        "ask": ("Parrot-Ask", "A small model learns to ask their next question."),
        "collect": (
            "Collection",
            f"Parrot-Ask talks with an answerer who knows the world: {len(files.collected):,} "
            "dialogues.",
        ),
        "chat": ("Parrot-Chat", "A second model learns the answers of these dialogues."),
        "chat_first_turn": (
            "The comparison",
            "A third one learns only the first answer of each, in as many passes over them.",
        ),
        "capo": (
            "CaPO",
            f"Parrot-Chat learns to prefer right answers: {files.summary.capo.pairs:,} pairs.",
        ),
        "exam": (
            "Exam",
            f"All three answer {len(files.exam.rows):,} dialogues that they have never seen.",
        ),
    }
    shown = [name for name in stories if name in stages]
    return Section(
        heading="What was done",
        text=[
            f"The world has {len(world.places)} places, and each has its "
            f"{', '.join(world.attributes[:-1])} and {world.attributes[-1]}. The first question of "
            "a dialogue is complete. Later ones may depend on context: “And its mayor?”, “What "
            f"about {world.places[0]}?”. The true answer to every question in its context is "
            "known, so answers are marked by exact match, without a judge.",
        ],
        blocks=[
            Table(
                columns=("Stage", "What happens", "Time"),
                rows=[
                    *((*stories[name], _duration(stages[name])) for name in shown),
                    ("All", "", _duration(sum(stages[name] for name in shown))),
                ],
                text_columns=2,
            )
        ],
    )


def _accuracy(files: QuickstartFiles) -> Section:
    exams = (files.exam, files.exam_first_turn)
    last, other_last = (exam.by_turn()[-1] for exam in exams)
    alone, leaning = (
        [percent(exam.where(leaning=lean).share) for exam in exams] for lean in (False, True)
    )
    return Section(
        heading="Right answers, question by question",
        text=[
            f"Both chat models answer the same {last.answers:,} dialogues, each with its own "
            "answers as context. At the last question the model trained on all turns is right in "
            f"{with_interval(last)}, the one trained on first turns only in "
            f"{with_interval(other_last)}. The intervals in brackets "
            f"{'overlap' if _overlap(last, other_last) else 'do not overlap'}.",
            "Complete questions are answered right in "
            f"{alone[0]} by the first model and in {alone[1]} by the second; questions that depend "
            f"on context in {leaning[0]} and {leaning[1]}. First turns have no context, so only "
            "later turns can teach its use.",
            "The paper’s Figure 5 makes this comparison with LLaMA2-13B. On MT-Bench++, the score "
            "is 5.90 with one turn trained, 6.14 with three, 6.32 with five and 6.56 with all.",
        ],
        blocks=[accuracy_picture(files.exam.by_turn(), files.exam_first_turn.by_turn())],
    )


def _histories(files: QuickstartFiles) -> Section:
    counts = files.histories
    own, true, none = (
        with_interval(counts[history][-1]) for history in ("own", "reference", "none")
    )
    return Section(
        heading="What the history does",
        text=[
            "The same model answers the same questions with three histories. Its own answers: the "
            f"ordinary exam, {own} right at the last question. The true answers: {true}; the "
            "difference is what its own mistakes cost later. No history: "
            f"{none}; what is lost are the questions that need their context.",
        ],
        blocks=[histories_picture(counts)],
    )


def _capo(files: QuickstartFiles) -> Section:
    capo = files.summary.capo
    before, after = (
        Count(sum(turn.right for turn in turns), sum(turn.answers for turn in turns))
        for turns in (files.exam.by_turn(), files.exam_capo.by_turn())
    )
    return Section(
        heading="CaPO",
        text=[
            f"A model answered {capo.pairs:,} of the collected questions wrongly on request: "
            "without their context (neglect), guessing what they refer to (hallucination), or from "
            "another part of the dialogue (misunderstanding). Parrot-Chat was then trained to "
            "prefer the collected answers to these. Over all questions of the exam it is right in "
            f"{with_interval(after)}; before, in {with_interval(before)}.",
            "This world leaves little to improve. The effect on a harder one is measured in the "
            "documentation, under benchmarks.",
        ],
        blocks=[
            capo_picture(files.exam.by_turn(), files.exam_capo.by_turn()),
            Table(
                columns=("Wrong answers", "Before", "After CaPO"),
                rows=[
                    (
                        _ERROR_NAMES[kind],
                        percent(capo.errors_by_kind_before[kind], 2),
                        percent(capo.errors_by_kind[kind], 2),
                    )
                    for kind in ERROR_KINDS
                ],
            ),
        ],
    )


def _kinds(files: QuickstartFiles) -> Section:
    ask = files.summary.ask
    return Section(
        heading="Questions like people’s",
        text=[
            "Every question of Parrot-Ask was parsed in its context: "
            f"{percent(ask.valid_question_rate, 1)} of {ask.n:,} make sense, and each has one "
            "kind. The distance of its kinds to people’s, from 0 (same distribution) to 1 "
            "(disjoint), is "
            f"{ask.kind_distance:.2f}. Between two samples of people it is "
            f"{ask.kind_distance_floor:.2f}.",
            f"Its perplexity on held-out people is {ask.user_ppl:.1f}, as if each token were a "
            "choice among that many equally likely ones. Before training it was "
            f"{ask.user_ppl_untrained:,.0f}.",
        ],
        blocks=[kinds_picture(*files.kinds.shares(), _kind_examples(files))],
    )


def _lengths(files: QuickstartFiles) -> Section:
    stops = sorted(files.summary.collection.stops.items(), key=lambda stop: -stop[1])
    total = sum(count for _, count in stops)
    return Section(
        heading="Length of the dialogues",
        text=[
            f"People leave after {_mean_rounds(files.people):.1f} questions on "
            "average. Parrot-Ask is not trained to leave, so a limit or a bad question ends its "
            f"dialogues: {files.summary.collection.mean_turns:.1f} questions on "
            "average. This is its purpose, because open data has few late turns. The "
            "paper’s Figure 3 is this chart for Parrot-40K, which has 8.71 turns per dialogue; "
            "ShareGPT has 6.67.",
        ],
        blocks=[
            lengths_picture([dialogue for dialogue, _ in files.collected], files.people),
            Table(
                columns=("Why a dialogue ended", "Dialogues", "Share"),
                rows=[
                    (_STOP_REASONS.get(reason, reason), f"{count:,}", percent(count / total, 1))
                    for reason, count in stops
                ],
            ),
        ],
    )


def _learning(files: QuickstartFiles) -> Section:
    return Section(
        heading="Learning",
        text=[
            "The loss is the mean cross-entropy on the trained tokens; lower is better. "
            "The three models train on different tokens (questions, all answers, first answers), "
            "so the curves show that each learned, not which one is best.",
        ],
        blocks=[losses_picture(files.ask, files.chat, files.chat_first_turn)],
    )


def _examples(files: QuickstartFiles) -> Section:
    exams = zip(files.exam.rows, files.exam_first_turn.rows, strict=True)
    shown = itertools.islice(exams, _NUM_EXAM_DIALOGUES)
    language = Language(files.world)
    # The first of each part.
    collected = {about.part: (dialogue, about) for dialogue, about in reversed(files.collected)}
    return Section(
        heading="Dialogues to read",
        text=[
            "These are not selected: they are the first of the exam, and the first that was "
            "collected from a question and from a short session. Below each question "
            "is its kind, or “given” if it is not from Parrot-Ask.",
        ],
        blocks=[
            *(_exam_transcript(number, pair) for number, pair in enumerate(shown, start=1)),
            *(_collected_transcript(*pair, language) for _, pair in sorted(collected.items())),
        ],
    )


def _exam_transcript(number: int, pair: tuple[ExamRow, ExamRow]) -> TranscriptPanel:
    exam = pair[0]
    return TranscriptPanel(
        title=f"Exam, dialogue {number}",
        asker="Question",
        answerers=("Trained on all turns", "Trained on first turns only"),
        rounds=[
            Round(
                question,
                KIND_NAMES.get(kind, kind),
                [Answer(row.answers[turn], row.right[turn], row.truths[turn]) for row in pair],
            )
            for turn, (question, kind) in enumerate(zip(exam.questions, exam.kinds, strict=True))
        ],
    )


def _collected_transcript(
    dialogue: Dialogue, about: Collected, language: Language
) -> TranscriptPanel:
    questions, answers = (
        [turn.text for turn in dialogue.turns if turn.role == role]
        for role in ("user", "assistant")
    )
    # Given questions: those of a session, or one whose answer is collected.
    num_given = len(answers) - about.collected_turns + (about.part == "question")
    kinds = ["given"] * num_given + _question_kinds(dialogue, language)[num_given:]
    return TranscriptPanel(
        title=f"Collected from {_PARTS[about.part]}",
        asker="Parrot-Ask",
        answerers=("Answerer",),
        rounds=[
            Round(question, KIND_NAMES.get(kind, kind), [Answer(answer)])
            for question, kind, answer in zip(questions, kinds, answers, strict=True)
        ],
    )


def _your_own(folder: Path) -> Section:
    return Section(
        heading="With your own data",
        text=[
            "The loop has these commands. Any key of a config can be overridden; “--help” after "
            f"a config lists them all. The configs of this run are in {folder / 'configs'}.",
        ],
        blocks=[Listing(_COMMANDS)],
    )


def _versions(files: QuickstartFiles) -> str:
    """Formats package versions; lists several of a package if it changed between the runs."""
    found: dict[str, list[str]] = {}
    for run in (files.ask, files.chat, files.chat_first_turn):
        for name, version in run.versions.items():
            if version and version not in found.setdefault(name, []):
                found[name].append(version)
    return ", ".join(f"{name} {' and '.join(versions)}" for name, versions in found.items())


def _overlap(first: Count, second: Count) -> bool:
    (low, high), (other_low, other_high) = share_interval(*first), share_interval(*second)
    return low <= other_high and other_low <= high


def _kind_examples(files: QuickstartFiles) -> dict[str, str]:
    """Returns a short example question of each kind."""
    language, examples = Language(files.world), {}
    for dialogue in files.people[:_NUM_EXAMPLE_DIALOGUES]:
        questions = dialogue.questions()
        for kind, question in zip(_question_kinds(dialogue, language), questions, strict=True):
            examples[kind] = min(examples.get(kind, question), question, key=len)
    return examples


def _question_kinds(dialogue: Dialogue, language: Language) -> list[str]:
    by_turn = asked_kinds(language, [(dialogue.questions(), 0)]).by_turn
    return [kind for turn in sorted(by_turn) for kind in by_turn[turn]]


def _mean_rounds(dialogues: Sequence[Dialogue]) -> float:
    return sum(dialogue.num_rounds for dialogue in dialogues) / len(dialogues)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
