"""Many processes, one program: who they are, when they meet, which of them writes.

A process finds the others from flags, from SLURM, Kubernetes or a TPU's environment; where nothing
speaks of others it is alone. jax is loaded only to join or to ask, so configs may import this.
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
"""Seconds without a sign of life after which a process counts as dead. The others cannot raise an
error then: they are ended by SIGABRT (134), which a launcher takes as "start again"."""


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """How the processes of one job find each other; all null = from the environment.

    SLURM, TPU slices and GKE's TPU pods are known as they are. In Kubernetes, an Indexed Job gives
    `JOB_COMPLETION_INDEX`, and the pod's spec sets `JAX_COORDINATOR_ADDRESS` and
    `JAX_NUM_PROCESSES`; `JAX_PROCESS_ID` may stand for the index elsewhere.

    Raises:
      UserError: Some are given and some are not, or the index is out of range.
    """

    coordinator: str | None = None
    """`host:port` of process 0, the same for all."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is, in [0, num_processes)."""

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
    """Joins the other processes of this job; to be called before anything asks jax for a device.

    Processes but the first print nothing from then on.

    Args:
      config: Where the others are.
      environ: Where else to look.
      timeout_s: How long to wait for them, in seconds.

    Raises:
      UserError: The others could not be found, or did not come in time.
    """
    arguments = process_arguments(config, environ)
    if arguments is None:
        return
    import jax

    # Only the CPU backend reads this; it has no way to reach another process by default.
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
            f"could not join the other processes ({arguments or 'as the environment says'}): "
            f"{reason}. See scripts/launch/README.md for what each environment must provide."
        ) from error
    # jax has just set a handler that only takes note of the signal; the trainer sets its own later.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    console.quiet = not is_first_process()


def process_arguments(
    config: DistributedConfig, environ: Mapping[str, str]
) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` has to be told; None = this process is alone.

    Raises:
      UserError: The environment speaks of other processes but does not say where they are.
    """
    if config.coordinator is not None:
        # jax would listen on every interface, also where all processes are on this machine.
        on_loopback = config.coordinator.startswith(("127.0.0.1:", "localhost:"))
        bind = {"coordinator_bind_address": config.coordinator} if on_loopback else {}
        return {
            "coordinator_address": config.coordinator,
            "num_processes": config.num_processes,
            "process_id": config.process_id,
            "cluster_detection_method": "deactivate",
            **bind,
        }
    # By a count alone, each process would train for itself, all in the same folder.
    if "JAX_COORDINATOR_ADDRESS" in environ or environ.get("JAX_NUM_PROCESSES", "1") != "1":
        return _from_variables(environ)
    if int(environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_NODELIST" in environ:
        # Left alone, jax gives a process of SLURM one GPU, also where it is the only one of a node.
        tasks = environ.get("SLURM_STEP_TASKS_PER_NODE", "")  # "1(x2)", "8(x2)", "1(x2),2"
        alone = re.fullmatch(r"1(\(x\d+\))?", tasks)
        gpus = environ.get("SLURM_GPUS_ON_NODE")
        local = {"local_device_ids": list(range(int(gpus)))} if alone and gpus else {}
        return {"cluster_detection_method": "slurm", **local}
    if "," in environ.get("TPU_WORKER_HOSTNAMES", "") or "MEGASCALE_NUM_SLICES" in environ:
        return {}  # a TPU slice in GKE: jax reads the rest
    if guess_platform(dict(environ)) == "tpu":
        return {}  # a TPU VM: jax asks the metadata server who the others are
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
    """Whether this process prints and writes the small files."""
    import jax

    return jax.process_index() == 0


def in_first_process(action: Callable[[], object], what: str) -> None:
    """Runs `action` in the first process while the others wait; where it fails, all fail.

    Args:
      action: What only one process may do.
      what: What it is, for the error.

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
    """Makes sure that all processes read the same thing.

    Args:
      value: Hex digits of what this process has, e.g. a content hash.
      what: What it is, for the error.

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
            f"{what} differ between processes: {value[:12]} here, another in processes "
            f"{wrong[:8]}. Give every process the same files and settings."
        )


def on_host(tree: Any) -> Any:
    """Global arrays as numpy arrays, whole in every process; every process must ask."""
    import jax

    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; every process must ask at the same time."""
    import jax

    if jax.process_count() == 1:
        return flag
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
