"""The answerer of the synthetic world: gives the true answer, or a wrong one at a given rate.

It reads only the questions, not its own answers. It answers what it cannot parse with `NO_ANSWER`,
which a collection treats as meaningless.
"""

from collections.abc import Sequence
from random import Random

from parrot_jax.core.errors import UserError
from parrot_jax.world.facts import World
from parrot_jax.world.questions import Context, Language, Question, true_answer

NO_ANSWER = "I do not understand."


class Answerer:
    """Answers from a world's facts. Equal histories get equal answers."""

    def __init__(self, world: World, *, mistake_rate: float = 0.0) -> None:
        """Stores the facts and the error rate.

        Args:
          world: The facts.
          mistake_rate: Share of wrong answers, in [0, 1]. They are plausible: an invented value, or
            the place or attribute of an earlier question.

        Raises:
          UserError: The rate is out of range.
        """
        if not 0 <= mistake_rate <= 1:
            raise UserError(f"mistake_rate is {mistake_rate}; it must be in [0, 1].")
        self.language = Language(world)
        self.mistake_rate = mistake_rate

    def answer(self, questions: Sequence[str]) -> str:
        """Returns the answer to the last of these questions, which were asked in this order."""
        context = self.language.context_after(questions[:-1])
        question = self.language.understand(questions[-1], context)
        if not isinstance(question, Question):
            return NO_ANSWER
        world = self.language.world
        random = Random("\n".join([f"answer {world.difficulty} {world.seed}", *questions]))
        if random.random() >= self.mistake_rate:
            return true_answer(world, question)
        return random.choice(wrong_answers(world, question, context))


def wrong_answers(world: World, question: Question, context: Context) -> list[str]:
    """Returns plausible wrong answers: for another place or attribute, or with another value."""
    right = true_answer(world, question)
    misread = [question._replace(place=place) for place, _ in context.named]
    misread += [question._replace(attribute=attribute) for attribute in world.attributes]
    value = world.facts[question.place, question.attribute]
    others = {world.facts[place, question.attribute] for place in world.places} - {value}
    wrong = [true_answer(world, other) for other in misread]
    wrong += [right.replace(f" is {value}", f" is {other}", 1) for other in sorted(others)]
    return [answer for answer in wrong if answer != right]
