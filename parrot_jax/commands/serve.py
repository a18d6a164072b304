"""Serve a run over an OpenAI-compatible API: an asker or an answerer for any client."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from parrot_jax.core.errors import UserError

if TYPE_CHECKING:
    from parrot_jax.serve.jax_speaker import JaxSpeaker


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What to serve, and where."""

    run: Annotated[str, tyro.conf.Positional]
    """The run folder; its newest checkpoint speaks."""

    port: int = 8000
    """0 = one that is free; the first line says which."""

    host: str = "127.0.0.1"
    """Address to serve at. The default is reached from this machine only; there is no password."""

    model_name: str | None = None
    """The name under which clients ask for the model; null = that of the run folder."""

    batch_rows: int | None = None
    """Rows of every batch, full or not. More serve many clients faster, and one more slowly. With
    another number, replies may differ in rare tokens. Null = 8 on a CPU, 16 elsewhere."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise UserError(f"--port is {self.port}; it must be from 0 to 65535.")
        if self.batch_rows is not None and self.batch_rows < 1:
            raise UserError(f"--batch-rows is {self.batch_rows}; it must be at least 1.")


Config = ServeConfig


def run(config: ServeConfig) -> None:
    """Serves until SIGINT or SIGTERM, which is no failure."""
    import ipaddress
    import os
    import sys

    from parrot_jax.serve.app import make_app
    from parrot_jax.serve.background import BackgroundServer, open_port, serve_until_stopped

    # Before the weights are read: that a port is in use should be known at once.
    with open_port(config.host, config.port) as listener:
        speaker = _load(config)
        if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            print("open to the network, without a password: whoever reaches it may use it")
        serve_until_stopped(BackgroundServer(make_app(speaker), listener), speaker.model)
    if speaker.busy:
        # Nobody waits for what the device still computes, but Python would.
        sys.stdout.flush()
        os._exit(0)


def _load(config: ServeConfig) -> "JaxSpeaker":
    import jax
    import jax.numpy as jnp

    from parrot_jax.core.memory import keep_freed_memory
    from parrot_jax.data.tokenizer import load_tokenizer
    from parrot_jax.serve.jax_speaker import JaxSpeaker
    from parrot_jax.train.run_folder import RunFolder
    from parrot_jax.weights.model_folder import load_params

    keep_freed_memory()
    folder = RunFolder(config.run)
    trained = folder.load_config()
    default_rows = 8 if jax.default_backend() == "cpu" else 16
    return JaxSpeaker(
        config.model_name or folder.path.resolve().name,
        trained.task,
        trained.model,
        load_params(config.run),
        load_tokenizer(folder.tokenizer),
        compute_dtype=jnp.dtype(trained.compute_dtype),
        batch_rows=config.batch_rows or default_rows,
    )
