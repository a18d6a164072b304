"""Compiles the kernels, forward and backward, for hardware that this machine doesn't have.

Each topology has its own process, which compiles all its shapes: jax, libtpu and the CUDA plugin
read the target when they are loaded. This file is also the program of that process.

cuDNN chooses its kernel when a program is loaded on the GPU; only the call is compiled here.
"""

import functools
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.plan

LENGTH = 4096

LLAMA_13B = {"num_heads": 40, "num_kv_heads": 40}
LLAMA_70B = {"num_heads": 64, "num_kv_heads": 8}
HALF = {**LLAMA_13B, "tensor": 2}
NOT_PACKED = {**LLAMA_13B, "packed": False}
WINDOW = {"num_heads": 32, "num_kv_heads": 8, "window": 1024}
SMALL = {"num_heads": 4, "num_kv_heads": 4, "length": 512}
KEPT, NOT_KEPT = {**SMALL, "remat": "attention"}, {**SMALL, "remat": "nothing"}
EDGES = {
    backend: [
        {"num_heads": 4, "num_kv_heads": 2, "length": length, "width": width, "dtype": dtype}
        for length, width, dtype in edges
    ]
    for backend, edges in {
        "splash": [(128, 8, "bfloat16"), (384, 100, "bfloat16"), (4096, 256, "float32")],
        "pallas": [
            (16, 16, "bfloat16"), (48, 24, "float16"), (4096, 16, "float32"),
            (4096, 64, "float32"), (4096, 128, "float32"), (4096, 100, "bfloat16"),
            (4096, 256, "bfloat16"),
        ],
    }.items()
}  # fmt: skip

ON_TPU = [("v5p:2x2x1", "splash"), ("v5e:2x2", "splash")]
ON_GPU = [("a100-80g:1x8", "pallas"), ("h100-80g:1x8", "pallas")]
BACKENDS = {**dict(ON_TPU), **dict(ON_GPU)}


# tests/train/test_plan.py compiles whole steps, including kernels with segments. A group runs on
# one worker, which compiles for its topology once.
EVERYWHERE = [
    pytest.param(topology, marks=[pytest.mark.xdist_group(topology), *nightly])
    for topology, nightly in [
        *((topology, [pytest.mark.nightly]) for topology in dict(ON_TPU)),
        *((topology, []) for topology in dict(ON_GPU)),
    ]
]
GPUS = [pytest.param(topology, marks=pytest.mark.xdist_group(topology)) for topology, _ in ON_GPU]


@functools.lru_cache
def all_compiled(topology):
    """The results of the child process for each shape; only GPUs have cuDNN."""
    backend = BACKENDS[topology]
    asked = [LLAMA_13B, LLAMA_70B, HALF, KEPT, NOT_KEPT, WINDOW, *EDGES[backend]]
    cases = [(backend, shape) for shape in asked]
    if backend == "pallas":
        cases += [("cudnn", NOT_PACKED), ("cudnn", {**NOT_PACKED, "window": 1024})]
    environ = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    process = subprocess.run(
        [sys.executable, __file__, json.dumps([topology, cases])],
        env=environ, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-4000:]
    found = json.loads(process.stdout.splitlines()[-1])
    return {json.dumps(case): values for case, values in zip(cases, found, strict=True)}


def compiled(topology, shape, backend=None):
    """Temporaries in bytes, kernels, collectives."""
    return all_compiled(topology)[json.dumps((backend or BACKENDS[topology], shape))]


@pytest.mark.parametrize("topology", EVERYWHERE)
@pytest.mark.parametrize("shape", [LLAMA_13B, LLAMA_70B], ids=["13B", "70B"])
def test_a_packed_row_of_llama_takes_a_tenth_of_the_memory_of_its_scores(topology, shape):
    found = compiled(topology, shape)
    assert found["temporary_bytes"] < 4 * shape["num_heads"] * LENGTH**2 / 10
    assert found["kernels"] == 3  # forward once, and two for the gradients
    assert not found["collectives"]


@pytest.mark.parametrize("topology", EVERYWHERE)
def test_a_sliding_window_is_part_of_the_kernel(topology):
    assert compiled(topology, WINDOW)["kernels"] == 3


