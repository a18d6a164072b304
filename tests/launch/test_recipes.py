"""Checks of the launch recipes that need no cluster."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from parrot_jax.core.arguments import parse_arguments
from parrot_jax.core.errors import PreemptedError, RunError, UserError
from parrot_jax.train.train_config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "scripts" / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.slurm")])
MANIFESTS = sorted(LAUNCH.glob("*.yaml"))
DOCKERFILES = sorted(LAUNCH.glob("Dockerfile.*"))
RECIPES = [*SCRIPTS, *MANIFESTS, *DOCKERFILES, LAUNCH / "README.md"]


def name(path: Path) -> str:
    return path.name


def test_there_are_recipes() -> None:
    assert (len(SCRIPTS), len(MANIFESTS), len(DOCKERFILES)) == (3, 2, 2)


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_scripts_are_bash_that_can_be_started(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert script.suffix != ".sh" or os.access(script, os.X_OK)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.defpath}")
    if shellcheck is not None:
        subprocess.run([shellcheck, script], check=True)


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_the_configs_that_a_recipe_names_exist(recipe: Path) -> None:
    for config in re.findall(r"configs/[\w/.-]+\.yaml", recipe.read_text()):
        if config != "configs/train/other.yaml":  # a placeholder in an example
            assert (ROOT / config).is_file(), f"{recipe.name} names {config}"


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_no_recipe_holds_a_key(recipe: Path) -> None:
    assert not re.search(r"(API_KEY|TOKEN|PASSWORD)\s*[=:]\s*[\"']?\w", recipe.read_text())


def job_of(manifest: Path) -> dict[str, Any]:
    (jobset,) = yaml.safe_load_all(manifest.read_text())
    assert (jobset["kind"], jobset["metadata"]["name"]) == ("JobSet", "parrot")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["template"]["spec"]["containers"]
    return container


def action(job: dict[str, Any], code: int, *, disrupted: bool = False) -> str:
    """Returns what Kubernetes does with a failed pod: the first matching rule, or `Count`."""
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes is not None:
            assert (codes["containerName"], codes["operator"]) == (container_of(job)["name"], "In")
            if code in codes["values"]:
                return rule["action"]
        elif disrupted and rule["onPodConditions"] == [{"type": "DisruptionTarget"}]:
            return rule["action"]
    return "Count"


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name)
def test_kubernetes_makes_a_pod_again_where_that_helps(manifest: Path) -> None:
    job = job_of(manifest)
    preempted = PreemptedError.exit_code
    assert action(job, preempted, disrupted=True) == "Ignore"
    assert action(job, 137, disrupted=True) == "Ignore"
    assert [action(job, code) for code in (preempted, 134, 137)] == ["Count"] * 3
    assert [action(job, e.exit_code) for e in (RunError, UserError)] == ["FailJob"] * 2
    assert job["backoffLimit"] > 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # required by podFailurePolicy
    assert pod["terminationGracePeriodSeconds"] >= 300


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name)
def test_a_pod_has_its_share_of_the_processes(manifest: Path) -> None:
    job = job_of(manifest)
    assert (job["completionMode"], job["completions"]) == ("Indexed", job["parallelism"])
    container = container_of(job)
    assert container["resources"]["requests"] == container["resources"]["limits"]
    variables = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
    if "google.com/tpu" in container["resources"]["limits"]:
        chips = 1
        for side in job["template"]["spec"]["nodeSelector"][
            "cloud.google.com/gke-tpu-topology"
        ].split("x"):
            chips *= int(side)
        assert chips == job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    else:
        assert int(variables["JAX_NUM_PROCESSES"] or 0) == job["parallelism"]
        host, _, port = (variables["JAX_COORDINATOR_ADDRESS"] or "").partition(":")
        assert host == "parrot-nodes-0-0.parrot"
        assert {"containerPort": int(port)} in container["ports"]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name)
def test_parrot_understands_what_a_pod_tells_it(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # /app in the image
    container = container_of(job_of(manifest))
    supervise, restarts, program = container["command"]
    assert (ROOT / Path(supervise).relative_to("/app")).is_file()
    assert (restarts.isdigit(), program) == (True, "parrot")
    verb, *arguments = container["args"]
    assert verb == "train"
    config = parse_arguments(TrainConfig, arguments, prog="parrot train", description="")
    assert config.out == "gs://BUCKET/runs/ask"
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert config.data.cache_dir in mounted


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name)
def test_an_image_has_what_it_copies_and_no_root(dockerfile: Path) -> None:
    lines = dockerfile.read_text().splitlines()
    instructions = [line.split() for line in lines if line and line[0].isalpha()]
    for copied in [words[1:-1] for words in instructions if words[0] == "COPY"]:
        assert all((ROOT / source).exists() for source in copied), copied
    assert ["USER", "1000"] in instructions
    extras = re.search(r"pip install -c constraints.txt '\.\[([\w,]+)\]'", "\n".join(lines))
    assert extras is not None
    declared = re.search(
        r"optional-dependencies\]\n(.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.DOTALL
    )
    assert declared is not None
    for extra in extras[1].split(","):
        assert re.search(rf"^{extra} = ", declared[1], re.MULTILINE), extra


def test_slurm_tells_the_trainer_in_time_and_starts_one_process_a_node() -> None:
    text = (LAUNCH / "train.slurm").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", text, re.MULTILINE))
    assert options["ntasks-per-node"] == "1"
    assert re.fullmatch(r"TERM@\d+", options["signal"])  # with B:, only the script would get it
    assert "requeue" in options


# Fakes SLURM: srun exits with a given code, scontrol prints its arguments.
@pytest.mark.parametrize(
    ("code", "requeues", "is_requeued"),
    [(0, 0, False), (1, 0, False), (2, 0, False), (75, 0, True), (143, 3, True), (75, 50, False),
     (134, 0, False)],
)  # fmt: skip
def test_slurm_requeues_a_run_that_was_told_to_stop(
    code: int, requeues: int, is_requeued: bool, tmp_path: Path
) -> None:
    for program, body in {
        "srun": f'echo "srun $*"; exit {code}',
        "scontrol": 'echo "scontrol $*"',
    }.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / program).chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "17",
        "SLURM_RESTART_COUNT": str(requeues),
        "OUT": "/shared/a",
    }
    done = subprocess.run(
        ["bash", LAUNCH / "train.slurm", "--seed", "1"],
        env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert "supervise.sh 20 .venv/bin/parrot train configs/train/" in done.stdout
    assert "--out /shared/a --seed 1" in done.stdout
    assert ("scontrol requeue 17" in done.stdout) == is_requeued


def test_tpu_vm_quotes_what_it_hands_to_the_hosts(tmp_path: Path) -> None:
    (tmp_path / "gcloud").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "gcloud").chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "NAME": "slice", "ZONE": "z", "PROJECT": "p",
        "IMAGE": "host/p/parrot:1",
    }  # fmt: skip

    def tpu_vm(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LAUNCH / "tpu_vm.sh", *arguments],
            env=environ, capture_output=True, text=True, check=False,
        )  # fmt: skip

    ran = tpu_vm("run", "train", "a.yaml", "--out", "gs://b/with space")
    assert ran.returncode == 0
    assert "--worker=all" in ran.stdout
    assert r"supervise.sh 20" in ran.stdout
    assert r"parrot train a.yaml --out gs://b/with\ space" in ran.stdout
    created = tpu_vm("create")
    assert created.returncode == 0
    assert {"--accelerator-type=v5p-32", "--node-id=slice", "--zone=z"} <= set(
        created.stdout.split()
    )
    wrong = tpu_vm("fly")
    assert (wrong.returncode, "tpu_vm.sh create" in wrong.stderr) == (2, True)
