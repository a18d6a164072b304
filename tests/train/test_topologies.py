"""Names of hardware to compile for, and the environment that compiling needs.

Compilations are tested in test_plan.py.
"""

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.core.xla_flags import FLAGS
from parrot_jax.train import topologies
from parrot_jax.train.topologies import TOPOLOGIES, parse_topology, prepare_environment

PACKAGES = {"gpu": "jax_cuda13_plugin", "tpu": "libtpu"}


@pytest.fixture
def flags_set(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Makes every extra seem installed; returns the calls of `set_xla_flags`."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(topologies, "set_xla_flags", lambda *arguments: calls.append(arguments))
    return calls


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "chip", "shape", "platform"),
    [
        ("a100-80g:2x8", "a100-80g", (2, 8), "gpu"),
        ("h200:1x1", "h200", (1, 1), "gpu"),
        ("v5p:2x2x4", "v5p", (2, 2, 4), "tpu"),
        ("v5e:4x8", "v5e", (4, 8), "tpu"),
        ("v6e:16x16", "v6e", (16, 16), "tpu"),
    ],
)
def test_a_name_is_a_chip_and_a_shape(
    name: str, chip: str, shape: tuple[int, ...], platform: str
) -> None:
    topology = parse_topology(name)
    assert (topology.name, topology.chip.name) == (name, chip)
    assert (topology.shape, topology.platform) == (shape, platform)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_name_that_errors_list_is_one(name: str) -> None:
    assert parse_topology(name).name == name


@pytest.mark.parametrize(
    "name",
    ["", ":", "v5p", "v5p:", "v7:2x2", "V5P:2x2x4", "v5p:2", "v5p:2x2x2x2", "v5p:0x2x4",
     "v5p:2x2x-4", "v5p:2x2xx4", "v5p:2x2x4 ", "v5p:axbxc", "a100-80g:8", "a100:1x8"],
)  # fmt: skip
def test_garbage_is_answered_with_the_names_there_are(name: str) -> None:
    with pytest.raises(UserError, match=f"there is no topology '{name}'; choose one of a100-80g:1"):
        parse_topology(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5p:4x4", "a shape of v5p has 3 sides, not 4x4"),
        ("v4:4x4", "a shape of v4 has 3 sides, not 4x4"),
        ("v5e:2x2x4", "a shape of v5e has 2 sides, not 2x2x4"),
        ("h200:1x1x8", "a shape of h200 has 2 sides, not 1x1x8"),
    ],
)
def test_a_shape_of_another_kind_of_chip_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_topology(name)


# ---- the environment ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "extra"), [("v5e:4x8", "tpu"), ("h200:1x1", "cuda13")])
def test_without_the_extra_the_error_names_it(name: str, extra: str) -> None:
    topology = parse_topology(name)
    if importlib.util.find_spec(PACKAGES[topology.platform]):
        pytest.skip(f"the extra {extra} is installed here")
    environ: dict[str, str] = {}
    with pytest.raises(UserError, match=rf"needs the extra {extra}: pip install 'parrot-jax\["):
        prepare_environment(topology, environ=environ)
    assert environ == {}


def test_the_flags_of_a_config_come_first_and_a_gpu_tries_no_kernels(
    flags_set: list[tuple[Any, ...]],
) -> None:
    for name in ("a100-80g:2x8", "v5p:2x2x4"):
        prepare_environment(parse_topology(name), ["--a=1"], {})
    flags = [(given, platform) for given, platform, _ in flags_set]
    assert flags == [(["--a=1", "--xla_gpu_autotune_level=0"], "gpu"), (["--a=1"], "tpu")]


@pytest.mark.parametrize(
    ("name", "environ"),
    [
        ("h200:1x1", {"JAX_PLATFORMS": "cuda"}),
        ("v5p:2x2x4", {"JAX_PLATFORMS": "tpu", "TPU_WORKER_HOSTNAMES": "host-0,host-1"}),
    ],
)
def test_what_is_compiled_for_is_not_computed_on(name: str, environ: dict[str, str]) -> None:
    # Without the prepared environment, jax would look for such devices or for peers of a slice.
    code = (
        "import importlib.util\n"
        "from parrot_jax.train.topologies import parse_topology, prepare_environment\n"
        "importlib.util.find_spec, find = (lambda name: name), importlib.util.find_spec\n"
        f"prepare_environment(parse_topology({name!r}))\n"
        "importlib.util.find_spec = find\n"
        "import jax\n"
        "assert jax.numpy.ones(3).sum() == 3\n"
        "print(jax.default_backend())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environ, capture_output=True, text=True
    )
    assert (ran.stdout, ran.returncode) == ("cpu\n", 0), ran.stderr


@pytest.mark.parametrize("name", ["v5e:4x8", "h200:1x1"])
def test_a_louder_log_is_left_as_it_is(name: str, flags_set: list[tuple[Any, ...]]) -> None:
    environ = {"TF_CPP_MIN_LOG_LEVEL": "0", "TPU_MIN_LOG_LEVEL": "0"}
    prepare_environment(parse_topology(name), environ=environ)
    assert (environ["TF_CPP_MIN_LOG_LEVEL"], environ["TPU_MIN_LOG_LEVEL"]) == ("0", "0")


def test_the_flags_of_a_run_are_those_of_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr("parrot_jax.core.xla_flags._backend_exists", lambda: False)
    environ: dict[str, str] = {}
    prepare_environment(parse_topology("h200:1x1"), environ=environ)
    assert set(FLAGS["gpu"]) < set(environ["XLA_FLAGS"].split())
