"""CaPO on the synthetic world: negatives, preference training, and the errors that are left.

The negatives are made by `parrot negatives build` from a server of the world that makes each kind
of error when its prompt asks for it.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parrot_jax.core.files import atomic_write, open_input
from parrot_jax.negatives.building import PAIRS, BuildSummary, build
from parrot_jax.negatives.negatives_config import KINDS, Kind, NegativesConfig
from parrot_jax.serve.app import make_app
from parrot_jax.serve.background import BackgroundServer
from parrot_jax.world.facts import World
from parrot_jax.world.mistakes import (
    ERROR_KINDS,
    PROMPTS,
    ErrorKind,
    WrongAnswerer,
    errors_by_turn,
)
from parrot_jax.world.questions import Language
from parrot_jax.world.recipes import negatives_config
from parrot_jax.world.world_engine import answerer_engine


def make_pairs(
    world: World,
    dialogues: Path,
    out: Path,
    *,
    seed: int,
    per_kind: int,
    announce: Callable[[NegativesConfig], None] = lambda _: None,
) -> BuildSummary:
    """Makes pairs of the dialogues' answers and wrong ones, in `out`; resumes.

    Args:
      world: The facts.
      dialogues: A file of dialogues with right answers.
      out: The folder of the negatives.
      seed: Of the order of the questions.
      per_kind: Most pairs of each kind.
      announce: Is given the config before the first request.

    Returns:
      The counts.

    Raises:
      ParrotError: Requests failed.
    """
    prompts = {}
    for kind, text in PROMPTS.items():
        prompts[kind] = str(out / "prompts" / f"{kind}.jinja")
        with atomic_write(prompts[kind]) as file:
            file.write(text)
    with BackgroundServer(make_app(answerer_engine(WrongAnswerer(world)))) as server:
        config = negatives_config(
            dialogues, out, url=server.url, prompts=prompts, seed=seed, per_kind=per_kind
        )
        announce(config)
        summary = build(config)
    if summary.problem is not None:
        raise summary.problem
    return summary


def files_of_pairs(out: Path, kinds: Sequence[Kind] = KINDS) -> list[Path]:
    """The files of some kinds of pairs."""
    return [out / PAIRS / f"{kind}.jsonl" for kind in kinds]


def count_errors(world: World, answers: Path) -> dict[str, Any]:
    """Counts the errors in an exam.

    Args:
      world: The facts.
      answers: The file of `take_exam`.

    Returns:
      `by_kind`: share of all answers with this error; `by_turn`: the same for each turn.
    """
    with open_input(answers) as file:
        rows: list[Mapping[str, Any]] = [json.loads(line) for line in file]
    by_turn = errors_by_turn(Language(world), rows)

    def shares(counts: Counter[ErrorKind], number: int) -> dict[str, float]:
        return {kind: counts[kind] / number for kind in ERROR_KINDS}

    total = sum(by_turn, Counter[ErrorKind]())
    return {
        "by_kind": shares(total, len(rows) * len(by_turn)),
        "by_turn": [shares(counts, len(rows)) for counts in by_turn],
    }
