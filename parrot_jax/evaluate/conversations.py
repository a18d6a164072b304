"""Conversations to judge: the answers of models to a benchmark, or any dialogues."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import console, visible
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.evaluate.answer_config import History
from parrot_jax.evaluate.benchmark import Question
from parrot_jax.evaluate.sheets import Sheet, model_id_of

ANSWERER_STOPS = frozenset(
    {"empty_answer", "cut_answer", "filtered_answer", "meaningless_answer", "refusal",
     "answerer_asks"}
)  # fmt: skip
"""Reasons for which `parrot collect` ends a dialogue that are the answerer's fault."""
ASKER_STOPS = frozenset(
    {"cut_question", "filtered_question", "repeated_question", "short_question", "asker_answers",
     "language_switch", "thanks"}
)  # fmt: skip
"""Those that are the asker's fault."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Questions and the answers of one model."""

    model: str
    question_id: int | str
    category: str = ""
    history: History = "own"
    questions: tuple[str, ...]
    answers: tuple[str | None, ...]
    """One per question; None = missing."""
    references: tuple[str | None, ...]
    """One per question; None = no reference."""
    shown: tuple[str | None, ...]
    """The earlier answers that the judge sees: those that the model saw. A model without history
    saw none; the judge sees its answers with its own history, or else those without."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why an answer is missing, by turn from 1."""
    reference_model: str = ""
    """Who wrote the references; empty = unknown."""
    asker_stop: str = ""
    """What the asker did wrong, so that the dialogue ended; empty = nothing."""

    @property
    def model_id(self) -> str:
        """The model's name in FastChat's files; see `model_id_of`."""
        return model_id_of(self.model, self.history)

    def texts(self, turn: int, slot: str) -> list[dict[str, str]] | None:
        """What a prompt shows of the turns up to one, from 1.

        Args:
          turn: The turn to judge.
          slot: The slot of the answers.

        Returns:
          None if an answer is missing.
        """
        answers = [*self.shown[: turn - 1], self.answers[turn - 1]]
        shown = []
        for place, (question, answer, reference) in enumerate(
            zip(self.questions, answers, self.references, strict=False), start=1
        ):
            if answer is None and self.history == "none" and place < turn:
                continue  # the model saw no earlier turn anyway
            if answer is None:
                return None
            texts = {"question": question, slot: answer}
            if reference is not None:
                texts["ref_answer"] = reference
            shown.append(texts)
        return shown


def from_sheets(questions: Sequence[Question], sheets: Iterable[Sheet]) -> list[Conversation]:
    """The answers of models to a benchmark.

    Raises:
      UserError: A model answered an unknown question, or another number of turns.
    """
    by_id = {str(question.id): question for question in questions}
    sheets = list(sheets)
    own = {(s.model, str(s.question_id)): s.answers for s in sheets if s.history == "own"}
    found, unknown = [], set[str]()
    for sheet in sheets:
        question = by_id.get(str(sheet.question_id))
        if question is None:
            unknown.add(str(sheet.question_id))
            continue
        if len(sheet.answers) != len(question.turns):
            raise UserError(
                f"{sheet.model_id} has {len(sheet.answers)} answers to question "
                f"{sheet.question_id}, which has {len(question.turns)} turns in the benchmark; "
                "judge with the benchmark that was answered."
            )
        shown: tuple[str | None, ...] = sheet.answers
        if sheet.history == "reference":
            shown = question.references
        elif sheet.history == "none":
            answers = own.get((sheet.model, str(sheet.question_id)), sheet.answers)
            shown = tuple(
                with_history or without
                for with_history, without in zip(answers, sheet.answers, strict=True)
            )
        found.append(
            Conversation(
                model=sheet.model,
                question_id=sheet.question_id,
                category=question.category,
                history=sheet.history,
                questions=question.turns,
                answers=sheet.answers,
                references=question.references,
                shown=shown,
                reasons=sheet.reasons,
                reference_model=question.reference_model,
            )
        )
    if unknown and not found:
        raise UserError(
            f"none of the answered questions is in the benchmark; the first is {min(unknown)}."
        )
    if unknown:
        console.print(f"{len(unknown):,} answered questions are not in the benchmark; not judged")
    for model_id, answered in Counter(one.model_id for one in found).items():
        if answered < len(questions):
            console.print(
                f"{visible(model_id)} has no answers to {len(questions) - answered:,} of the "
                f"{len(questions):,} questions of the benchmark; they do not count"
            )
    return found


def from_dialogues(model: str, dialogues: Iterable[Dialogue]) -> list[Conversation]:
    """Dialogues of any origin; their answers are judged without references.

    Args:
      model: The name under which they are judged.
      dialogues: A last question without an answer is left out. If a collected dialogue was ended by
        the answerer's fault, one more turn has a missing answer; if by the asker's, nothing counts
        against the model.

    Raises:
      UserError: Two dialogues have the same id.
    """
    found: dict[str, Conversation] = {}
    unanswered = 0
    for dialogue in dialogues:
        answers = tuple(turn.whole for turn in dialogue.turns if turn.role == "assistant")
        if not answers:
            unanswered += 1
            continue
        if dialogue.id in found:
            raise UserError(f"two dialogues of {model} have the id {dialogue.id}.")
        category = dialogue.metadata.get("category", "")
        collected = dialogue.metadata.get("collection")
        stop = str(collected.get("stop")) if isinstance(collected, Mapping) else ""
        questions = tuple(dialogue.questions()[: len(answers)])
        reasons: dict[int, str] = {}
        said: tuple[str | None, ...] = answers
        if stop in ANSWERER_STOPS:
            # The rejected question and answer are not in the dialogue.
            questions, said = (*questions, ""), (*answers, None)
            reasons[len(said)] = stop
        found[dialogue.id] = Conversation(
            model=model,
            question_id=dialogue.id,
            category=category if isinstance(category, str) else "",
            questions=questions,
            answers=said,
            references=(None,) * len(said),
            shown=said,
            reasons=reasons,
            asker_stop=stop if stop in ASKER_STOPS else "",
        )
    if unanswered:
        console.print(f"{unanswered:,} dialogues of {visible(model)} have no answer; not judged")
    return list(found.values())
