"""Simulated users of the synthetic world ("people"): they refer back, correct themselves, leave.

A person draws the kind of the next question by the world's weights, among the kinds that are
possible, prefers facts not asked yet, and leaves after each answer with a constant probability.
"""

from collections.abc import Iterator
from random import Random

from parrot_jax.dialogue.types import Dialogue, Turn
from parrot_jax.world.facts import World
from parrot_jax.world.questions import (
    ASIDES,
    KINDS,
    Context,
    Language,
    Question,
    QuestionKind,
    true_answer,
)

LEAVE_PROBABILITY = 0.1
MOST_ROUNDS = 12


def people_dialogues(
    world: World, name: str, count: int, *, num_rounds: int | None = None
) -> Iterator[Dialogue]:
    """Yields dialogues of people with an answerer that makes no errors.

    Args:
      world: Their world.
      name: Name and seed of the sample: two names give two independent samples.
      count: Number of dialogues.
      num_rounds: Questions in each, >= 1; None = until the person leaves, after 12 at the latest.

    Yields:
      Dialogues `name-0`, `name-1`, ..., each ending with an answer; the metadata has the kind of
      each question under `kinds`.
    """
    language = Language(world)
    for number in range(count):
        random = Random(f"people {world.difficulty} {world.seed} {name} {number}")
        rounds = num_rounds or _rounds_until_leaving(random)
        turns, kinds, context = [], [], Context()
        asked: set[tuple[str, str]] = set()
        for _ in range(rounds):
            question = next_question(world, context, asked, random)
            text = language.say(question, context, random)
            if context.place is not None and random.random() < world.traits.aside_rate:
                aside = random.choice(ASIDES).format(place=random.choice(world.places))
                text = f"{aside} {text}"
            turns += [Turn("user", text), Turn("assistant", true_answer(world, question))]
            kinds.append(question.kind)
            asked |= {(place, question.attribute) for place in (question.place, question.other)
                      if place is not None}  # fmt: skip
            context = context.after(question)
        yield Dialogue(turns=tuple(turns), id=f"{name}-{number}", metadata={"kinds": kinds})


def _rounds_until_leaving(random: Random) -> int:
    rounds = 1
    while rounds < MOST_ROUNDS and random.random() >= LEAVE_PROBABILITY:
        rounds += 1
    return rounds


def next_question(
    world: World, context: Context, asked: set[tuple[str, str]], random: Random
) -> Question:
    """Draws the next question of a person.

    Args:
      world: The person's world.
      context: The context after the previous questions.
      asked: (place, attribute) pairs that were answered already.
      random: Random generator.
    """
    if context.place is None or context.attribute is None:
        return Question("full", random.choice(world.places), random.choice(world.attributes))
    kinds = list(KINDS)
    while True:
        weights = [world.traits.kind_weights[kind] for kind in kinds]
        kind = random.choices(kinds, weights)[0]
        candidates = _candidates(world, kind, context)
        if kind not in ("back", "comparison"):  # these two may repeat a known fact
            candidates = [q for q in candidates if (q.place, q.attribute) not in asked]
        if candidates:
            return random.choice(candidates)
        kinds.remove(kind)


def _candidates(world: World, kind: QuestionKind, context: Context) -> list[Question]:
    """Returns the possible questions of a kind in a nonempty context."""
    place, attribute = str(context.place), str(context.attribute)
    elsewhere = [other for other in world.places if other != place]
    otherwise = [other for other in world.attributes if other != attribute]
    if kind in ("full", "shift"):
        return [Question(kind, p, a) for p in elsewhere for a in otherwise]
    if kind == "anaphora":
        return [Question(kind, place, a) for a in otherwise]
    if kind == "ellipsis":
        return [Question(kind, p, attribute) for p in elsewhere]
    if kind == "comparison":
        return [Question(kind, place, attribute, p) for p in elsewhere]
    if kind == "correction":
        places = [Question(kind, p, attribute) for p in elsewhere]
        # As many corrections of the place as of the attribute, although there are more places.
        return places[:: len(places) // len(otherwise)] + [
            Question(kind, place, a) for a in otherwise
        ]
    reachable = [
        named for named in context.named[: len(world.traits.ordinals)] if named[0] != place
    ]
    back = [Question(kind, p, a) for p, _ in reachable for a in world.attributes]
    # In half of the cases, the attribute asked when the place was named: "The first one again?"
    return back + [Question(kind, *named) for named in reachable] * (len(world.attributes) - 2)
