"""Jobs of several processes: how they connect, synchronise, and which of them writes.

A process finds the others from its config, or from the environment of SLURM, Kubernetes or a TPU;
otherwise it runs alone. jax is imported inside functions only, so configs may import this file.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from parrot_jax.core.errors import ParrotError, UserError
from parrot_jax.core.logs import console
from parrot_jax.core.xla_flags import guess_platform

HEARTBEAT_S = 10
"""Seconds without a heartbeat after which a process counts as dead. jax then aborts the others with
SIGABRT (exit code 134) instead of raising an exception; a launcher restarts the job."""


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """How the processes of a job find each other; all null = from the environment.

    SLURM, TPU slices and GKE's TPU pods are detected. In Kubernetes, an Indexed Job sets
    `JOB_COMPLETION_INDEX`; add `JAX_COORDINATOR_ADDRESS` and `JAX_NUM_PROCESSES` to the pod's spec.
    Elsewhere, set `JAX_PROCESS_ID` instead of the index.

    Raises:
      UserError: Only some of the three are given, or one is invalid.
    """

    coordinator: str | None = None
    """`host:port` of process 0, the same for all processes."""
    num_processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Index of this process, in [0, num_processes)."""

    def __post_init__(self) -> None:
        given = (self.coordinator, self.num_processes, self.process_id)
        if given == (None, None, None):
            return
        if None in given:
            raise UserError(
                f"distributed.coordinator={self.coordinator}, num_processes={self.num_processes}, "
                f"process_id={self.process_id}: give all three, or none to use the environment."
            )
        host, _, port = str(self.coordinator).rpartition(":")
        if not host or not port.isdigit():
            raise UserError(
                f"distributed.coordinator is {self.coordinator!r}; it must be HOST:PORT."
            )
        assert self.num_processes is not None
        assert self.process_id is not None
        if not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"distributed.process_id is {self.process_id}; it must be in "
                f"[0, {self.num_processes})."
            )


def join_processes(
    config: DistributedConfig, environ: Mapping[str, str] = os.environ, *, timeout_s: int = 300
) -> None:
    """Connects to the other processes of this job. Call it before asking jax for a device.

    Afterwards only the first process prints.

    Args:
      config: How to find the other processes.
      environ: Used if the config is all null.
      timeout_s: Seconds to wait for the other processes.

    Raises:
      UserError: The other processes were not found, or did not connect in time.
    """
    arguments = process_arguments(config, environ)
    if arguments is None:
        return
    import jax

    # Read only by the CPU backend, which has no collectives between processes by default.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            **arguments,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            initialization_timeout=timeout_s,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"could not join the other processes ({arguments or 'found by jax'}): "
            f"{reason}. See scripts/launch/README.md for what each environment must provide."
        ) from error
    # jax has just set a handler that only records the signal; the trainer sets its own later.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    console.quiet = not is_first_process()


def process_arguments(
    config: DistributedConfig, environ: Mapping[str, str]
) -> dict[str, Any] | None:
    """Returns the arguments of `jax.distributed.initialize`; None = this process runs alone.

    Raises:
      UserError: Only some of the required environment variables are set.
    """
    if config.coordinator is not None:
        # By default jax listens on all interfaces, even if all processes are on this machine.
        on_loopback = config.coordinator.startswith(("127.0.0.1:", "localhost:"))
        bind = {"coordinator_bind_address": config.coordinator} if on_loopback else {}
        return {
            "coordinator_address": config.coordinator,
            "num_processes": config.num_processes,
            "process_id": config.process_id,
            "cluster_detection_method": "deactivate",
            **bind,
        }
    # Incomplete variables are an error: every process would train alone, all in the same folder.
    if "JAX_COORDINATOR_ADDRESS" in environ or environ.get("JAX_NUM_PROCESSES", "1") != "1":
        return _from_variables(environ)
    if int(environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_NODELIST" in environ:
        # By default jax gives a SLURM process one GPU, even if it is the only process on its node.
        tasks = environ.get("SLURM_STEP_TASKS_PER_NODE", "")  # "1(x2)", "8(x2)", "1(x2),2"
        alone = re.fullmatch(r"1(\(x\d+\))?", tasks)
        gpus = environ.get("SLURM_GPUS_ON_NODE")
        local = {"local_device_ids": list(range(int(gpus)))} if alone and gpus else {}
        return {"cluster_detection_method": "slurm", **local}
    if "," in environ.get("TPU_WORKER_HOSTNAMES", "") or "MEGASCALE_NUM_SLICES" in environ:
        return {}  # a TPU slice in GKE: jax reads the rest
    if guess_platform(dict(environ)) == "tpu":
        return {}  # a TPU VM: jax gets the other hosts from the metadata server
    return None


def _from_variables(environ: Mapping[str, str]) -> dict[str, Any]:
    coordinator = environ.get("JAX_COORDINATOR_ADDRESS")
    count = environ.get("JAX_NUM_PROCESSES")
    index = environ.get("JAX_PROCESS_ID", environ.get("JOB_COMPLETION_INDEX"))
    found = (
        f"JAX_COORDINATOR_ADDRESS is {coordinator}, JAX_NUM_PROCESSES {count} and JAX_PROCESS_ID "
        f"(or JOB_COMPLETION_INDEX, which an Indexed Job has) {index}"
    )
    if coordinator is None or count is None or index is None:
        raise UserError(f"{found}; set all three, or none.")
    try:
        num_processes, process_id = int(count), int(index)
    except ValueError:
        raise UserError(f"{found}; the last two must be numbers.") from None
    flags = DistributedConfig(
        coordinator=coordinator, num_processes=num_processes, process_id=process_id
    )
    return process_arguments(flags, {}) or {}


def is_first_process() -> bool:
    """Whether this is the process that prints and writes the small files."""
    import jax

    return jax.process_index() == 0


def in_first_process(action: Callable[[], object], what: str) -> None:
    """Runs `action` in the first process while the others wait; if it fails, all fail.

    Args:
      action: What only one process may do.
      what: Describes it in the error, e.g. `"write to runs/a"`.

    Raises:
      ParrotError: `action` raised it, here or in the first process.
    """
    problem: ParrotError | None = None
    if is_first_process():
        try:
            action()
        except ParrotError as error:
            problem = error
    if any_process(problem is not None):
        raise problem or UserError(f"process 0 could not {what}; see its log.")


def check_same_everywhere(value: str, what: str) -> None:
    """Checks that all processes have the same value.

    Args:
      value: The value of this process as hex digits, e.g. a content hash.
      what: Names it in the error, e.g. `"the prepared rows"`.

    Raises:
      UserError: Two processes differ.
    """
    import jax

    if jax.process_count() == 1:
        return
    import numpy as np
    from jax.experimental import multihost_utils

    mine = np.frombuffer(bytes.fromhex(value), np.uint8)
    all_values = multihost_utils.process_allgather(mine)
    wrong = [index for index, other in enumerate(all_values) if not np.array_equal(other, mine)]
    if wrong:
        raise UserError(
            f"{what} differ between processes: {value[:12]} here, other values in processes "
            f"{wrong[:8]}. Give every process the same files and settings."
        )


def on_host(tree: Any) -> Any:
    """Gathers global arrays as full numpy arrays; every process must call it."""
    import jax

    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; every process must call it."""
    import jax

    if jax.process_count() == 1:
        return flag
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
