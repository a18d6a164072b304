"""Questions with their dialogue and their collected answer, in an order of seed and content."""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from parrot_jax.core.logs import console, counting
from parrot_jax.dialogue.phrases import only_thanks, refuses
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources
from parrot_jax.dialogue.types import Dialogue

SECOND_OF_ID = "another dialogue has its id"


@dataclass(frozen=True)
class Question:
    """A question after the first one, with the answer that was chosen."""

    dialogue: Dialogue
    turn: int
    """From 2."""

    @property
    def place(self) -> tuple[str, int]:
        """The dialogue's id, and the turn."""
        return self.dialogue.id, self.turn

    @property
    def text(self) -> str:
        """The question."""
        return self.dialogue.turns[2 * self.turn - 2].text

    @property
    def answer(self) -> str:
        """The chosen answer."""
        return self.dialogue.turns[2 * self.turn - 1].text

    @property
    def weight(self) -> float:
        """The loss weight of the answer."""
        return self.dialogue.turns[2 * self.turn - 1].weight

    @property
    def earlier(self) -> list[str]:
        """The earlier questions."""
        return self.dialogue.questions()[: self.turn - 1]

    @property
    def system(self) -> list[dict[str, str]]:
        """The system message of the dialogue, if it has one."""
        text = self.dialogue.system
        return [{"role": "system", "content": text}] if text else []

    def messages(self) -> list[dict[str, str]]:
        """The dialogue up to the question."""
        return self.dialogue.messages()[: len(self.system) + 2 * self.turn - 1]

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of `messages`, in hexadecimal."""
        content = json.dumps(self.messages(), ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def answered_by(self) -> str | None:
        """The model of the chosen answer, if the row of the dialogue names it."""
        found: Any = self.dialogue.metadata.get("model")
        collection = self.dialogue.metadata.get("collection")
        if isinstance(collection, dict) and isinstance(collection.get("models"), dict):
            found = collection["models"].get("answerer", found)
        names = found if isinstance(found, list) else [found]
        return ", ".join(filter(None, (n for n in names if isinstance(n, str)))) or None


def why_unfit(question: Question) -> str:
    """Why a question and its answer make no pair; empty = they do."""
    answer = question.dialogue.turns[2 * question.turn - 1]
    if only_thanks(question.text):
        return "thanks or good-bye"
    if answer.context:
        return "its answer used a tool"
    if answer.weight == 0:
        return "its answer has weight 0"
    if refuses(answer.text):
        return "its answer is a refusal"
    return ""


@dataclass
class Pool:
    """The questions that may be selected."""

    questions: list[Question] = field(default_factory=list)
    """In the order in which they are drawn."""
    whys: dict[tuple[str, int], str] = field(default_factory=dict)
    """By place: what the rule of the pool said."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Later questions that are not in the pool, by reason."""
    report: ReadReport = field(default_factory=ReadReport)


def read_pool(
    sources: Sequence[SourceConfig], *, seed: int, rule: Callable[[Question], tuple[str, str]]
) -> Pool:
    """Reads the questions of all dialogues; those of the pool are held in memory.

    Args:
      sources: The dialogues.
      seed: Seed of the order, and of the sources' samples.
      rule: Returns why a question is in the pool, and why it is left out; one is empty.

    Raises:
      UserError: See `read_sources`.
    """
    pool = Pool()
    for question in _questions(sources, seed, pool):
        why, out = rule(question)
        out = out or why_unfit(question)
        if out:
            pool.left_out[out] += 1
        else:
            pool.questions.append(question)
            pool.whys[question.place] = why
    pool.questions.sort(key=functools.partial(_order, seed))
    return pool


def _questions(sources: Sequence[SourceConfig], seed: int, pool: Pool) -> Iterator[Question]:
    """The answered questions from turn 2 on, each place once."""
    seen: dict[str, bytes] = {}
    with counting("dialogues read") as advance:
        for dialogue in read_sources(sources, seed=seed, report=pool.report):
            advance()
            content = dialogue.content_hash()
            if dialogue.id in seen:
                if seen[dialogue.id] != content:
                    later = max(0, len(dialogue.turns) // 2 - 1)
                    pool.left_out[SECOND_OF_ID] += later
                continue
            seen[dialogue.id] = content
            for turn in range(2, len(dialogue.turns) // 2 + 1):
                yield Question(dialogue, turn)
    if pool.report.broken:
        console.print(pool.report.summary(), markup=False, highlight=False)


def _order(seed: int, question: Question) -> tuple[bytes, str]:
    digest = hashlib.sha256(f"negatives {seed} {question.sha256}".encode()).digest()
    return digest, question.dialogue.id
