"""Writes the synthetic world to files, in the formats of real data.

world.json             difficulty, seed and every fact
tokenizer.model        a SentencePiece tokenizer trained on the people's dialogues
people.jsonl           dialogues of people, to train an asker
held_out.jsonl         dialogues of other people, to evaluate it
first_questions.jsonl  first questions without an answer (the papers' part U)
short_sessions.jsonl   people's dialogues of fewer than three questions (part S)
exam.jsonl             held-out dialogues of eight questions, with the true answers
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from parrot_jax.core.errors import disk_full_is_a_user_error
from parrot_jax.core.files import atomic_write, write_json
from parrot_jax.data.templates.formats import FORMATS
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.writers import write_messages
from parrot_jax.world.facts import World, facts_of
from parrot_jax.world.people import people_dialogues

EXAM_ROUNDS = 8
VOCAB_SIZE = 896


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Number of dialogues in each file."""

    people: int = 1600
    """Dialogues to train an asker on."""

    held_out: int = 200
    """Dialogues to measure it on."""

    beginnings: int = 560
    """Dialogues to collect: half first questions, half short sessions."""

    exam: int = 200
    """Dialogues of eight questions to answer."""


def write_world(folder: Path, world: World, sizes: Sizes) -> None:
    """Writes all files of a world, deterministically.

    Args:
      folder: Created if missing; existing files are replaced.
      world: The facts.
      sizes: Numbers of dialogues.

    Raises:
      DiskFullError: The disk is full.
    """
    with disk_full_is_a_user_error(f"the world in {folder}"):
        people = list(people_dialogues(world, "people", sizes.people))
        write_messages(folder / "people.jsonl", people)
        _train_tokenizer(folder, people)
        write_messages(
            folder / "held_out.jsonl", people_dialogues(world, "held-out", sizes.held_out)
        )
        num_first = sizes.beginnings // 2
        first = people_dialogues(world, "first", num_first, num_rounds=1)
        write_messages(
            folder / "first_questions.jsonl",
            (Dialogue(turns=dialogue.turns[:1], id=dialogue.id) for dialogue in first),
        )
        write_messages(
            folder / "short_sessions.jsonl", _short_sessions(world, sizes.beginnings - num_first)
        )
        exam = people_dialogues(world, "exam", sizes.exam, num_rounds=EXAM_ROUNDS)
        write_messages(folder / "exam.jsonl", exam)
        # Written last, so its presence means that the other files are complete.
        write_json(
            folder / "world.json",
            {"difficulty": world.difficulty, "seed": world.seed, "facts": facts_of(world)},
        )


def _short_sessions(world: World, count: int) -> Iterator[Dialogue]:
    sessions = people_dialogues(world, "short", 1_000_000_000)
    return itertools.islice((d for d in sessions if d.num_rounds < 3), count)


def _train_tokenizer(folder: Path, dialogues: list[Dialogue]) -> None:
    """Trains a tokenizer like LLaMA's (BPE, byte fallback, no normalisation) on these texts."""
    import sentencepiece

    def sentences() -> Iterator[str]:
        for dialogue in dialogues:
            for turn in dialogue.turns:
                yield f"{FORMATS['parrot'].part(turn.role).header} {turn.text}"

    with atomic_write(folder / "tokenizer.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=sentences(),
            model_writer=file,
            vocab_size=VOCAB_SIZE,
            model_type="bpe",
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            num_threads=1,
            minloglevel=2,
        )
