"""What is sent to the judge about each turn, and how its reply is read."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.conversations import Conversation
from parrot_jax.evaluate.judge_config import JudgeConfig
from parrot_jax.evaluate.judge_prompts import JudgeMode, JudgePrompt, JudgePrompts
from parrot_jax.evaluate.verdicts import Verdict, read_comparison, read_grade


class Task(NamedTuple):
    """A turn to judge."""

    conversations: tuple[Conversation, ...]
    """One to grade, two to compare."""
    turn: int
    """From 1."""
    prompt: JudgePrompt
    requests: tuple[list[dict[str, str]], ...]
    """The messages: one list to grade, one per order to compare."""

    def input(self) -> str:
        """The task in the journal. A changed answer is another task."""
        content = json.dumps(self.requests, ensure_ascii=False)
        key: dict[str, Any] = {
            "models": [one.model for one in self.conversations],
            "history": self.conversations[0].history,
            "question": self.conversations[0].question_id,
            "turn": self.turn,
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
        }
        return json.dumps(key, ensure_ascii=False)

    def read(self, reply: Reply, order: int) -> Verdict:
        """The verdict in a reply to one of the requests."""
        if reply.outcome is not Outcome.COMPLETE:
            return Verdict(None, f"the reply is {reply.outcome.value}")
        if len(self.conversations) == 1:
            return read_grade(reply.text)
        return read_comparison(reply.text, order)


class Failed(NamedTuple):
    """A turn that cannot be judged, because an answer is missing."""

    conversations: tuple[Conversation, ...]
    turn: int
    reason: str


def make_tasks(
    config: JudgeConfig, conversations: Sequence[Conversation], prompts: JudgePrompts
) -> tuple[list[Task], list[Failed]]:
    """The turns to judge, and those that cannot be judged.

    Raises:
      UserError: The prompts have none for a turn, or there is nothing to compare.
    """
    groups: Sequence[tuple[Conversation, ...]] = [(one,) for one in conversations]
    if config.mode == "pairwise":
        groups = list(_pairs(conversations, config.baseline))
        if not groups:
            raise UserError(
                "there is nothing to compare: no two models answered the same question with the "
                f"same history{f', one of them {config.baseline}' if config.baseline else ''}."
            )
    tasks, failed = [], []
    for group in groups:
        for turn in range(1, len(group[0].questions) + 1):
            if reason := _why_not(group, turn):
                failed.append(Failed(group, turn, reason))
            else:
                tasks.append(_task(config.mode, group, turn, prompts))
    return tasks, failed


def _pairs(
    conversations: Sequence[Conversation], baseline: str | None
) -> Iterator[tuple[Conversation, Conversation]]:
    by_question: dict[tuple[str, str], list[Conversation]] = {}
    for one in conversations:
        by_question.setdefault((str(one.question_id), one.history), []).append(one)
    for group in by_question.values():
        for first, second in itertools.combinations(sorted(group, key=lambda one: one.model), 2):
            if baseline in (None, first.model):
                yield first, second
            elif baseline == second.model:
                yield second, first


def _why_not(group: tuple[Conversation, ...], turn: int) -> str:
    for one in group:
        if one.answers[turn - 1] is None:
            return one.reasons.get(turn, "missing")
    shown = [one.texts(turn, "answer") for one in group]
    if None in shown or len({len(texts) for texts in shown if texts is not None}) > 1:
        return "an earlier answer is missing"
    return ""


def _task(
    mode: JudgeMode, group: tuple[Conversation, ...], turn: int, prompts: JudgePrompts
) -> Task:
    slots = ("answer",) if mode == "single" else ("answer_a", "answer_b")
    orders = [group] if mode == "single" else [group, group[::-1]]
    shown = [_shown(order, turn, slots) for order in orders]
    with_references = all("ref_answer" in texts for texts in shown[0])
    prompt = prompts.choose(mode, len(shown[0]), with_references=with_references)
    requests = tuple(prompt.messages(turns) for turns in shown)
    return Task(group, turn, prompt, requests)


def _shown(
    group: tuple[Conversation, ...], turn: int, slots: Sequence[str]
) -> list[dict[str, str]]:
    """The texts of the turns to show; of two conversations side by side."""
    parts = []
    for one, slot in zip(group, slots, strict=True):
        texts = one.texts(turn, slot)
        assert texts is not None  # `_why_not` has looked
        parts.append(texts)
    return [
        dict(itertools.chain(*(part.items() for part in turns)))
        for turns in zip(*parts, strict=True)
    ]
