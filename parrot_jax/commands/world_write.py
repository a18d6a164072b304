"""Write the synthetic world: dialogues, first questions, a tokenizer and an exam."""

from dataclasses import dataclass

from parrot_jax.world.facts import Difficulty


@dataclass(frozen=True, kw_only=True)
class WorldWriteConfig:
    """The world to write, and the output folder."""

    out: str = "runs/world"
    """The output folder."""

    difficulty: Difficulty = "easy"
    """`hard` has more facts, and users who refer farther back and correct themselves more often."""

    seed: int = 0
    """The same seed gives the same world."""


Config = WorldWriteConfig


def run(config: WorldWriteConfig) -> None:
    """Writes the files."""
    from pathlib import Path

    from parrot_jax.core.logs import console
    from parrot_jax.core.paths import require_local
    from parrot_jax.world.facts import make_world
    from parrot_jax.world.files import Sizes, write_world

    require_local(config.out, "--out")
    write_world(Path(config.out), make_world(config.difficulty, config.seed), Sizes())
    console.print(f"the {config.difficulty} world of seed {config.seed} is in {config.out}")