@pytest.mark.parametrize("topology", GPUS)
@pytest.mark.parametrize("window", [{}, {"window": 1024}])
def test_cudnn_takes_a_row_of_llama_that_is_not_packed(topology, window):
    found = compiled(topology, NOT_PACKED | window, "cudnn")
    assert found["temporary_bytes"] < 4 * 40 * LENGTH**2 / 10
    assert found["kernels"] >= 2
    assert not found["collectives"]


@pytest.mark.parametrize("topology", EVERYWHERE)
def test_rows_and_heads_are_split_over_a_mesh_without_gathering_them(topology):
    half = compiled(topology, HALF)
    assert not half["collectives"]
    assert half["temporary_bytes"] < 0.6 * compiled(topology, LLAMA_13B)["temporary_bytes"]


@pytest.mark.parametrize("topology", EVERYWHERE)
def test_a_remat_policy_keeps_the_forward_kernel_from_running_twice(topology):
    assert compiled(topology, KEPT)["kernels"] == 3
    assert compiled(topology, NOT_KEPT)["kernels"] == 4


@pytest.mark.parametrize("topology", EVERYWHERE)
def test_what_a_kernel_does_not_refuse_compiles(topology):
    for shape in EDGES[BACKENDS[topology]]:
        assert compiled(topology, shape)["kernels"] == 3


# ---- the child process --------------------------------------------------------------------------


def compile_all(topology, cases):
    """Compiles the shapes one by one."""
    from parrot_jax.train.topologies import parse_topology, prepare_environment, topology_devices

    target = parse_topology(topology)
    # A kernel that spills registers would be correct but slow.
    no_spills = ["--xla_gpu_fail_ptx_compilation_on_register_spilling=true"]
    prepare_environment(target, no_spills if target.platform == "gpu" else [])
    devices = topology_devices(target)
    return [compile_for(devices, backend, **shape) for backend, shape in cases]


def compile_for(
    devices, backend, *, num_heads, num_kv_heads, length=LENGTH, width=128, dtype="bfloat16",
    packed=True, tensor=1, remat=None, window=None,
):  # fmt: skip
    """Compiles the gradients of one row per device."""
    import jax
    import jax.numpy as jnp

    from parrot_jax.model.attention import attend, choose
    from parrot_jax.sharding import MeshConfig, array_sharding, make_mesh, num_batch_shards

    mesh = make_mesh(MeshConfig(tensor=tensor), devices)
    chosen = choose(backend, devices[0].platform, segments=packed, window=window is not None)
    rows = num_batch_shards(mesh)

    def heads(axis, count):
        sharding = array_sharding(mesh, "batch", "seq", axis, "head_dim")
        return jax.ShapeDtypeStruct((rows, length, count, width), dtype, sharding=sharding)

    query, key = heads("heads", num_heads), heads("kv_heads", num_kv_heads)
    ids = jax.ShapeDtypeStruct(
        (rows, length), "int32", sharding=array_sharding(mesh, "batch", "seq")
    )

    def output_and_gradients(query, key, value, segment_ids, upstream):
        def attended(query, key, value):
            ids = segment_ids if packed else None
            output = attend(query, key, value, ids, backend=chosen, window=window, mesh=mesh)
            # A layer uses the output of attention, and needs it again for its own gradient.
            return jnp.sin(output) if remat else output

        policies = jax.checkpoint_policies
        if remat:
            policy = {
                "attention": policies.save_only_these_names("attention"),
                "nothing": policies.nothing_saveable,
            }[remat]
            attended = jax.checkpoint(attended, policy=policy)
        output, pullback = jax.vjp(attended, query, key, value)
        return output, *pullback(upstream)

    program = jax.jit(output_and_gradients).trace(query, key, key, ids, query).lower().compile()
    text = program.as_text()
    calls = ("tpu_custom_call", "__gpu$xla.gpu.triton", "__cudnn$fmha")
    gathers = ("all-gather", "all-reduce", "all-to-all", "collective-permute")
    return {
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
        "kernels": sum(text.count(f'custom_call_target="{call}') for call in calls),
        "collectives": [name for name in gathers if name in text],
    }


if __name__ == "__main__":
    print(json.dumps(compile_all(*json.loads(sys.argv[1]))))
