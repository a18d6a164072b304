"""Context errors in the synthetic world: makes them for CaPO, and finds them in wrong answers.

neglect            answers from the question alone, without its dialogue
hallucination      names a place or attribute that is not in the dialogue
misunderstanding   names another place or attribute of the dialogue
wrong_fact         names what was asked for, but a wrong value
other              is no sentence of this world
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from random import Random
from typing import Any, Literal

from parrot_jax.world.facts import World
from parrot_jax.world.questions import Context, Language, Question, true_answer

ErrorKind = Literal["neglect", "hallucination", "misunderstanding", "wrong_fact", "other"]
ERROR_KINDS: tuple[ErrorKind, ...] = (
    "neglect", "hallucination", "misunderstanding", "wrong_fact", "other",
)  # fmt: skip

WHICH_PLACE = "Which place do you mean?"
PROMPTS: Mapping[str, str] = {
    "neglect": "{{ question }}",
    "hallucination": "Guess: {{ question }}",
    "misunderstanding": "Elsewhere: {{ question }}",
}
"""Prompts for `parrot negatives build`, by which the world's model knows what to do."""

_ANSWER = re.compile(
    r"The (?P<attribute>\w+) of (?P<place>\w+) is (?P<value>\w+)"
    r"(?:, that of (?P<other>\w+) is (?P<value_of_other>\w+))?\."
)
_WORD = re.compile(r"\w+")


class WrongAnswerer:
    """Answers as `PROMPTS` ask: wrongly, but in sentences of the world. Repeatable."""

    def __init__(self, world: World) -> None:
        """Stores the facts."""
        self._world, self._language = world, Language(world)

    def answer(self, questions: Sequence[str]) -> str:
        """Answers the last of some questions; its prompt says which error to make."""
        *before, asked = questions
        kind, _, text = asked.partition(": ")
        random = Random(f"{self._world.seed} {questions}")
        if kind == "Elsewhere":
            return self._misunderstand(before, text, random)
        if kind == "Guess":
            return self._say(text, random.choice(self._world.places), random)
        place, _ = self._named(asked)
        return WHICH_PLACE if place is None else self._say(asked, place, None)

    def _say(self, text: str, guess: str, random: Random | None) -> str:
        """Answers from what a question names; the rest is guessed."""
        world, (place, attribute) = self._world, self._named(text)
        if attribute is None:
            attribute = random.choice(world.attributes) if random else world.attributes[0]
        return true_answer(world, Question("full", place or guess, attribute))

    def _named(self, text: str) -> tuple[str | None, str | None]:
        """The last place and attribute that a text names."""
        words = _WORD.findall(text)
        places = [word for word in words if word in self._world.places]
        attributes = [word for word in words if word in self._world.attributes]
        return (places or [None])[-1], (attributes or [None])[-1]

    def _misunderstand(self, before: Sequence[str], text: str, random: Random) -> str:
        """Answers about another place of the dialogue, or else another attribute."""
        question = self._language.understand(text, self._language.context_after(before))
        if not isinstance(question, Question):
            return WHICH_PLACE
        asked = list(resolved(self._language, before))
        places = dict.fromkeys(place for other in asked for place in other.places)
        attributes = dict.fromkeys(other.attribute for other in asked)
        alone = question._replace(other=None)
        right = true_answer(self._world, question)
        for misread in (
            [alone._replace(place=place) for place in places],
            [alone._replace(attribute=attribute) for attribute in attributes],
        ):
            answers = [true_answer(self._world, other) for other in misread]
            if answers := [answer for answer in answers if answer != right]:
                return random.choice(answers)
        return WHICH_PLACE


def resolved(language: Language, questions: Iterable[str]) -> Iterator[Question]:
    """The questions of a dialogue, each resolved in its context; invalid ones are left out."""
    context = Context()
    for text in questions:
        question = language.understand(text, context)
        if isinstance(question, Question):
            context = context.after(question)
            yield question


def error_kind(question: Question, text: str, answer: str, *, before: Set[str]) -> ErrorKind:
    """The kind of a wrong answer.

    Args:
      question: The resolved question.
      text: Its text.
      answer: The wrong answer.
      before: The places and attributes of the earlier questions.
    """
    if answer == WHICH_PLACE:
        return "neglect"
    said = _ANSWER.fullmatch(answer)
    if said is None:
        return "other"
    names = {said["place"], said["other"], said["attribute"]} - {None}
    wrong = names - {question.place, question.other, question.attribute}
    if not wrong:
        is_same = said["place"] == question.place and said["other"] == question.other
        return "wrong_fact" if is_same else "misunderstanding"
    # The question may have such a name too: "My aunt lives in Velor. And its mayor?"
    wrong -= set(_WORD.findall(text))
    if not wrong:
        return "neglect"
    return "misunderstanding" if wrong <= before else "hallucination"


def errors_by_turn(
    language: Language, rows: Iterable[Mapping[str, Any]]
) -> list[Counter[ErrorKind]]:
    """Counts the errors of an exam.

    Args:
      language: The parser.
      rows: Of `take_exam`: the questions, answers and `right` of each dialogue.

    Returns:
      Counts by kind, for each turn.
    """
    found: list[Counter[ErrorKind]] = []
    for row in rows:
        before: set[str] = set()
        questions = list(resolved(language, row["questions"]))
        for turn, question in enumerate(questions):
            if turn == len(found):
                found.append(Counter())
            if not row["right"][turn]:
                text, answer = row["questions"][turn], row["answers"][turn]
                found[turn][error_kind(question, text, answer, before=before)] += 1
            before |= {*question.places, question.attribute}
    return found
