"""Names of target hardware to compile for; the hardware itself is not needed.

`v5p:2x2x4` is a TPU slice of 16 chips, `a100-80g:2x8` two hosts with 8 GPUs each. libtpu describes
TPUs (extra `tpu`); for GPUs, jax's CUDA plugin reads a text description (extra `cuda13`). Neither
needs a device or a driver.
"""

import importlib.util
import os
import re
from collections.abc import MutableMapping, Sequence
from typing import Any, NamedTuple

from parrot_jax.core.errors import UserError
from parrot_jax.core.xla_flags import set_xla_flags
from parrot_jax.train.chips import CHIPS, Chip

TOPOLOGIES = (
    "a100-80g:1x8", "a100-80g:2x8", "h100-80g:1x8", "h200:1x1", "h200:1x8",
    "v4:2x2x4", "v5e:4x8", "v5p:2x2x4", "v6e:4x4",
)  # fmt: skip
"""Tested topologies; other shapes of the same chips work too."""


class Topology(NamedTuple):
    """A parsed topology name."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    """TPU: chips along each side. GPU: hosts, devices per host."""

    @property
    def platform(self) -> str:
        """`gpu` or `tpu`, as jax says."""
        return "gpu" if self.chip.name in _GPUS else "tpu"


class _Gpu(NamedTuple):
    """What XLA needs to know of a GPU besides its memory."""

    kind: str
    capability: str
    cores: int
    fpus_per_core: int
    shared_memory_per_core: int
    shared_memory_per_block: int
    l2_bytes: int
    bandwidth: int
    clock_ghz: float


_HOPPER = (132, 128, 233_472, 232_448)
_GPUS = {
    "a100-80g": _Gpu("NVIDIA A100-SXM4-80GB", "major: 8 minor: 0", 108, 64, 167_936, 166_912,
                     41_943_040, 2_039_000_000_000, 1.41),
    "h100-80g": _Gpu("NVIDIA H100 80GB HBM3", "major: 9 minor: 0", *_HOPPER,
                     52_428_800, 3_352_320_000_000, 1.98),
    "h200": _Gpu("NVIDIA H200", "major: 9 minor: 0", *_HOPPER,
                 62_914_560, 4_800_000_000_000, 1.98),
}  # fmt: skip


def parse_topology(name: str) -> Topology:
    """Parses a name such as `v5p:2x2x4`.

    Raises:
      UserError: The chip is unknown, or the shape has the wrong number of sides.
    """
    chip_name, _, shape_text = name.partition(":")
    chip = next((chip for chip in CHIPS if chip.name == chip_name), None)
    known = ", ".join(TOPOLOGIES)
    if chip is None or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape_text):
        raise UserError(f"there is no topology {name!r}; choose one of {known}, or another shape.")
    topology = Topology(name, chip, tuple(int(side) for side in shape_text.split("x")))
    sides = 3 if chip_name in ("v4", "v5p") else 2
    if len(topology.shape) != sides:
        raise UserError(f"a shape of {chip_name} has {sides} sides, not {shape_text}; see {known}.")
    return topology


def prepare_environment(
    topology: Topology,
    xla_flags: Sequence[str] = (),
    environ: MutableMapping[str, str] = os.environ,
) -> None:
    """Sets the environment for jax, libtpu and the CUDA plugin; call it before they are loaded.

    Args:
      topology: The target hardware.
      xla_flags: Flags of the config; those of the platform are added as in a run.
      environ: The environment to change.

    Raises:
      UserError: The extra for the hardware is not installed, or a flag is unknown.
    """
    package, extra = ("libtpu", "tpu") if topology.platform == "tpu" else (
        "jax_cuda13_plugin", "cuda13")  # fmt: skip
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"compiling for {topology.name} needs the extra {extra}: "
            f"pip install 'parrot-jax[{extra}]' (best in a separate environment)."
        )
    environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    environ["JAX_PLATFORMS"] = "cpu"
    if topology.platform == "gpu":
        environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
        # Autotuning needs a device.
        set_xla_flags([*xla_flags, "--xla_gpu_autotune_level=0"], "gpu", environ)
        return
    environ.update(
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_ACCELERATOR_TYPE=topology.name.replace(":", "-"),
        # No device is used, so a second process may compile at the same time.
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )
    environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    set_xla_flags(xla_flags, "tpu", environ)


def topology_devices(topology: Topology) -> list[Any]:
    """Devices that can be compiled for, but not used.

    Raises:
      UserError: The vendor's compiler does not know this slice.
    """
    from jax.experimental import topologies

    try:
        if topology.platform == "gpu":
            hosts, devices = topology.shape
            found = topologies.get_topology_desc(
                platform="cuda",
                target_config=_gpu_description(topology.chip),
                topology=f"1x{hosts}x{devices}",
            )
        else:
            # On a v4, jax sees the two cores of a chip as one device.
            options: dict[str, Any] = (
                {"chip_config_name": "megacore"} if topology.chip.name == "v4" else {}
            )
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=topology.name, **options
            )
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot describe {topology.name}: {reason}.") from error
    return found.devices


def _gpu_description(chip: Chip) -> str:
    """A `GpuTargetConfig` of XLA, as text."""
    gpu = _GPUS[chip.name]
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024
          threads_per_warp: 32
          threads_per_core_limit: 2048
          shared_memory_per_block: 49152
          shared_memory_per_core: {gpu.shared_memory_per_core}
          shared_memory_per_block_optin: {gpu.shared_memory_per_block}
          core_count: {gpu.cores}
          fpus_per_core: {gpu.fpus_per_core}
          block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535
          block_dim_limit_z: 65535
          memory_bandwidth: {gpu.bandwidth}
          l2_cache_size: {gpu.l2_bytes}
          clock_rate_ghz: {gpu.clock_ghz}
          device_memory_size: {chip.hbm_bytes}
          cuda_compute_capability {{ {gpu.capability} }}
          registers_per_core_limit: 65536
          registers_per_block_limit: 65536
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 }}
        runtime_version {{ major: 13 }}
        device_description_str: "{gpu.kind}"
    """
