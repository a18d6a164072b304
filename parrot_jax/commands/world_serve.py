"""Serve the synthetic world's answerer over an OpenAI-compatible API."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class WorldServeConfig:
    """The world to serve, and the port."""

    world: Annotated[str, tyro.conf.Positional]
    """A folder made by `parrot world write`."""

    port: int = 8001
    """0 = a free port; the first line of output shows it."""

    mistake_rate: float = 0.0
    """Share of answers with mistakes, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise UserError(f"--port is {self.port}; it must be from 0 to 65535.")
        if not 0 <= self.mistake_rate <= 1:
            raise UserError(f"--mistake-rate is {self.mistake_rate}; it must be in [0, 1].")


Config = WorldServeConfig


def run(config: WorldServeConfig) -> None:
    """Serves on loopback until SIGINT or SIGTERM."""
    from pathlib import Path

    from parrot_jax.serve.app import make_app
    from parrot_jax.serve.background import BackgroundServer, open_port, serve_until_stopped
    from parrot_jax.world.answerer import Answerer
    from parrot_jax.world.facts import read_world
    from parrot_jax.world.world_engine import answerer_engine

    with open_port("127.0.0.1", config.port) as listener:
        world = read_world(Path(config.world))
        engine = answerer_engine(Answerer(world, mistake_rate=config.mistake_rate))
        serve_until_stopped(BackgroundServer(make_app(engine), listener), engine.model)
