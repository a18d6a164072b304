"""The benchmark for one GPU: a case that dies or hangs costs only itself; toy sizes run here."""

import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import psutil
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "scripts" / "bench" / "gpu"


def load(name):
    spec = importlib.util.spec_from_file_location(f"gpu_bench_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = load("run")

MEASURES = """
import json, os
file = open(os.environ['GPU_BENCH_RESULTS'], 'a')
file.write(json.dumps({'what': 'half', 'result': '1 s'}) + chr(10)); file.flush()
"""

PLANTED = {
    "works": "pass",
    "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "fails": "raise SystemExit('the losses differ')",
    "half a line": 'file.write(\'{"what": "lo\'); file.flush()',
    "no results": "file.write('5' + chr(10) + '[]' + chr(10) + '{}' + chr(10) + 'null' + chr(10)"
    " + json.dumps({'what': 1, 'result': None}) + chr(10) + '[' * 10**5)",
    # A child too, and both ignore SIGTERM.
    "hangs": "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import signal, time;"
    " signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)'])\n"
    "print('child', child.pid, flush=True); time.sleep(600)",
}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Cases that run the planted scripts, in this order: each measures something first."""
    cases = {}
    for name, script in PLANTED.items():
        path = tmp_path / f"{name.replace(' ', '_')}.py"
        path.write_text(MEASURES + script)
        cases[name] = (run.Command(str(path), 6 if name == "hangs" else 60),)
    monkeypatch.setattr(run, "CASES", cases)
    monkeypatch.setattr(run, "_GRACE_S", 1)
    monkeypatch.setenv("TOY", "1")
    return tmp_path / "out"


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    return run.main()


@pytest.mark.nightly
def test_a_case_that_dies_or_hangs_costs_only_itself(planted, monkeypatch, capsys):
    names = ["crashes", "hangs", "fails", "half a line", "no results", "works"]
    started = time.monotonic()
    assert call(monkeypatch, *names, "--out", str(planted)) == 1
    assert time.monotonic() - started < 60
    found = json.loads((planted / "results.json").read_text())
    states = {name: case["state"] for name, case in found["cases"].items()}
    assert states == {
        "crashes": "failed",
        "hangs": "timed out",
        "fails": "failed",
        "half a line": "done",
        "no results": "done",
        "works": "done",
    }
    # What each had measured before is kept.
    for case in found["cases"].values():
        assert [record["what"] for record in case["results"]] == ["half"]
    child = int(re.search(r"child (\d+)", (planted / "log.txt").read_text())[1])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"
    table = capsys.readouterr().out
    assert "crashes.py: signal 11" in table
    assert "hangs.py: ended at its limit of 6 s" in table
    assert "exit status 1: the losses differ" in table
    assert sorted(path.name for path in planted.iterdir()) == ["log.txt", "results.json"]


@pytest.mark.nightly
def test_a_command_that_hangs_does_not_cost_the_next_one_of_its_case(planted, monkeypatch):
    hangs, works = run.CASES["hangs"][0], run.CASES["works"][0]
    monkeypatch.setattr(run, "CASES", {"both": (hangs, works)})
    assert call(monkeypatch, "both", "--out", str(planted)) == 1
    case = json.loads((planted / "results.json").read_text())["cases"]["both"]
    assert case["state"] == "timed out"
    assert len(case["results"]) == 2


def test_the_results_so_far_survive_a_kill_of_the_whole_benchmark(planted, tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import run\n"
        f"names = ['works', 'hangs']; folder = {str(tmp_path)!r}\n"
        "run.CASES = {n: (run.Command(f'{folder}/{n}.py', 600),) for n in names}\n"
        f"sys.argv = ['run.py', *names, '--out', {str(planted)!r}]; run.main()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    try:
        log = planted / "log.txt"
        while not (log.exists() and re.search(r"child \d+", log.read_text())):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    child = psutil.Process(int(re.search(r"child (\d+)", log.read_text())[1]))
    for hanging in (child.parent(), child):
        if hanging is not None and hanging.pid != 1:
            hanging.kill()
    found = json.loads((planted / "results.json").read_text())["cases"]
    assert {name: case["state"] for name, case in found.items()} == {"works": "done"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_benchmark_ends_its_case_and_keeps_its_results(planted, tmp_path, number):
    script = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import run\n"
        f"names = ['works', 'hangs', 'fails']; folder = {str(tmp_path)!r}; run._GRACE_S = 1\n"
        "run.CASES = {n: (run.Command(f'{folder}/{n}.py', 600),) for n in names}\n"
        "run.end_cases_with_benchmark()\n"
        f"sys.argv = ['run.py', *names, '--out', {str(planted)!r}]; sys.exit(run.main())"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    log = planted / "log.txt"
    while not (log.exists() and re.search(r"child \d+", log.read_text())):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    child = int(re.search(r"child (\d+)", log.read_text())[1])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"
    found = json.loads((planted / "results.json").read_text())["cases"]
    states = {name: case["state"] for name, case in found.items()}
    assert states == {"works": "done", "hangs": "stopped"}
    assert found["hangs"]["results"]
    assert f"hangs.py: ended with the benchmark, by {number.name}" in output


def test_the_next_case_begins_after_the_children_of_the_last_one_have_ended(planted, monkeypatch):
    child = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n"
        f"    time.sleep(0.5); pathlib.Path('{planted.parent}', 'ended').touch(); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"pathlib.Path('{planted.parent}', 'ready').touch(); time.sleep(600)"
    )
    for name, script in {
        "leaves": f"import pathlib, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"while not pathlib.Path({str(planted.parent)!r}, 'ready').exists(): time.sleep(0.01)",
        "next": f"import pathlib; assert pathlib.Path({str(planted.parent)!r}, 'ended').exists()",
    }.items():
        (planted.parent / f"{name}.py").write_text(MEASURES + script)
        run.CASES[name] = (run.Command(str(planted.parent / f"{name}.py"), 60),)
    monkeypatch.setattr(run, "_GRACE_S", 5)
    assert call(monkeypatch, "leaves", "next", "--out", str(planted)) == 0


def test_half_a_line_does_not_cost_the_result_of_the_next_command(planted, monkeypatch):
    both = run.CASES["half a line"] + run.CASES["works"]
    monkeypatch.setattr(run, "CASES", {"both": both})
    assert call(monkeypatch, "both", "--out", str(planted)) == 0
    case = json.loads((planted / "results.json").read_text())["cases"]["both"]
    assert len(case["results"]) == 2


@pytest.mark.parametrize(("toy", "platforms"), [("0", "cuda,cpu"), ("1", "None")])
def test_jax_does_not_take_the_cpu_instead_of_the_card(planted, monkeypatch, toy, platforms):
    path = planted.parent / "tells.py"
    path.write_text("import os; print('platforms', os.environ.get('JAX_PLATFORMS'))")
    monkeypatch.setattr(run, "CASES", {"tells": (run.Command(str(path), 60),)})
    monkeypatch.setenv("TOY", toy)
    monkeypatch.setattr(run, "_has_card", lambda: True)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert call(monkeypatch, "tells", "--out", str(planted)) == 0
    assert f"platforms {platforms}\n" in (planted / "log.txt").read_text()


def test_a_machine_without_a_gpu_is_refused_at_once(planted, monkeypatch, capsys):
    monkeypatch.delenv("TOY")
    monkeypatch.setattr(run, "_has_card", lambda: False)
    with pytest.raises(SystemExit):
        call(monkeypatch, "works", "--out", str(planted))
    assert "this machine has no NVIDIA GPU; TOY=1 runs" in capsys.readouterr().err


def test_the_log_keeps_both_ends_of_a_long_output(planted, monkeypatch):
    path = planted.parent / "talks.py"
    path.write_text(
        "print('first'); print(('x' * 99 + chr(10)) * 100_000); raise SystemExit('last')"
    )
    monkeypatch.setattr(run, "CASES", {"talks": (run.Command(str(path), 60),)})
    assert call(monkeypatch, "talks", "--out", str(planted)) == 1
    log = (planted / "log.txt").read_text()
    assert len(log) < run._MOST_OUTPUT + 1000
    assert "talks.py\nfirst\n" in log
    assert "bytes left out" in log
    assert log.endswith("last\n")
    found = json.loads((planted / "results.json").read_text())["cases"]["talks"]
    assert found["problems"] == [f"{path}: exit status 1: last"]


@pytest.mark.parametrize("out", ["results", ""])
def test_the_results_lie_where_the_user_is(planted, monkeypatch, out):
    folder = planted.parent / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OUT", out)
    assert call(monkeypatch, "works") == 0
    found = json.loads((folder / (out or "runs/gpu") / "results.json").read_text())["cases"]
    assert len(found["works"]["results"]) == 1


def test_the_script_runs_from_any_folder(tmp_path):
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [FOLDER / "run.sh", "--help"], cwd=tmp_path, env=environ, capture_output=True, check=False
    )
    assert done.returncode == 0


def test_cases_that_do_not_fit_in_the_budget_are_not_begun(planted, monkeypatch):
    assert call(monkeypatch, "works", "crashes", "--out", str(planted), "--budget", "5") == 1
    found = json.loads((planted / "results.json").read_text())["cases"]
    assert {case["state"] for case in found.values()} == {"not begun"}


def test_an_unknown_case_is_refused_with_the_known_ones(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "sft70b")
    assert "there is no case 'sft70b'; choose from all, smoke, ceilings" in capsys.readouterr().err


def test_the_readme_lists_every_case_with_its_limit():
    readme = (FOLDER / "README.md").read_text()
    for name, commands in run.CASES.items():
        row = next(line for line in readme.splitlines() if f"| `{name}` |" in line)
        assert str(commands[0].seconds) in row, name
        assert all((FOLDER / command.text.split()[0]).exists() for command in commands)


def test_the_kernels_of_others_have_processes_of_their_own():
    named = [set(command.text.split()[1:]) for command in run.CASES["attention"]]
    assert named[0] == {"pallas", "block_causal", "cudnn-whole"}
    assert named[1:] == [{"cudnn-offsets"}, {"tokamax-mosaic"}, {"tokamax-triton"}, {"mha"}]


def test_the_sweep_names_the_fastest_of_the_variants_for_which_there_was_time(
    monkeypatch, tmp_path
):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("GPU_BENCH_SECONDS", "100")
    monkeypatch.setenv("GPU_BENCH_RESULTS", str(tmp_path / "results"))
    sweep, now = load("sweep"), [0.0]
    monkeypatch.setattr(sweep, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(sweep, "_LEAST_S", 30)

    def measure(variant, folder, seconds):
        now[0] += 40
        return 100.0 + now[0], f"had {seconds:.0f} s"

    monkeypatch.setattr(sweep, "measure", measure)
    sweep.main()
    found = [json.loads(line)["result"] for line in (tmp_path / "results").read_text().splitlines()]
    assert found[:3] == [
        "140 tokens/s, had 75 s",
        "180 tokens/s, had 50 s",
        "not begun, the time was used up",
    ]
    assert found[-1] == "batch_rows=8, 1.29 times as fast as it is"


def test_rows_have_segments_whose_positions_restart():
    rows = load("measuring").packed_rows(3, rows=2, tokens=64, vocab=50, segments=(2, 4))
    for ids, positions in zip(rows["segment_ids"], rows["positions"], strict=True):
        assert ids[0] == 1
        assert set(np.diff(ids)) <= {0, 1}
        assert 2 <= ids[-1] <= 4
        starts = np.flatnonzero(np.diff(ids, prepend=0))
        assert (positions[starts] == 0).all()
        assert (np.diff(positions)[np.diff(ids) == 0] == 1).all()
    assert rows["tokens"].min() >= 0
    assert rows["tokens"].max() < 50


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


INSTALLED = """
absl-py aiofiles aiohappyeyeballs aiohttp aiosignal annotated-doc anyio attrs certifi
charset-normalizer click cloudpickle contourpy cycler etils filelock flax fonttools frozenlist
fsspec h11 hf-xet httpcore httpx huggingface-hub humanize hypothesis idna jax jaxlib jaxtyping
jinja2 joblib kiwisolver markdown-it-py markupsafe matplotlib mdurl ml-dtypes msgpack multidict
narwhals nest-asyncio numpy opt-einsum optax orbax-checkpoint packaging pandas pillow propcache
protobuf psutil pyarrow pygments pyparsing pytest python-dateutil pyyaml regex requests rich
safetensors scikit-learn scipy sentencepiece simplejson six tensorstore threadpoolctl tokenizers
torch tqdm transformers treescope typer typing-extensions typing-inspect urllib3 uvloop
wadler-lindig yarl zipp
"""
"""What the reference machine has of the packages below."""


def test_the_wheels_are_all_that_the_reference_machine_lacks():
    lines = (FOLDER / "wheels.txt").read_text().splitlines()
    wheels = {normal(line.split("==")[0]) for line in lines if not line.startswith("#")}
    needed, missing = ["parrot-jax", "beartype"], set()
    for name in needed:
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or marker.evaluate({"python_version": "3.12", "extra": ""}):
                other = normal(requirement.name)
                if other not in needed and other not in INSTALLED.split():
                    needed.append(other)
    missing = {name for name in map(normal, needed[1:]) if name not in wheels}
    assert not missing, "add them to scripts/bench/gpu/wheels.txt, with the version to fetch"


@pytest.mark.nightly
@pytest.mark.torch
def test_every_case_runs_at_toy_size(tmp_path):
    """With the versions of this project; `make test-gpu-bench` has those of the reference."""
    environ = {**os.environ, "TOY": "1", "PYTHON": sys.executable, "XLA_FLAGS": ""}
    done = subprocess.run(
        [FOLDER / "run.sh", "all", "--out", tmp_path, "--budget", "1200"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads((tmp_path / "results.json").read_text())["cases"]
    states = {name: case["state"] for name, case in found.items()}
    assert set(states) == set(run.CASES)
    assert set(states.values()) == {"done"}, done.stdout
    assert done.returncode == 0
    results = {
        case: {one["what"]: one["result"] for one in found[case]["results"]} for case in found
    }
    assert "WRONG" not in results["attention"]["block_causal, 4 heads"]
    assert len(results["attention"]) == 14  # each kernel with each number of heads
    for case in ("sft7b", "sft13b", "lora8b", "capo7b"):
        assert {"step", "tokens/s", "peak memory", "loss"} <= set(results[case])
    assert "transformers sdpa" in results["sft7b"]


@pytest.mark.plan
@pytest.mark.xdist_group("gpu_bench")
def test_the_stored_predictions_are_those_of_the_compiler():
    sys.path.insert(0, str(FOLDER))
    try:
        predict = load("predict")
    finally:
        sys.path.remove(str(FOLDER))
    stored = json.loads((FOLDER / "predicted.json").read_text())
    assert {name: set(plans) for name, plans in stored.items()} == {
        name: set(predict.CHIPS) for name in predict.MFU
    }
    found = predict.predict("lora8b", "h200")
    for key, value in stored["lora8b"]["h200"].items():
        near = isinstance(value, str | bool) or key == "mfu"
        assert found[key] == (value if near else pytest.approx(value, rel=0.01)), key


def test_a_kernel_of_ours_that_leaks_fails_its_case(tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); sys.argv = ['attention.py', 'pallas']\n"
        "import attention, jax.numpy as jnp\n"
        "from parrot_jax.model.attention import attend, choose\n"
        "attention.HEADS = (2,)\n"
        "blind = lambda q, k, v, rows: attend(q, k, v, None, backend=choose('dense'))\n"
        "attention.CONTESTANTS['pallas'] = lambda: blind\n"
        "attention.main()"
    )
    results = tmp_path / "results.jsonl"
    environ = {**os.environ, "TOY": "1", "GPU_BENCH_RESULTS": str(results)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "kernels of this project do not run or are wrong: pallas, 2 heads" in done.stderr
    (found,) = map(json.loads, results.read_text().splitlines())
    assert "WRONG" in found["result"]
    assert "LEAKS" in found["result"]
