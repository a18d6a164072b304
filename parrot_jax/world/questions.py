"""Generates and parses the questions of the synthetic world, and gives the true answers.

    What is the river of Velor?      full: complete without context
    And its mayor?                   anaphora: the place of the last question
    What about Tamis?                ellipsis: the attribute of the last question
    And the dish of the first one?   back-reference: the first named place
    The first one again?             back-reference: also with the attribute asked then
    Compare it with Velor.           comparison: the last question for two places
    No, I meant the flower.          correction: replaces part of the last question
    By the way, which ...?           topic shift: a marked full question

Generator and parser share one table of templates. A text that fits no template, or whose reference
cannot be resolved, is `Invalid`; the parser never guesses.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from parrot_jax.world.facts import World

QuestionKind = Literal["full", "shift", "anaphora", "ellipsis", "back", "comparison", "correction"]
KINDS: tuple[QuestionKind, ...] = (
    "full", "shift", "anaphora", "ellipsis", "back", "comparison", "correction",
)  # fmt: skip

TEMPLATES: dict[QuestionKind, tuple[str, ...]] = {
    "full": (
        "What is the {attribute} of {place}?",
        "Which {attribute} does {place} have?",
        "Tell me the {attribute} of {place}.",
    ),
    "shift": (
        "By the way, what is the {attribute} of {place}?",
        "Something else: which {attribute} does {place} have?",
    ),
    "anaphora": (
        "And its {attribute}?",
        "What is its {attribute}?",
        "What {attribute} does it have?",
    ),
    "ellipsis": ("What about {place}?", "And {place}?", "And in {place}?"),
    "back": (
        "And the {attribute} of the {ordinal} one?",
        "Back to the {ordinal} one: its {attribute}?",
        "The {ordinal} one again?",
        "What was the {ordinal} one?",
    ),
    "comparison": ("Compare it with {place}.", "How does that compare with {place}?"),
    "correction": (
        "No, I meant {place}.",
        "Sorry, I meant {place}.",
        "No, I meant the {attribute}.",
        "Sorry, I meant the {attribute}.",
    ),
}
ASIDES = ("My aunt lives in {place}.", "I have never been to {place}.", "A friend is from {place}.")


class Question(NamedTuple):
    """A question resolved in its context."""

    kind: QuestionKind
    place: str
    attribute: str
    other: str | None = None
    """The second place of a comparison."""

    @property
    def places(self) -> tuple[str, ...]:
        """The places that it asks about."""
        return (self.place,) if self.other is None else (self.place, self.other)


class Invalid(NamedTuple):
    """Why a text cannot be parsed or resolved in its context."""

    reason: Literal["unparsable", "unknown_name", "no_referent"]


@dataclass(frozen=True, slots=True)
class Context:
    """The references that the earlier questions allow.

    Answers do not change it, so a wrong answer does not affect the true answer of the next
    question.
    """

    place: str | None = None
    """The last named place: that of the last question; for a comparison, the second."""
    attribute: str | None = None
    """Its attribute."""
    named: tuple[tuple[str, str], ...] = ()
    """The places in the order in which they were first named, each with the attribute asked
    then."""

    def after(self, question: Question) -> "Context":
        """Returns the context after this question."""
        named = dict(self.named)
        for place in (question.place, question.other):
            if place is not None:
                named.setdefault(place, question.attribute)
        return Context(question.other or question.place, question.attribute, tuple(named.items()))


class Language:
    """Generates and parses the questions of one world."""

    def __init__(self, world: World) -> None:
        """Compiles the templates."""
        self.world = world
        self._patterns: list[tuple[QuestionKind, re.Pattern[str]]] = [
            (kind, _pattern(template))
            for kind, templates in TEMPLATES.items()
            for template in templates
        ]
        self._asides = [re.compile(_pattern(aside).pattern + " (?P<rest>.*)") for aside in ASIDES]

    def understand(self, text: str, context: Context) -> Question | Invalid:
        """Parses a text in this context.

        Args:
          text: Any text; only surrounding white space is ignored.
          context: The context before it.

        Returns:
          The question, or why it is invalid: `unparsable` = fits no template, `unknown_name` =
          names a place or attribute that does not exist, `no_referent` = refers to something never
          named, or compares a place with itself.
        """
        text = text.strip()
        for pattern in self._asides:
            if aside := pattern.fullmatch(text):
                text = aside["rest"]
                if aside["place"] not in self.world.places:
                    return Invalid("unknown_name")
        for kind, pattern in self._patterns:
            match = pattern.fullmatch(text)
            if match:
                return self._resolve(kind, match.groupdict(), context)
        return Invalid("unparsable")

    def _resolve(
        self, kind: QuestionKind, slots: dict[str, str], context: Context
    ) -> Question | Invalid:
        place, attribute = slots.get("place"), slots.get("attribute")
        if place is not None and place not in self.world.places:
            return Invalid("unknown_name")
        if attribute is not None and attribute not in self.world.attributes:
            return Invalid("unknown_name")
        if "ordinal" in slots:
            if slots["ordinal"] not in self.world.traits.ordinals:
                return Invalid("unknown_name")
            index = self.world.traits.ordinals.index(slots["ordinal"])
            if index >= len(context.named):
                return Invalid("no_referent")
            place, first_attribute = context.named[index]
            attribute = attribute or first_attribute
        if kind == "comparison":
            if context.place is None or context.attribute is None or context.place == place:
                return Invalid("no_referent")
            return Question(kind, context.place, context.attribute, place)
        if kind == "correction" and context.place is None:
            return Invalid("no_referent")
        place, attribute = place or context.place, attribute or context.attribute
        if place is None or attribute is None:
            return Invalid("no_referent")
        return Question(kind, place, attribute)

    def say(self, question: Question, context: Context, random: Random) -> str:
        """Returns a random phrase for this question in this context.

        Raises:
          ValueError: No phrase of its kind fits this context.
        """
        phrases = [
            phrase
            for template in TEMPLATES[question.kind]
            for phrase in self._fill(template, question)
            if self.understand(phrase, context) == question
        ]
        if not phrases:
            raise ValueError(f"no {question.kind} phrase for {question} after {context}")
        return random.choice(phrases)

    def _fill(self, template: str, question: Question) -> list[str]:
        place = question.other if question.kind == "comparison" else question.place
        filled = template.replace("{attribute}", question.attribute).replace("{place}", place or "")
        if "{ordinal}" not in filled:
            return [filled]
        return [filled.replace("{ordinal}", ordinal) for ordinal in self.world.traits.ordinals]

    def context_after(self, questions: Sequence[str]) -> Context:
        """Returns the context after these questions; invalid ones do not change it."""
        context = Context()
        for text in questions:
            question = self.understand(text, context)
            if isinstance(question, Question):
                context = context.after(question)
        return context


def true_answer(world: World, question: Question) -> str:
    """Returns the exact right answer.

    >>> from parrot_jax.world.facts import make_world
    >>> world = make_world("easy", 0)
    >>> place, value = world.places[0], world.facts[world.places[0], "dish"]
    >>> true_answer(world, Question("full", place, "dish")) == f"The dish of {place} is {value}."
    True
    """
    value = world.facts[question.place, question.attribute]
    answer = f"The {question.attribute} of {question.place} is {value}"
    if question.other is None:
        return answer + "."
    return (
        f"{answer}, that of {question.other} is {world.facts[question.other, question.attribute]}."
    )


def _pattern(template: str) -> re.Pattern[str]:
    """Compiles a template; a slot matches one word."""
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\w+)", re.escape(template)))
