"""Finds benchmark questions in training dialogues by word n-gram overlap.

A question of at least `ngram` words is found by any of its n-grams, a shorter one only as a whole,
and one below `min_words` never: "Write a poem about it" occurs in every large corpus. Words are
compared without case and punctuation, but with the symbols of formulas and code: C is not C++, and
3 + 4 is not 3 - 4.

Source: the 13-word overlap of GPT-3, arXiv:2005.14165, appendix C.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input
from parrot_jax.dialogue.clean import Cleaned, require
from parrot_jax.dialogue.json_stream import stream_rows
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.words import signed_words

MAX_LISTED_HITS = 10_000
"""More hits than these are counted but not listed in the report."""

_QUESTION_KEYS = (
    *("turns", "messages", "conversation", "conversations", "history", "data"),
    *("instruction", "question", "prompt", "text"),
)
_USER_KEYS = ("user", "human", "question", "content", "value")
_USERS = ("user", "human", "prompter")


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """Find benchmark questions in the dialogues."""

    benchmarks: tuple[str, ...] = ()
    """Files of benchmark questions; docs/data_formats.md lists the formats."""
    ngram: int = 13
    """Number of consecutive words of a question that count as a hit, >= 1; shorter questions must
    match as a whole."""
    min_words: int = 6
    """Questions with fewer words are skipped, >= 1."""
    all_turns: bool = False
    """Search answers too, not only questions."""
    drop: bool = True
    """Drop dialogues with a hit; false = only report them."""

    def __post_init__(self) -> None:
        require(self.ngram >= 1, "ngram", self.ngram, ">= 1")
        require(self.min_words >= 1, "min_words", self.min_words, ">= 1")
        require(bool(self.benchmarks), "benchmarks", self.benchmarks, "one file or more")


@dataclass(frozen=True, slots=True)
class BenchmarkQuestion:
    """One text that must not be trained on."""

    file: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class ContaminationHit:
    """A benchmark question found in a dialogue."""

    dialogue: str
    """The dialogue's id."""
    turn: int
    """The turn in which it was found, from 1."""
    benchmark: str
    """The question as `file:line`."""
    question: str
    overlap: str
    """The first common n-gram, without case and punctuation."""

    def to_json(self) -> dict[str, Any]:
        """The hit as a JSON object."""
        return asdict(self)


def read_benchmark(path: Path | str) -> list[BenchmarkQuestion]:
    """Reads the questions of a benchmark file.

    Args:
      path: A `.txt` file with one question per line, or JSON lines or a JSON list whose rows are
        texts or objects with `turns` (MT-Bench), `messages` or `conversations` (their user turns),
        `conversation` or `history` (`[{"user", ...}]`, MT-Bench-101), `data` (UltraChat: one text,
        or questions and answers in turn), `instruction` (AlpacaEval), `question`, `prompt` or
        `text`.

    Returns:
      The questions in the order of the file; every turn of a dialogue is a separate question.

    Raises:
      UserError: The file cannot be read, a row has no question, or there is none at all.
    """
    name = str(path)
    questions = [BenchmarkQuestion(name, line, text) for line, text in _texts(path) if text.strip()]
    if not questions:
        raise UserError(f"{path} has no benchmark questions; check the path.")
    return questions


