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
    """The run folder; its newest checkpoint is served. With vllm, an export of `convert flax-to-hf`
    also works."""

    backend: Literal["jax", "vllm"] = "jax"
    """`vllm` exports the checkpoint once and runs vLLM: for large models with many clients."""

    port: int = 8000
    """0 = a free port; the first line of output shows it."""

    host: str = "127.0.0.1"
    """Address to listen on. The default accepts this machine only; there is no password."""

    allowed_hosts: tuple[str, ...] = ()
    """Additional host names that clients use, such as a container's. Other `Host` headers are
    rejected against DNS rebinding: a web page can point its own name at this server."""

    model_name: str | None = None
    """The model name in requests; null = the name of the run folder."""

    batch_rows: int | None = None
    """Fixed batch size, jax only; smaller batches are padded. Larger values serve many clients
    faster and a single one slower, and may change rare tokens. Null = 8 on a CPU, 16 elsewhere."""

    vllm: VllmConfig = field(default_factory=VllmConfig)
    """vLLM's settings, for `backend: vllm`."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise UserError(f"--port is {self.port}; it must be from 0 to 65535.")
        if self.batch_rows is not None and self.batch_rows < 1:
            raise UserError(f"--batch-rows is {self.batch_rows}; it must be at least 1.")
        if self.batch_rows is not None and self.backend == "vllm":
            raise UserError("--batch-rows applies to --backend jax only; omit it with vllm.")
        if self.vllm != VllmConfig() and self.backend != "vllm":
            raise UserError("--vllm.* applies to vLLM only; add --backend vllm.")


Config = ServeConfig


def run(config: ServeConfig) -> None:
    """Serves until SIGINT or SIGTERM, then exits with code 0."""
    if config.backend == "vllm":
        _serve_with_vllm(config)
    else:
        _serve_with_jax(config)


def _warn_if_open(address: str) -> None:
    """Warns if other machines can connect."""
    import ipaddress

    if not ipaddress.ip_address(address).is_loopback:
        print("open to the network without authentication: anyone who can connect can use it")


# ---- jax ----------------------------------------------------------------------------------------


def _serve_with_jax(config: ServeConfig) -> None:
    import os
    import sys

    from parrot_jax.serve.app import make_app
    from parrot_jax.serve.background import BackgroundServer, open_port, serve_until_stopped

    # Before loading the weights, so that a port in use is reported at once.
    with open_port(config.host, config.port) as listener:
        engine = _load(config)
        _warn_if_open(listener.getsockname()[0])
        app = make_app(engine, (config.host, *config.allowed_hosts))
        serve_until_stopped(BackgroundServer(app, listener), engine.model)
    if engine.busy:
        # Python would wait at exit for the computation in progress, which no client needs.
        sys.stdout.flush()
        os._exit(0)


def _load(config: ServeConfig) -> "JaxEngine":
    import jax

    from parrot_jax.core.memory import keep_freed_memory
    from parrot_jax.core.xla_flags import set_xla_flags
    from parrot_jax.loaded_run import load_run

    keep_freed_memory()
    set_xla_flags()  # on a GPU, also the share of its memory, of which jax takes less by default
    run = load_run(config.run)
    # So that the first requests of a server that is started again do not wait for the compiler.
    cache = Path(run.config.data.cache_dir) / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    name = config.model_name or run.folder.path.resolve().name
    return run.engine(name, batch_rows=config.batch_rows)


# ---- vLLM ---------------------------------------------------------------------------------------


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
    # In an export, a dot: `parrot push` rejects folders but skips names with a leading dot.
    place = run / ("vllm" if is_run else ".vllm")
    # Quick checks first: an export takes minutes.
    check_nobody_serves(place, config.port)
    with open_port(config.host, config.port) as listener:
        address = listener.getsockname()[0]
    finished = None if is_run else _finished_export(run)
    environment = find_environment(config.vllm.python)
    folder = finished or _exported(run, place)
    if not os.environ.get("VLLM_API_KEY"):
        _warn_if_open(address)
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

    whole, adapters = folder / "config.json", folder / "adapter_config.json"
    if adapters.exists() and not whole.exists():
        raise UserError(
            f"{folder} has adapters only; serve the run, or export it without --peft, which merges "
            "them."
        )
    if not whole.exists():
        raise UserError(
            f"{folder} is neither a run folder (no config.yaml) nor a finished export (no "
            "config.json). Check the path, or run `parrot convert flax-to-hf` again."
        )
    check_small_files(folder)
    # Exports of other tools may have tokenizers that only vLLM reads.
    if read_record(folder) and (folder / "tokenizer.json").exists():
        check_export_tokenizer(folder, load_tokenizer(folder).fingerprint)
    return folder


def _exported(run: Path, place: Path) -> Path:
    """Exports a run's newest checkpoint in the run's `compute_dtype`, unless that exists."""
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
    # A newer version may write another tokenizer or template, which needs another export.
    chat_template = make_template(trained.data.template, tokenizer).chat_template(trained.task)
    key = hash_json([identity, tokenizer.fingerprint, chat_template])[:8]
    out = place / f"step-{step:06d}-{dtype}-{key}"
    if not is_whole_export(out, identity, dtype):
        # In a subprocess, to free its memory; on the CPU, to leave the GPU's memory to vLLM.
        command = [
            *(sys.executable, "-m", "parrot_jax.cli", "convert", "flax-to-hf", str(run), str(out)),
            *("--dtype", dtype, "--step", str(step)),
        ]
        run_logged(command, {"JAX_PLATFORMS": "cpu"}, place=place, name="export")
    return out
