"""XLA flags by platform, tested on the installed libraries before a run uses them.

XLA aborts the process at an unknown flag without naming its source, and flags change between
versions. So a child process parses them first, and an unknown flag of the user becomes a
`UserError`. Does not import jax: the flags must be in the environment before jax creates its
backend.
"""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import console

Platform = Literal["cpu", "gpu", "tpu"]

XLA_VARIABLE = "XLA_FLAGS"
TPU_VARIABLE = "LIBTPU_INIT_ARGS"

MEMORY_VARIABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
GPU_MEMORY_SHARE = "0.92"
"""Share of a GPU's memory that jax preallocates (its default: 0.75). `parrot plan` keeps the rest
free."""

_LAYER_BYTES = 640 << 20
"""A layer of LLaMA2-13B is 317 M parameters: 605 MiB in bfloat16."""

FLAGS: dict[Platform, tuple[str, ...]] = {
    "cpu": (),
    "gpu": (
        # Schedules collectives so that they overlap with matrix products.
        "--xla_gpu_enable_latency_hiding_scheduler=true",
        # A layer's collectives may start in the previous iteration. (Double buffering of loops is
        # often recommended with it, but also doubles the accumulated gradients; use `unroll_layers`
        # instead.)
        "--xla_gpu_enable_pipelined_all_gather=true",
        "--xla_gpu_enable_pipelined_reduce_scatter=true",
        "--xla_gpu_enable_pipelined_all_reduce=true",
        # One collective for the weights of a whole layer instead of one per tensor.
        f"--xla_gpu_all_gather_combine_threshold_bytes={_LAYER_BYTES}",
        f"--xla_gpu_reduce_scatter_combine_threshold_bytes={_LAYER_BYTES}",
        f"--xla_gpu_all_reduce_combine_threshold_bytes={128 << 20}",
    ),
    "tpu": (
        # Fuses collectives, split into steps, with the computation around them. (Not all-gathers,
        # which MaxText also fuses: libtpu 0.0.42 warns of wrong results and hangs on all but v5e.)
        "--xla_tpu_enable_async_collective_fusion=true",
        "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
        "--xla_tpu_overlap_compute_collective_tc=true",
        "--xla_enable_async_all_gather=true",
    ),
}
"""Default flags. Those of `tpu` go to LIBTPU_INIT_ARGS, the others to XLA_FLAGS.

The gpu flags are NVIDIA's recommendation for language models, the tpu flags those of MaxText for
LLaMA2-13B; neither has been measured with this program.
"""

# A quoted value may hold spaces.
_TOKEN = re.compile(r"""--[\w-]+=(?:"(?:\\.|[^"\\])*"|'[^']*')|\S+""")
_XLA_UNKNOWN = re.compile(r"Unknown flags? in XLA_FLAGS: (.*)")
_TPU_UNKNOWN = re.compile(r"Unknown command line flag '([^']+)'")
_BAD_VALUES = (
    re.compile(r"Couldn't interpret value (?P<value>.*) for flag (?P<flag>\w+)"),
    re.compile(r"Illegal value '(?P<value>[^']*)' specified for flag '(?P<flag>\w+)'"),
    re.compile(r"Illegal value for --(?P<flag>\w+) '(?P<value>[^']*)'"),
)
_DEVICES = Path("/dev")
_PROBE_TIMEOUT_S = 60
_XLA_PROBE = "from jaxlib import xla_client; xla_client.make_cpu_client()"
_TPU_PROBE = """
import libtpu
from jaxlib import xla_client
xla_client.load_pjrt_plugin_dynamically("tpu", libtpu.get_library_path())
xla_client.initialize_pjrt_plugin("tpu")
"""
# libtpu parses its flags before it looks for chips. It must not query Google's metadata server,
# which takes minutes if there is none, nor fail because another process has the chips.
_TPU_PROBE_ENVIRON = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class _Flag(NamedTuple):
    """A flag as written, e.g. `--a=1`, and where it comes from."""

    text: str
    source: str

    @property
    def name(self) -> str:
        return self.text.partition("=")[0]


_OURS = "parrot_jax"
_CONFIG = "the config"


