"""XLA flags: precedence, the installed versions, and errors for unknown flags."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from parrot_jax.core import xla_flags
from parrot_jax.core.errors import UserError
from parrot_jax.core.xla_flags import FLAGS, guess_platform, known_xla_flags, set_xla_flags

LATENCY = "--xla_gpu_enable_latency_hiding_scheduler"
LEVEL = "--xla_backend_optimization_level"


@pytest.fixture(autouse=True)
def no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignores that another test may have used jax in this process."""
    monkeypatch.setattr(xla_flags, "_backend_exists", lambda: False)


@pytest.fixture
def no_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    real = xla_flags._is_installed
    monkeypatch.setattr(xla_flags, "_is_installed", lambda name: name != "libtpu" and real(name))


def test_the_installed_jaxlib_takes_every_flag_of_the_gpu_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    environ: dict[str, str] = {}
    set_xla_flags(platform="gpu", environ=environ)
    # `parrot plan` assumes the same share of the memory: 8 % stay free.
    assert environ == {
        "XLA_FLAGS": " ".join(FLAGS["gpu"]), "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"
    }  # fmt: skip
    assert capsys.readouterr().out == ""  # none was left out


def test_on_a_cpu_nothing_is_set_and_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    environ = {"JAX_PLATFORMS": "cpu"}
    set_xla_flags(environ=environ)
    assert environ == {"JAX_PLATFORMS": "cpu"}


def test_the_environment_wins_over_our_set_and_the_config_over_both() -> None:
    environ = {"XLA_FLAGS": f"{LATENCY}=false {LEVEL}=1"}
    set_xla_flags([f"{LEVEL}=2"], "gpu", environ)
    flags = environ["XLA_FLAGS"].split()
    assert [flag for flag in flags if flag.startswith(LATENCY)] == [f"{LATENCY}=false"]
    assert [flag for flag in flags if flag.startswith(LEVEL)] == [f"{LEVEL}=2"]
    assert len(flags) == len(FLAGS["gpu"]) + 1


def test_a_value_with_a_space_arrives_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    environ = {"XLA_FLAGS": f'--xla_dump_to="{folder}"'}
    set_xla_flags([f"--xla_dump_hlo_module_re=a b|{folder}"], "cpu", environ)
    expected = f'--xla_dump_to="{folder}" --xla_dump_hlo_module_re="a b|{folder}"'
    assert environ["XLA_FLAGS"] == expected


def test_xla_flags_may_name_a_file_of_flags(tmp_path: Path) -> None:
    file = tmp_path / "flags.txt"
    file.write_text(f"{LEVEL}=1\n{LATENCY}=false\n")
    environ = {"XLA_FLAGS": str(file)}
    set_xla_flags([f"{LEVEL}=0"], "cpu", environ)
    assert environ["XLA_FLAGS"] == f"{LATENCY}=false {LEVEL}=0"
    with pytest.raises(UserError, match="absent.txt', which is neither a flag .* nor a file"):
        set_xla_flags(platform="cpu", environ={"XLA_FLAGS": str(tmp_path / "absent.txt")})


# The second is recommended in published advice; both abort the process.
@pytest.mark.parametrize("flag", ["--xla_of_another_version=on", "--xla_gpu_graph_level=0"])
def test_a_flag_that_jaxlib_does_not_know_is_an_error_that_names_it(flag: str) -> None:
    environ = {"XLA_FLAGS": f"{LEVEL}=1"}
    with pytest.raises(UserError, match=rf"{flag} from the config: unknown XLA flag in jaxlib"):
        set_xla_flags([flag], "gpu", environ)
    assert environ["XLA_FLAGS"] == f"{LEVEL}=1", "nothing was changed"
    with pytest.raises(UserError, match=f"{flag} from XLA_FLAGS: .* in jaxlib"):
        set_xla_flags(platform="cpu", environ={"XLA_FLAGS": flag})


@pytest.mark.parametrize(
    ("flag", "value"),
    [(LATENCY, "maybe"), (LEVEL, "much"), ("--xla_gpu_enable_command_buffer", "BLA")],
)
def test_a_value_that_jaxlib_does_not_take_is_an_error_that_names_both(
    flag: str, value: str
) -> None:
    with pytest.raises(UserError, match=f"{flag} from the config: .* rejects the value '{value}'"):
        set_xla_flags([f"{flag}={value}"], "gpu", {})


def test_a_flag_without_dashes_is_refused() -> None:
    with pytest.raises(UserError, match="'xla_dump_to=x' must begin with `--`"):
        set_xla_flags(["xla_dump_to=x"], "cpu", {})