class ContaminationIndex:
    """Finds benchmark questions in dialogues, in one pass over each dialogue.

    Args:
      questions: The questions to find.
      ngram: Consecutive words that count as an overlap, >= 1.
      min_words: The shortest question to search for, >= 1.
    """

    def __init__(
        self, questions: Iterable[BenchmarkQuestion], *, ngram: int = 13, min_words: int = 6
    ) -> None:
        self.num_questions = 0
        self.too_short: list[BenchmarkQuestion] = []
        """Questions with fewer than `min_words` words, which are skipped."""
        # N-grams of several lengths are found in one pass by their first words.
        self._num_first = min(ngram, min_words)
        self._runs: dict[str, dict[tuple[str, ...], list[BenchmarkQuestion]]] = defaultdict(dict)
        for question in questions:
            words = signed_words(question.text)
            if len(words) < self._num_first:
                self.too_short.append(question)
                continue
            self.num_questions += 1
            length = min(ngram, len(words))
            for start in range(len(words) - length + 1):
                run = tuple(words[start : start + length])
                owners = self._runs[self._first(run, 0)].setdefault(run, [])
                if question not in owners:
                    owners.append(question)

    def hits(self, dialogue: Dialogue, *, all_turns: bool = False) -> list[ContaminationHit]:
        """Finds the benchmark questions in a dialogue.

        Args:
          dialogue: Any dialogue.
          all_turns: Search answers too, not only questions.

        Returns:
          The first overlap with each question, in the order of the dialogue.
        """
        found: dict[BenchmarkQuestion, ContaminationHit] = {}
        for number, turn in enumerate(dialogue.turns, start=1):
            if turn.role != "user" and not all_turns:
                continue
            for question, run in self._overlaps(signed_words(turn.whole)):
                if question not in found:
                    found[question] = ContaminationHit(
                        dialogue.id,
                        number,
                        f"{question.file}:{question.line}",
                        question.text,
                        " ".join(run),
                    )
        return list(found.values())

    def _first(self, words: list[str] | tuple[str, ...], start: int) -> str:
        return " ".join(words[start : start + self._num_first])

    def _overlaps(self, words: list[str]) -> Iterator[tuple[BenchmarkQuestion, tuple[str, ...]]]:
        for start in range(len(words) - self._num_first + 1):
            for run, questions in self._runs.get(self._first(words, start), {}).items():
                if tuple(words[start : start + len(run)]) == run:
                    yield from ((question, run) for question in questions)


class Decontamination:
    """The cleaning step: counts and lists benchmark questions, and drops dialogues if configured.

    Args:
      config: The benchmark files and what counts as a hit.

    Raises:
      UserError: A benchmark file cannot be read.
    """

    def __init__(self, config: DecontaminateConfig) -> None:
        self._config = config
        questions = [question for path in config.benchmarks for question in read_benchmark(path)]
        self._index = ContaminationIndex(questions, ngram=config.ngram, min_words=config.min_words)
        self._num_hits = 0
        self._num_dialogues = 0
        self._listed: list[dict[str, Any]] = []

    def __call__(self, dialogue: Dialogue) -> Cleaned:
        """Returns the dialogue, or the reason why it is dropped."""
        hits = self._index.hits(dialogue, all_turns=self._config.all_turns)
        if not hits:
            return dialogue
        self._num_hits += len(hits)
        self._num_dialogues += 1
        room = MAX_LISTED_HITS - len(self._listed)
        self._listed.extend(hit.to_json() for hit in hits[:room])
        if not self._config.drop:
            return dialogue
        return f"benchmark question of {hits[0].benchmark.rsplit(':', 1)[0]}"

    def to_json(self) -> dict[str, Any]:
        """The number of questions, and the hits."""
        return {
            "questions": self._index.num_questions,
            "questions_too_short": [asdict(question) for question in self._index.too_short],
            "dialogues_with_hits": self._num_dialogues,
            "hits": self._num_hits,
            "listed": self._listed,
        }


def _texts(path: Path | str) -> Iterator[tuple[int, str]]:
    if Path(path).suffix.lower() == ".txt":
        with open_input(path, "rb") as file:
            for line, raw in enumerate(file, start=1):
                try:
                    yield line, raw.decode("utf-8-sig").strip()
                except UnicodeDecodeError:
                    raise UserError(f"{path}:{line}: not valid UTF-8; save it as UTF-8.") from None
        return
    for row in stream_rows(path):
        if row.problem:
            # A skipped question would be an unnoticed leak.
            raise UserError(f"{path}:{row.line}: {row.problem}; fix the benchmark file.")
        texts = list(_questions(row.value))
        if not texts:
            keys = ", ".join(_QUESTION_KEYS)
            raise UserError(f"{path}:{row.line}: the row has no question under any of {keys}.")
        yield from ((row.line, text) for text in texts)


def _questions(row: Any) -> Iterator[str]:
    if isinstance(row, str):
        yield row
    if not isinstance(row, Mapping):
        return
    key = next((key for key in _QUESTION_KEYS if row.get(key) is not None), None)
    value = row[key] if key else None
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        # An UltraChat dialogue has an answer after each question.
        for item in value[::2] if key == "data" else value:
            if isinstance(item, str):
                yield item
            elif isinstance(item, Mapping) and _speaker(item) in _USERS:
                text = next((item[name] for name in _USER_KEYS if item.get(name) is not None), None)
                if isinstance(text, str):
                    yield text


def _speaker(message: Mapping[str, Any]) -> str:
    names = (message.get(key) for key in ("role", "from"))
    return str(next((name for name in names if name is not None), "user")).lower()
