"""A run in several processes, killed and resumed, ends with the same bits as without kills."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from .test_kill_training import assert_same_state, final_state, steps_logged

pytestmark = pytest.mark.slow

STEPS = 24
HALF = 4
"""The step from whose checkpoint other layouts resume."""


class Job:
    """The processes of one start of a run, each with virtual devices, connected by gloo."""

    def __init__(
        self,
        config: Path,
        *options: str,
        processes: int,
        devices: int,
        program: Sequence[str] = ("-m", "parrot_jax.cli"),
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environ = os.environ | {
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(processes),
        }
        if processes == 1:
            environ = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
        self.processes = [
            subprocess.Popen(
                [sys.executable, *program, "train", str(config), *options],
                env=environ | {"JAX_PROCESS_ID": str(index)},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for index in range(processes)
        ]  # fmt: skip

    def codes(self) -> list[int]:
        """Waits for all processes; returns their exit codes."""
        self.outputs = [process.communicate()[0] for process in self.processes]
        return [process.returncode for process in self.processes]

    def finish(self) -> None:
        codes = self.codes()
        assert codes == [0] * len(codes), "\n".join(self.outputs)


@pytest.fixture
def write_config(
    tmp_path: Path, tiny_run: Path, write_dialogues: Callable[..., Path]
) -> Callable[..., Path]:
    """Writes the config of a run of 24 steps; returns its path."""

    def write(name: str, **changes: Any) -> Path:
        values = yaml.safe_load(tiny_run.read_text())
        path = write_dialogues(tmp_path / "many.jsonl", 200)
        values["data"]["sources"][0]["path"] = str(path)
        values["data"]["cache_dir"] = str(tmp_path / "cache")
        values["model"] |= {"num_attention_heads": 4, "num_key_value_heads": 4}
        values |= {"out": str(tmp_path / name), "checkpoint_every_steps": HALF, "epochs": 2,
                   "max_steps": STEPS, "micro_rows": 1, "keep_checkpoints": 100,
                   "mesh": {"data": 2, "fsdp": 2, "tensor": 2}}  # fmt: skip
        values |= changes
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(values))
        return config

    return write


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.nightly
def test_two_processes_go_back_together_from_a_checkpoint_that_one_of_them_cannot_read(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = write_config("run", max_steps=2 * HALF)
    Job(config, processes=2, devices=4).finish()
    expected = final_state(tmp_path / "run")
    # Each process wrote the shards of its devices, and reads them back.
    newest = tmp_path / "run" / "checkpoints" / str(2 * HALF)
    largest = max(newest.glob("params/ocdbt.process_1/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    for place in range(0, len(content), 64):
        content[place] ^= 1
    largest.write_bytes(content)
    job = Job(config, processes=2, devices=4)
    job.finish()
    assert f"checkpoint {newest} is damaged" in job.outputs[0]
    assert f"at step {HALF}" in job.outputs[0]
    assert_same_state(final_state(tmp_path / "run"), expected)


def test_one_of_two_processes_killed_in_a_save_and_both_started_again(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    whole, killed = (write_config(name, max_steps=14) for name in ("whole", "killed"))
    Job(whole, processes=2, devices=4).finish()
    run = tmp_path / "killed"

    job = Job(killed, processes=2, devices=4)
    deadline = time.monotonic() + 180
    # A checkpoint has a temporary name until it is complete.
    while not any("tmp" in path.name for path in run.glob("checkpoints/*")) or (
        steps_logged(run) < 2 * HALF
    ):
        assert job.processes[0].poll() is None, job.codes()
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.0005)
    os.kill(job.processes[1].pid, signal.SIGKILL)
    died = time.monotonic()
    survivor, victim = job.codes()
    assert victim == -signal.SIGKILL
    # jax raises nothing when a peer dies; it aborts the process after a missed heartbeat.
    assert survivor == -signal.SIGABRT, job.outputs[0]
    assert time.monotonic() - died < 40

    Job(killed, processes=2, devices=4).finish()
    assert_same_state(final_state(run), final_state(tmp_path / "whole"))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("processes", "devices", "mesh"),
    [
        (4, 2, {"data": 2, "fsdp": 2, "tensor": 2}),
        (1, 8, {"data": 1, "fsdp": 8, "tensor": 1}),
        (1, 4, {"data": 1, "fsdp": 4, "tensor": 1}),
    ],
    ids=["4x2", "1x8", "1x4"],
)
def test_another_layout_reads_the_same_rows_and_follows_the_loss(
    write_config: Callable[..., Path], tmp_path: Path, processes: int, devices: int, mesh: Any
) -> None:
    base = write_config("base")
    Job(base, processes=2, devices=4).finish()
    # Removes everything after the checkpoint of step 4.
    run = tmp_path / "base"
    expected = metrics(run)
    for path in (run / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > HALF:
            subprocess.run(["rm", "-r", str(path)], check=True)
    job = Job(write_config("base", mesh=mesh), processes=processes, devices=devices)
    job.finish()
    assert f"resuming {run} at step {HALF}" in job.outputs[0]
    assert "the layout has changed" in job.outputs[0] or processes == 4
    found = metrics(run)
    assert len(found) == len(expected) == STEPS
    for ours, theirs in zip(found[HALF:], expected[HALF:], strict=True):
        assert (ours["tokens"], ours["live_tokens"]) == (theirs["tokens"], theirs["live_tokens"])
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@pytest.mark.nightly
def test_sigterm_to_one_process_saves_and_ends_both_with_75(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = write_config("asked", checkpoint_every_steps=1000)
    job = Job(config, processes=2, devices=4)
    run = tmp_path / "asked"
    while steps_logged(run) < 3:
        assert job.processes[0].poll() is None, job.codes()
        time.sleep(0.01)
    job.processes[1].send_signal(signal.SIGTERM)
    assert job.codes() == [75, 75], job.outputs
    (saved,) = [int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit()]
    assert saved == steps_logged(run)
    Job(config, processes=2, devices=4).finish()
    Job(write_config("whole"), processes=2, devices=4).finish()
    assert [m["loss"] for m in metrics(run)] == [m["loss"] for m in metrics(tmp_path / "whole")]


@pytest.mark.nightly
def test_a_preflight_of_two_processes_checks_both_and_says_it_once(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    job = Job(write_config("tried"), "--preflight", processes=2, devices=4)
    job.finish()
    assert [path.name for path in (tmp_path / "tried").iterdir()] == ["preflight.json"]
    found = json.loads((tmp_path / "tried" / "preflight.json").read_text())
    assert (found["processes"], found["devices"], found["problems"]) == (2, 8, [])
    assert "bit-identical" in job.outputs[0]
    # Gloo's threads print concurrently, so their lines are broken up.
    printed = re.sub(
        r"\[Gloo\]|Rank|is connected to|peer ranks|Expected number of connected|is :|[\d\s.]",
        "", job.outputs[1],
    )  # fmt: skip
    assert printed == "", "only the first process may print"


# Writes the batch indices that this process reads to a file, because other threads may print in the
# middle of a line.
READING = """
import os, sys
from parrot_jax.data.pipeline import Batches
read = Batches.read
def noting(self, step, places):
    with open(f"{sys.argv[2]}.reads-{os.environ['JAX_PROCESS_ID']}", "a") as file:
        print(step, *places, file=file)
    return read(self, step, places)
Batches.read = noting
from parrot_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_each_process_reads_its_own_rows_and_no_others(write_config: Callable[..., Path]) -> None:
    config = write_config("reading", max_steps=2)
    Job(config, processes=2, devices=4, program=["-c", READING]).finish()
    reads = [
        [[int(word) for word in line.split()] for line in path.read_text().splitlines()]
        for path in (Path(f"{config}.reads-0"), Path(f"{config}.reads-1"))
    ]
    for step in (0, 1):
        first, second = (
            [place for at, *places in lines if at == step for place in places] for lines in reads
        )
        # Each row is read once, although two devices of the tensor axis hold it.
        assert sorted(first + second) == list(range(8))
        assert len(first) == len(second) == 4
