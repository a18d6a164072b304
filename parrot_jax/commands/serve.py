"""Serve a run over an OpenAI-compatible API: an asker or an answerer for any client."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from parrot_jax.core.errors import UserError
from parrot_jax.serve.vllm import VllmConfig

if TYPE_CHECKING:
    from parrot_jax.serve.jax_engine import JaxEngine


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What to serve, and where."""

    run: Annotated[str, tyro.conf.Positional]
    """The run folder; its newest checkpoint is served. With vllm, also an export of `convert
    flax-to-hf`."""

    backend: Literal["jax", "vllm"] = "jax"
    """`vllm` exports the checkpoint once and runs vLLM: for many clients of a large model."""

    port: int = 8000
    """0 = a free port; the first line printed names it."""

    host: str = "127.0.0.1"
    """Address to listen on. The default accepts this machine only; there is no password."""

    allowed_hosts: tuple[str, ...] = ()
    """More host names that clients use, such as a container's. Other names are rejected, because a
    web page can point a name of its own at this server (DNS rebinding)."""

    model_name: str | None = None
    """The model name in requests; null = the name of the run folder."""

    batch_rows: int | None = None
    """Rows of every batch, full or not; jax only. More rows serve many clients faster and a single
    one slower. Changing it may change rare tokens. Null = 8 on a CPU, 16 elsewhere."""

    vllm: VllmConfig = field(default_factory=VllmConfig)
    """Settings of vllm."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise UserError(f"--port is {self.port}; it must be from 0 to 65535.")
        if self.batch_rows is not None and self.batch_rows < 1:
            raise UserError(f"--batch-rows is {self.batch_rows}; it must be at least 1.")
        if self.batch_rows is not None and self.backend == "vllm":
            raise UserError("--batch-rows is of --backend jax; vLLM fills its batches by itself.")
        if self.vllm != VllmConfig() and self.backend != "vllm":
            raise UserError("--vllm.* are settings of vLLM; say also --backend vllm.")


Config = ServeConfig


def run(config: ServeConfig) -> None:
    """Serves until SIGINT or SIGTERM, which is no failure."""
    if config.backend == "vllm":
        _serve_with_vllm(config)
    else:
        _serve_with_jax(config)


def _say_if_open(address: str) -> None:
    """Says so where others can reach it."""
    import ipaddress

    if not ipaddress.ip_address(address).is_loopback:
        print("open to the network, without a password: whoever reaches it may use it")


# ---- by ourselves -------------------------------------------------------------------------------


def _serve_with_jax(config: ServeConfig) -> None:
    import os
    import sys

    from parrot_jax.serve.app import make_app
    from parrot_jax.serve.background import BackgroundServer, open_port, serve_until_stopped

    # Before the weights are read: that a port is in use should be known at once.
    with open_port(config.host, config.port) as listener:
        engine = _load(config)
        _say_if_open(listener.getsockname()[0])
        app = make_app(engine, (config.host, *config.allowed_hosts))
        serve_until_stopped(BackgroundServer(app, listener), engine.model)
    if engine.busy:
        # Nobody waits for what the device still computes, but Python would.
        sys.stdout.flush()
        os._exit(0)


def _load(config: ServeConfig) -> "JaxEngine":
    import jax

    from parrot_jax.core.memory import keep_freed_memory
    from parrot_jax.loaded_run import load_run

    keep_freed_memory()
    run = load_run(config.run)
    default_rows = 8 if jax.default_backend() == "cpu" else 16
    return run.engine(
        config.model_name or run.folder.path.resolve().name,
        batch_rows=config.batch_rows or default_rows,
    )


# ---- by vLLM ------------------------------------------------------------------------------------


def _serve_with_vllm(config: ServeConfig) -> None:
    import os
    import signal

    from parrot_jax.core.paths import require_local
    from parrot_jax.serve.background import open_port
    from parrot_jax.serve.vllm import Served, find_environment
    from parrot_jax.serve.vllm_server import check_nobody_serves, serve_vllm

    require_local(config.run, "RUN")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = Path(config.run)
    is_run = (run / "config.yaml").exists()
    # Nothing of an export is in a folder, and what begins with a dot is not pushed.
    place = run / ("vllm" if is_run else ".vllm")
    # All that can be known at once, before minutes are spent on an export.
    check_nobody_serves(place, config.port)
    with open_port(config.host, config.port) as listener:
        address = listener.getsockname()[0]
    finished = None if is_run else _finished_export(run)
    environment = find_environment(config.vllm.python)
    folder = finished or _exported(run, place)
    if not os.environ.get("VLLM_API_KEY"):
        _say_if_open(address)
    name = config.model_name or run.resolve().name
    hosts = (config.host, *config.allowed_hosts)
    served = Served(folder, name, address, config.port, hosts)
    serve_vllm(served, environment, config.vllm, place=place)


def _finished_export(folder: Path) -> Path:
    from parrot_jax.data.tokenizers import load_tokenizer
    from parrot_jax.weights.exports import (
        check_export_tokenizer,
        check_small_files,
        read_record,
    )

    if not (folder / "config.json").exists():
        raise UserError(
            f"{folder} is not a run folder: it has no config.yaml; nor a finished export, which "
            "has a config.json. Name a run, or run `parrot convert flax-to-hf` again."
        )
    check_small_files(folder)
    # What others exported has a tokenizer of another kind: vLLM reads it.
    if read_record(folder) and (folder / "tokenizer.json").exists():
        check_export_tokenizer(folder, load_tokenizer(folder).fingerprint)
    return folder


def _exported(run: Path, place: Path) -> Path:
    """The export of a run's newest checkpoint, in the type that the run computed in."""
    import sys

    from parrot_jax.core.config import load_config
    from parrot_jax.core.files import hash_json
    from parrot_jax.core.yaml_files import read_yaml
    from parrot_jax.data.templates import make_template
    from parrot_jax.data.tokenizers import load_tokenizer
    from parrot_jax.serve.vllm_server import run_logged
    from parrot_jax.train.train_config import TrainConfig
    from parrot_jax.weights.exports import checkpoint_identity, is_whole_export, newest_step

    if "converted_from" in (read_yaml(run / "config.yaml") or ()):
        raise UserError(
            f"{run} has converted weights, not a run; serve the folder they came from, or "
            f"train a run from them with `--init-from {run}`."
        )
    trained = load_config(TrainConfig, run / "config.yaml")
    step = newest_step(run / "checkpoints")
    if step is None:
        raise UserError(f"{run} has no checkpoint yet; train it first.")
    dtype = trained.compute_dtype
    identity = checkpoint_identity(run / "checkpoints" / str(step))
    tokenizer = load_tokenizer(run / "tokenizer")
    # With another tokenizer or template, of a newer version, it is another export.
    chat_template = make_template(trained.data.template, tokenizer).chat_template(trained.task)
    key = hash_json([identity, tokenizer.fingerprint, chat_template])[:8]
    out = place / f"step-{step:06d}-{dtype}-{key}"
    if not is_whole_export(out, identity, dtype):
        # In another process, which gives back its memory; and on the CPU, so that no memory of a
        # GPU is taken that vLLM will want.
        command = [
            *(sys.executable, "-m", "parrot_jax.cli", "convert", "flax-to-hf", str(run), str(out)),
            *("--dtype", dtype, "--step", str(step)),
        ]
        run_logged(command, {"JAX_PLATFORMS": "cpu"}, place=place, name="export")
    return out