def test_a_flag_of_ours_that_a_version_dropped_is_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FLAGS, "gpu", ("--xla_gpu_of_yesterday=true", f"{LATENCY}=true"))
    environ: dict[str, str] = {}
    set_xla_flags(platform="gpu", environ=environ)
    assert environ["XLA_FLAGS"] == f"{LATENCY}=true"
    assert "does not know them: --xla_gpu_of_yesterday\n" in capsys.readouterr().out


@pytest.mark.usefixtures("no_libtpu")
def test_on_a_tpu_what_jaxlib_knows_goes_to_xla_and_the_rest_to_libtpu() -> None:
    environ = {"LIBTPU_INIT_ARGS": "--xla_tpu_overlap_compute_collective_tc=false"}
    set_xla_flags([f"{LEVEL}=1", "--xla_tpu_scoped_vmem_limit_kib=98304"], "tpu", environ)
    assert environ["XLA_FLAGS"] == f"{LEVEL}=1"


def test_libtpu_takes_our_set_and_its_errors_become_ours() -> None:
    pytest.importorskip("libtpu", reason="it is in the tpu extra")
    environ: dict[str, str] = {}
    set_xla_flags(["--xla_tpu_scoped_vmem_limit_kib=98304"], "tpu", environ)
    given = " ".join([*FLAGS["tpu"], "--xla_tpu_scoped_vmem_limit_kib=98304"])
    assert environ == {"LIBTPU_INIT_ARGS": given}
    with pytest.raises(UserError, match=r"--xla_tpu_bla=1 from the config: .* in libtpu [\d.]+;"):
        set_xla_flags(["--xla_tpu_bla=1"], "tpu", {})
    with pytest.raises(UserError, match="--xla_enable_async_all_gather from LIBTPU_INIT_ARGS: "):
        set_xla_flags(
            platform="tpu", environ={"LIBTPU_INIT_ARGS": "--xla_enable_async_all_gather=bla"}
        )


# Runs in a child process, which does not import jax before the flags are set.
AFTER_JAX = """
import os, sys
from parrot_jax.core.errors import UserError
from parrot_jax.core.xla_flags import set_xla_flags

flag = "--xla_force_host_platform_device_count=3"
set_xla_flags([flag], "cpu")
assert "jax" not in sys.modules
import jax
assert len(jax.devices()) == 3
set_xla_flags([flag], "cpu")  # changes nothing
try:
    set_xla_flags(["--xla_force_host_platform_device_count=4"], "cpu")
except UserError as error:
    print(error)
"""


def test_flags_that_come_after_jaxs_backend_are_refused() -> None:
    environ = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", AFTER_JAX], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("jax has already created its backend, so the XLA flags --xla_f")


@pytest.mark.parametrize(
    ("devices", "modules", "platform"),
    [
        ((), ("libtpu", "jax_plugins.xla_cuda13"), "cpu"),
        (("nvidia0",), (), "cpu"),
        (("nvidia0",), ("jax_plugins.xla_cuda13",), "gpu"),
        (("nvidiactl",), ("jax_plugins.xla_cuda12",), "gpu"),
        (("vfio/0",), ("libtpu",), "tpu"),
        (("vfio/vfio",), ("libtpu",), "cpu"),
        (("accel0",), ("libtpu", "jax_plugins.xla_cuda13"), "tpu"),
        (("accel0",), (), "cpu"),
    ],
)
def test_the_platform_takes_device_files_and_a_plugin(
    devices: tuple[str, ...],
    modules: tuple[str, ...],
    platform: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for device in devices:
        (tmp_path / device).parent.mkdir(exist_ok=True)
        (tmp_path / device).touch()
    monkeypatch.setattr(xla_flags, "_DEVICES", tmp_path)
    monkeypatch.setattr(xla_flags, "_is_installed", lambda name: name in modules)
    assert guess_platform({}) == platform
    assert guess_platform({"JAX_PLATFORMS": "tpu,cpu"}) == "tpu"
    assert guess_platform({"JAX_PLATFORMS": "cuda"}) == "gpu"
    assert guess_platform({"JAX_PLATFORMS": "cpu"}) == "cpu"


def test_flags_that_another_version_knows_are_left_out_in_silence(
    capfd: pytest.CaptureFixture[str],
) -> None:
    flags = [f"{LEVEL}=0", "--xla_of_another_version=true", f"{LATENCY}=false"]
    assert known_xla_flags(flags) == [flags[0], flags[2]]
    assert capfd.readouterr() == ("", "")
