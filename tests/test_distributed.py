"""How a process finds its peers. Jobs with several processes are tested in tests/kill."""

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.distributed import DistributedConfig, join_processes, process_arguments

FROM_ENVIRONMENT = DistributedConfig()
SLURM = {
    "JAX_PLATFORMS": "cuda",
    "SLURM_JOB_ID": "17",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_GPUS_ON_NODE": "8",
}
VARIABLES = {
    "JAX_COORDINATOR_ADDRESS": "head:1234",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}


def found(environ: dict[str, str]) -> dict[str, object] | None:
    """The arguments found in the environment, with devices that provide none."""
    return process_arguments(FROM_ENVIRONMENT, {"JAX_PLATFORMS": "cpu", **environ})


# ---- flags --------------------------------------------------------------------------------------


def test_flags_say_all() -> None:
    flags = DistributedConfig(coordinator="head:1234", num_processes=4, process_id=3)
    expected = {
        "coordinator_address": "head:1234",
        "num_processes": 4,
        "process_id": 3,
        "cluster_detection_method": "deactivate",
    }
    assert process_arguments(flags, {}) == expected
    assert process_arguments(flags, {**SLURM, **VARIABLES}) == expected


@pytest.mark.parametrize("address", ["127.0.0.1:1234", "localhost:1234"])
def test_a_coordinator_on_loopback_listens_there_alone(address: str) -> None:
    flags = DistributedConfig(coordinator=address, num_processes=2, process_id=0)
    arguments = process_arguments(flags, {})
    assert arguments is not None
    assert arguments["coordinator_bind_address"] == address


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"coordinator": "head:1"}, "give all three, or none"),
        ({"num_processes": 2, "process_id": 0}, "give all three, or none"),
        ({"coordinator": "head", "num_processes": 2, "process_id": 0}, "must be HOST:PORT"),
        ({"coordinator": ":1", "num_processes": 2, "process_id": 0}, "must be HOST:PORT"),
        ({"coordinator": "head:x", "num_processes": 2, "process_id": 0}, "must be HOST:PORT"),
        ({"coordinator": "head:1", "num_processes": 2, "process_id": 2}, r"must be in \[0, 2\)"),
        ({"coordinator": "head:1", "num_processes": 2, "process_id": -1}, r"must be in \[0, 2\)"),
        ({"coordinator": "head:1", "num_processes": 0, "process_id": 0}, r"must be in \[0, 0\)"),
    ],
)
def test_wrong_flags_say_what_is_right(flags: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DistributedConfig(**flags)  # type: ignore[arg-type]


# ---- variables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("index", ["JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"])
def test_variables_say_what_flags_say(index: str) -> None:
    environ = {name: value for name, value in VARIABLES.items() if name != "JAX_PROCESS_ID"}
    flags = DistributedConfig(coordinator="head:1234", num_processes=2, process_id=1)
    assert found({**environ, index: "1"}) == process_arguments(flags, {})


def test_the_index_of_a_job_may_be_replaced() -> None:
    arguments = found({**VARIABLES, "JOB_COMPLETION_INDEX": "0"})
    assert arguments is not None
    assert arguments["process_id"] == 1


@pytest.mark.parametrize("absent", VARIABLES)
def test_a_variable_without_the_others_is_an_error(absent: str) -> None:
    environ = {name: value for name, value in VARIABLES.items() if name != absent}
    with pytest.raises(UserError, match="set all three, or none"):
        found(environ)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES two .* must be numbers"),
        ({"JAX_PROCESS_ID": ""}, "must be numbers"),
        ({"JAX_PROCESS_ID": "2"}, r"must be in \[0, 2\)"),
        ({"JAX_COORDINATOR_ADDRESS": "head"}, "must be HOST:PORT"),
    ],
)
def test_wrong_variables_say_what_is_right(change: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        found({**VARIABLES, **change})


# ---- SLURM, TPUs, a single process ---------------------------------------------------------------


def test_one_task_of_slurm_on_each_node_takes_all_its_gpus() -> None:
    assert found(SLURM) == {
        "cluster_detection_method": "slurm",
        "local_device_ids": [0, 1, 2, 3, 4, 5, 6, 7],
    }


@pytest.mark.parametrize("tasks", ["8(x2)", "8", "2,1", "1(x2),2"])
def test_of_several_tasks_on_a_node_jax_gives_each_its_gpu(tasks: str) -> None:
    environ = {**SLURM, "SLURM_NTASKS": "16", "SLURM_STEP_TASKS_PER_NODE": tasks}
    assert found(environ) == {"cluster_detection_method": "slurm"}


def test_nodes_of_slurm_without_gpus() -> None:
    environ = {name: value for name, value in SLURM.items() if name != "SLURM_GPUS_ON_NODE"}
    assert found(environ) == {"cluster_detection_method": "slurm"}


@pytest.mark.parametrize(
    "environ",
    [
        {"TPU_WORKER_HOSTNAMES": "host-0,host-1"},
        {"TPU_WORKER_HOSTNAMES": "host-0", "MEGASCALE_NUM_SLICES": "2"},
        {"JAX_PLATFORMS": "tpu"},
    ],
)
def test_on_tpus_jax_reads_the_rest(environ: dict[str, str]) -> None:
    assert found(environ) == {}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "node1"},
        # A shell inside an allocation is not a job step.
        {"SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "node[1-2]"},
        {"JOB_COMPLETION_INDEX": "3"},
        {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    ],
)
def test_a_process_of_which_nothing_speaks_is_alone(environ: dict[str, str]) -> None:
    assert found(environ) is None
    join_processes(FROM_ENVIRONMENT, {"JAX_PLATFORMS": "cpu", **environ})  # starts nothing