def guess_platform(environ: MutableMapping[str, str] = os.environ) -> Platform:
    """Predicts jax's platform from device files and installed plugins.

    `JAX_PLATFORMS` takes precedence. A GPU needs NVIDIA's device files and jax's CUDA plugin; a TPU
    needs its device files and libtpu.
    """
    named = environ.get("JAX_PLATFORMS", "").split(",")[0].strip().lower()
    if named:
        return "tpu" if named == "tpu" else "gpu" if named in ("cuda", "gpu") else "cpu"
    if _has_device("accel[0-9]*", "vfio/[0-9]*") and _is_installed("libtpu"):
        return "tpu"
    plugins = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
    if _has_device("nvidia[0-9]*", "nvidiactl", "dxg") and any(map(_is_installed, plugins)):
        return "gpu"
    return "cpu"


def set_xla_flags(
    extra: Sequence[str] = (),
    platform: Platform | None = None,
    environ: MutableMapping[str, str] = os.environ,
) -> None:
    """Merges our flags, the environment's and `extra` into the environment; later ones win.

    On a GPU, also sets the share of memory that jax preallocates, unless it is set.

    Call it before jax creates its backend. If any flag is set, a child process tests the flags,
    which takes half a second, and the same again if libtpu is installed. A default flag that the
    installed version does not know is left out, and the console says so.

    Args:
      extra: Flags of the config, e.g. `--xla_gpu_enable_triton_gemm=false`. On a TPU, those that
        jaxlib does not know go to libtpu.
      platform: Selects the default flags; None = `guess_platform`.
      environ: Read and written: `XLA_FLAGS`, and on a TPU `LIBTPU_INIT_ARGS`.

    Raises:
      UserError: A flag is unknown to the installed version or has an invalid value, one in `extra`
        does not begin with `--`, or the flags would change after jax created its backend.
    """
    for flag in extra:
        if not flag.startswith("--"):
            raise UserError(f"the XLA flag {flag!r} must begin with `--`, e.g. --xla_dump_to=DIR.")
    platform = platform or guess_platform(environ)
    if platform == "gpu":
        environ.setdefault(MEMORY_VARIABLE, GPU_MEMORY_SHARE)
    from_config = [_Flag(_quoted(flag), _CONFIG) for flag in extra]
    ours = [_Flag(flag, _OURS) for flag in FLAGS[platform]]
    theirs = _read_variable(environ, XLA_VARIABLE)
    if platform != "tpu":
        chosen = {XLA_VARIABLE: _merge(ours, theirs, from_config)}
    else:
        unknown = _names_unknown_to_xla(from_config, environ)
        for_tpu = [flag for flag in from_config if flag.name in unknown]
        for_xla = [flag for flag in from_config if flag.name not in unknown]
        chosen = {
            XLA_VARIABLE: _merge(theirs, for_xla),
            TPU_VARIABLE: _merge(ours, _read_variable(environ, TPU_VARIABLE), for_tpu),
        }
    changes = any(
        [flag.text for flag in flags] != [flag.text for flag in _read_variable(environ, variable)]
        for variable, flags in chosen.items()
    )
    if _backend_exists():
        if changes:
            texts = " ".join(flag.text for flags in chosen.values() for flag in flags)
            raise UserError(
                f"jax has already created its backend, so the XLA flags {texts} would be ignored; "
                "set them before the first computation or in the environment of the process."
            )
        return  # jax has accepted these flags
    for variable, flags in chosen.items():
        if flags and (variable == XLA_VARIABLE or _is_installed("libtpu")):
            environ[variable] = _text(_accepted(variable, flags, environ))


def known_xla_flags(
    flags: Sequence[str], environ: MutableMapping[str, str] = os.environ
) -> list[str]:
    """Removes the flags that the installed jaxlib does not know.

    A child process tests them, which takes half a second.

    Args:
      flags: Flags for `XLA_FLAGS`, e.g. `--xla_backend_optimization_level=0`.
      environ: The environment of the child.

    Returns:
      The known flags, in order.
    """
    unknown = _names_unknown_to_xla([_Flag(flag, _OURS) for flag in flags], environ)
    return [flag for flag in flags if flag.partition("=")[0] not in unknown]


