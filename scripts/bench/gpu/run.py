"""Runs the cases of the GPU benchmark, each in processes of its own; prints a table last.

    scripts/bench/gpu/run.sh smoke ceilings attention        # or: all
    TOY=1 scripts/bench/gpu/run.sh all                       # small sizes, on any machine

A case that dies or hangs costs only itself: its process group is ended at its time limit, and what
it had measured by then is kept. Results are written after each case to `results.json`, the output
of all cases to `log.txt`, in `--out` (default `$OUT`, else `runs/gpu`). Loads no jax, no torch.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


class Command(NamedTuple):
    """A process of a case."""

    text: str
    """A script of this folder and its arguments."""
    seconds: int
    """Its time limit on the reference machine, which toy sizes have too."""


CASES: dict[str, tuple[Command, ...]] = {
    "smoke": (Command("smoke.py", 150),),
    "ceilings": (Command("ceilings.py", 45),),
    "attention": (
        Command("attention.py pallas block_causal cudnn-whole", 90),
        Command("attention.py cudnn-offsets", 60),
        Command("attention.py tokamax-mosaic", 60),
        Command("attention.py tokamax-triton", 60),
        Command("attention.py mha", 50),
    ),
    "sft7b": (
        Command("train.py sft7b", 180),
        Command("peer.py sft7b --attention sdpa", 120),
        Command("peer.py sft7b --attention flex_attention", 120),
        Command("peer.py sft7b --attention sdpa --one-segment", 120),
        Command("peer.py sft7b --attention sdpa --eager", 60),
    ),
    "sft13b": (Command("train.py sft13b", 240),),
    "sweep": (Command("sweep.py", 300),),
    "serve": (Command("serve.py", 240),),
    "lora8b": (Command("train.py lora8b", 150),),
    "capo7b": (Command("train.py capo7b", 150),),
}
"""In the order of their worth: the first ones tell whether the others make sense."""

_NEEDED = ("jax", "pydantic", "tyro", "grain", "openai", "starlette")
"""Without these, no case runs; the first is not among the wheels."""

_GRACE_S = 5
_TAIL_LINES = 12
_MOST_OUTPUT = 2**20
"""Bytes of a process's output that the log keeps; the log of all cases stays below 16 MiB."""


class _Stopped(BaseException):
    """The benchmark itself was told to end."""


def end_cases_with_benchmark() -> None:
    """A signal to the benchmark ends the running case, which would keep the card's memory."""

    def stop(number: int, _: Any) -> None:
        raise _Stopped(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def run_case(
    name: str, commands: Sequence[Command], results: Path, log: Path, *, seconds: float
) -> dict[str, Any]:
    """Runs the processes of a case one after the other; none of them costs another one.

    Args:
      name: Of the case, for the log.
      commands: Its processes.
      results: File to which they append a line of JSON for each result.
      log: File to which their output is appended.
      seconds: For all of them. What does not fit is ended, or not begun.

    Returns:
      State (`done`, `failed`, `timed out`, `stopped` with the benchmark), seconds, results, and
      why a process failed.
    """
    begun = time.monotonic()
    results.write_text("")
    problems, state = [], "done"
    for command in commands:
        limit = min(command.seconds, seconds - (time.monotonic() - begun))
        if limit < 1:
            state = "timed out"
            problems.append(f"{command.text}: not begun, the time was used up")
            continue
        try:
            code, tail = _run(command.text.split(), name, results, log, seconds=limit)
        except _Stopped as stopped:
            state = "stopped"
            problems.append(f"{command.text}: ended with the benchmark, by {stopped}")
            break
        if code is None:
            state = "timed out"
            problems.append(f"{command.text}: ended at its limit of {limit:.0f} s")
        elif code:
            state = "failed"
            how = f"signal {-code}" if code < 0 else f"exit status {code}"
            problems.append(f"{command.text}: {how}: {tail}")
        with open(results, "a", encoding="utf-8") as file:
            file.write("\n")  # after half a line
    lines = results.read_text(errors="replace").splitlines()
    return {
        "state": state,
        "seconds": round(time.monotonic() - begun, 1),
        "problems": problems,
        "results": [record for line in lines if (record := _parsed(line))],
    }


def _run(
    command: Sequence[str], case: str, results: Path, log: Path, *, seconds: float
) -> tuple[int | None, str]:
    """The exit status of a process, None if it was ended at its limit, and its last line."""
    environ = {**os.environ, "GPU_BENCH_RESULTS": str(results)}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ["PYTHONPATH"] = os.pathsep.join(paths)
    environ["GPU_BENCH_SECONDS"] = f"{seconds:.0f}"
    environ["PYTHONUNBUFFERED"] = "1"
    if not _is_toy():  # else jax takes the CPU if it cannot use the card
        environ.setdefault("JAX_PLATFORMS", "cuda,cpu")
    with open(log, "ab") as output:
        output.write(f"\n== {case}: {' '.join(command)}\n".encode())
        output.flush()
        start = output.tell()
        process = subprocess.Popen(
            [sys.executable, str(HERE / command[0]), *command[1:]],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(process)
    _shorten(log, start)
    with open(log, "rb") as output:
        output.seek(start)
        lines = [line for line in output.read().decode(errors="replace").splitlines() if line]
    if code != 0:
        print("\n".join(f"   {line[:300]}" for line in lines[-_TAIL_LINES:]), flush=True)
    return code, lines[-1][:300] if lines else "no output"


def _shorten(log: Path, start: int) -> None:
    """Cuts out the middle of what a process has written."""
    half = _MOST_OUTPUT // 2
    with open(log, "r+b") as file:
        left_out = file.seek(0, os.SEEK_END) - start - 2 * half
        if left_out > 0:
            file.seek(-half, os.SEEK_END)
            end = file.read(half)
            file.seek(start + half)
            file.write(f"\n... {left_out:,} bytes left out ...\n".encode() + end)
            file.truncate()


def _end_group(process: subprocess.Popen) -> None:
    """Ends the process and its children, and waits for them: they hold memory of the card."""
    for number, patience in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, 30)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        until = time.monotonic() + patience
        while process.poll() is None or _is_running(process.pid):
            if time.monotonic() > until:
                break
            time.sleep(0.02)


def _is_running(group: int) -> bool:
    """Whether a process of a group lives; a dead one whose parent does not ask does not count."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
        except (OSError, ValueError):  # it has just ended
            continue
        if int(of) == group and state not in "ZX":
            return True
    return False


def _parsed(line: str) -> dict[str, Any] | None:
    """A result; None for any other line, such as half of one whose process was killed."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    texts = [found.get(key) for key in ("what", "result")] if isinstance(found, dict) else [None]
    return found if all(isinstance(text, str) for text in texts) else None


def install_missing(wheels: Path, site: Path) -> str:
    """Installs the wheels of packages that this Python lacks beside it; returns what was done.

    Packages that it has stay as they are.
    """
    have = {_normal(found.metadata["Name"]) for found in importlib.metadata.distributions()}
    missing = [
        str(wheel)
        for wheel in sorted(wheels.glob("*.whl"))
        if _normal(wheel.name.split("-")[0]) not in have
    ]
    if not missing:
        return "no wheels installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
         "--no-compile", "--target", str(site), *missing],
        check=True,
    )  # fmt: skip
    sys.path.insert(0, str(site))
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    return f"{len(missing)} wheels installed"