def _merge(*groups: Iterable[_Flag]) -> list[_Flag]:
    """Joins the groups; a flag of a later group replaces the same flag of earlier ones."""
    merged: list[_Flag] = []
    for group in groups:
        group = list(group)
        names = {flag.name for flag in group}
        merged = [flag for flag in merged if flag.name not in names] + group
    return merged


def _read_variable(environ: MutableMapping[str, str], variable: str) -> list[_Flag]:
    """Returns the user's flags; as in XLA, a value without `--` is the name of a file."""
    text = environ.get(variable, "").strip()
    if text and not text.startswith("--") and variable == XLA_VARIABLE:
        try:
            text = Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{variable} is {text!r}, which is neither a flag (flags begin with `--`) nor a "
                f"file that can be read: {error.strerror}; correct or unset it."
            ) from None
    return [_Flag(token, variable) for token in _TOKEN.findall(text)]


def _accepted(variable: str, flags: list[_Flag], environ: MutableMapping[str, str]) -> list[_Flag]:
    """Returns the flags that the installed library accepts.

    Raises:
      UserError: It rejects a flag of the user.
    """
    output = _probe(variable, flags, environ)
    unknown = _unknown_names(output)
    if unknown:
        wrong = [flag for flag in flags if flag.name in unknown and flag.source != _OURS]
        if wrong:
            raise UserError(
                "; ".join(f"{flag.text} from {flag.source}" for flag in wrong)
                + f": unknown XLA flag in {_library(variable)}; correct its name or remove it. "
                "XLA's flags change between versions."
            )
        console.print(
            f"XLA flags left out, as {_library(variable)} does not know them: "
            f"{', '.join(sorted(unknown))}"
        )
        return _accepted(variable, [f for f in flags if f.name not in unknown], environ)
    bad = next((match for each in _BAD_VALUES if (match := each.search(output))), None)
    if bad is not None:
        name = f"--{bad['flag']}"
        source = next((flag.source for flag in flags if flag.name == name), variable)
        raise UserError(
            f"{name} from {source}: {_library(variable)} rejects the value {bad['value']!r}; "
            "correct it or remove the flag."
        )
    return flags


def _names_unknown_to_xla(flags: list[_Flag], environ: MutableMapping[str, str]) -> frozenset[str]:
    return _unknown_names(_probe(XLA_VARIABLE, flags, environ)) if flags else frozenset()


def _unknown_names(output: str) -> frozenset[str]:
    """Returns the flags, as `--name`, that XLA or libtpu reported as unknown."""
    texts = [token for line in _XLA_UNKNOWN.findall(output) for token in _TOKEN.findall(line)]
    texts += [f"--{name}" for name in _TPU_UNKNOWN.findall(output)]
    return frozenset(text.partition("=")[0] for text in texts)


def _probe(variable: str, flags: list[_Flag], environ: MutableMapping[str, str]) -> str:
    """Parses the flags in a child process; returns the library's output, or "" if it succeeds."""
    is_tpu = variable == TPU_VARIABLE
    child = {name: value for name, value in environ.items() if not name.startswith("TPU_")}
    child |= {"JAX_PLATFORMS": "cpu", XLA_VARIABLE: "", TPU_VARIABLE: ""}
    child |= _TPU_PROBE_ENVIRON if is_tpu else {}
    child[variable] = _text(flags)
    command = [sys.executable, "-c", _TPU_PROBE if is_tpu else _XLA_PROBE]
    try:
        done = subprocess.run(
            command, env=child, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S,
            errors="replace", check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return ""  # inconclusive: the run itself will show whether the flags are valid
    return done.stderr + done.stdout if done.returncode else ""


def _text(flags: list[_Flag]) -> str:
    return " ".join(flag.text for flag in flags)


def _quoted(flag: str) -> str:
    """Quotes a flag for use among others: to XLA, an unquoted space ends a flag."""
    name, equals, value = flag.partition("=")
    if not re.search(r"\s", value) or value[0] in "'\"":
        return flag
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}{equals}"{escaped}"'


def _library(variable: str) -> str:
    name = "libtpu" if variable == TPU_VARIABLE else "jaxlib"
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name


def _backend_exists() -> bool:
    """Whether jax has created a backend in this process; does not import jax."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized()


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is not installed
        return False


def _has_device(*patterns: str) -> bool:
    return any(next(_DEVICES.glob(pattern), None) is not None for pattern in patterns)