def _normal(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def describe_machine() -> dict[str, Any]:
    """The card, as found, and the versions; nothing of it is changed."""
    fields = ("name", "driver_version", "memory.total", "memory.used", "clocks.sm",
              "clocks.max.sm", "clocks.mem", "power.draw", "power.limit",
              "temperature.gpu")  # fmt: skip
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        cards = [
            dict(zip(fields, line.split(", "), strict=False)) for line in done.stdout.splitlines()
        ]
    except (OSError, subprocess.SubprocessError) as error:
        cards = [{"name": f"no card: {type(error).__name__}"}]
    names = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "numpy", "torch",
             "transformers", "tokamax")  # fmt: skip
    found = {
        _normal(each.metadata["Name"]): each.version for each in importlib.metadata.distributions()
    }
    return {
        "cards": cards,
        "versions": {"python": platform.python_version()}
        | {n: found[n] for n in names if n in found},
        "toy": _is_toy(),
        "cores": os.cpu_count(),
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _is_toy() -> bool:
    return os.environ.get("TOY", "0") not in ("", "0")


def _has_card() -> bool:
    patterns = ("nvidia[0-9]*", "dxg")
    return any(True for pattern in patterns for _ in Path("/dev").glob(pattern))


def table(found: dict[str, dict[str, Any]]) -> str:
    """One line per result: measured beside predicted."""
    lines = []
    for name, case in found.items():
        lines.append(f"{name}: {case['state']}, {case['seconds']:.0f} s")
        for record in case["results"]:
            predicted = f"  (predicted {record['predicted']})" if record.get("predicted") else ""
            lines.append(f"  {record['what']:44} {record['result']}{predicted}")
        lines += [f"  ! {problem}" for problem in case["problems"]]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="+", metavar="CASE", help=f"all, or {', '.join(CASES)}")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "runs/gpu"))
    parser.add_argument(
        "--budget",
        type=float,
        default=570,
        help="seconds for all cases; those that do not fit are not begun",
    )
    options = parser.parse_args()
    names = list(CASES) if options.cases == ["all"] else options.cases
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"there is no case {unknown[0]!r}; choose from all, {', '.join(CASES)}")
    if not (_is_toy() or _has_card()):
        parser.error("this machine has no NVIDIA GPU; TOY=1 runs the cases at small sizes")
    options.out = options.out.absolute()  # the cases run in the checkout
    options.out.mkdir(parents=True, exist_ok=True)
    log, lines = options.out / "log.txt", options.out / "case.jsonl"
    log.write_bytes(b"")
    begun = time.monotonic()
    found: dict[str, dict[str, Any]] = {}
    site = tempfile.TemporaryDirectory(prefix="gpu-bench-")
    print(install_missing(ROOT / ".gpu" / "wheels", Path(site.name)), flush=True)
    if lacking := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        parser.error(
            f"this Python lacks {', '.join(lacking)}: run scripts/bench/gpu/prepare.sh where there "
            "is a network and copy .gpu here, or install the project"
        )
    machine = describe_machine()
    for name in names:
        left = options.budget - (time.monotonic() - begun)
        if left < 10:
            found[name] = {
                "state": "not begun",
                "seconds": 0.0,
                "results": [],
                "problems": [f"the budget of {options.budget:.0f} s was used up"],
            }
        else:
            most = min(sum(command.seconds for command in CASES[name]), left)
            print(f"== {name}, at most {most:.0f} s", flush=True)
            found[name] = run_case(name, CASES[name], lines, log, seconds=most)
        lines.unlink(missing_ok=True)
        partial = options.out / "results.json.tmp"
        partial.write_text(json.dumps({"machine": machine, "cases": found}, indent=1) + "\n")
        partial.replace(options.out / "results.json")
        if found[name]["state"] == "stopped":
            break
    print(f"\n{json.dumps(machine)}\n\n{table(found)}")
    site.cleanup()
    print(f"\nresults: {options.out / 'results.json'}, output of the cases: {log}")
    return 0 if all(case["state"] == "done" for case in found.values()) else 1


if __name__ == "__main__":
    end_cases_with_benchmark()
    sys.exit(main())
