"""The kernels compiled, forward and backward, for hardware that is not here.

Every compilation has a process of its own: jax, libtpu and the CUDA plugin read what they are to
compile for when they are loaded. This file is that process's program too.

cuDNN chooses its kernel when a program is loaded on the GPU; what is compiled here is the call.
"""

import functools
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.plan

LENGTH = 4096
GIB = 2**30

ON_TPU = [("v5p:2x2x1", "splash"), ("v5e:2x2", "splash")]
ON_GPU = [("a100-80g:1x8", "pallas"), ("h100-80g:1x8", "pallas")]


@functools.lru_cache
def compiled(topology, backend, **shape):
    """What a process of its own found: temporaries in bytes, kernels, collectives."""
    environ = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    process = subprocess.run(
        [sys.executable, __file__, json.dumps([topology, backend, shape])],
        env=environ, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize(("topology", "backend"), ON_TPU + ON_GPU)
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(40, 40), (64, 8)])
def test_a_packed_row_of_llama_takes_a_tenth_of_the_memory_of_its_scores(
    topology, backend, num_heads, num_kv_heads
):
    found = compiled(topology, backend, num_heads=num_heads, num_kv_heads=num_kv_heads)
    assert found["temporary_bytes"] < 4 * num_heads * LENGTH**2 / 10
    assert found["kernels"] == 3  # forward once, and two for the gradients
    assert not found["collectives"]


@pytest.mark.parametrize("topology", ["a100-80g:1x8", "h100-80g:1x8"])
def test_cudnn_takes_a_row_of_llama_that_is_not_packed(topology):
    found = compiled(topology, "cudnn", packed=False)
    assert found["temporary_bytes"] < 4 * 40 * LENGTH**2 / 10
    assert found["kernels"] >= 2
    assert not found["collectives"]


@pytest.mark.parametrize(("topology", "backend"), [ON_TPU[0], ON_GPU[0]])
def test_rows_and_heads_are_split_over_a_mesh_without_gathering_them(topology, backend):
    whole = compiled(topology, backend, num_heads=40, num_kv_heads=40)
    half = compiled(topology, backend, tensor=2)
    assert not half["collectives"]
    assert half["temporary_bytes"] < 0.6 * whole["temporary_bytes"]


@pytest.mark.parametrize(("topology", "backend"), ON_TPU + ON_GPU)
def test_a_remat_policy_keeps_the_forward_kernel_from_running_twice(topology, backend):
    small = {"num_heads": 4, "num_kv_heads": 4, "length": 512}
    assert compiled(topology, backend, **small, remat="attention")["kernels"] == 3
    assert compiled(topology, backend, **small, remat="nothing")["kernels"] == 4


EDGES = {
    "splash": [(128, 8, "bfloat16"), (384, 100, "bfloat16"), (4096, 256, "float32")],
    "pallas": [
        (16, 16, "bfloat16"), (48, 24, "float16"), (4096, 16, "float32"), (4096, 100, "bfloat16"),
        (4096, 128, "float32"), (4096, 256, "bfloat16"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("topology", "backend"), ON_TPU + ON_GPU)
def test_what_a_kernel_does_not_refuse_compiles(topology, backend):
    for length, width, dtype in EDGES[backend]:
        shape = {"num_heads": 4, "num_kv_heads": 2, "length": length, "width": width}
        assert compiled(topology, backend, **shape, dtype=dtype)["kernels"] == 3


# ---- the process --------------------------------------------------------------------------------


def compile_for(
    topology, backend, *, num_heads=40, num_kv_heads=40, length=LENGTH, width=128,
    dtype="bfloat16", packed=True, tensor=1, remat=None,
):  # fmt: skip
    """Compiles the gradients of one row a device."""
    from parrot_jax.train.topologies import parse_topology, prepare_environment, topology_devices

    target = parse_topology(topology)
    prepare_environment(target)

    import jax
    import jax.numpy as jnp

    from parrot_jax.model.attention import attend, choose
    from parrot_jax.sharding import MeshConfig, array_sharding, make_mesh, num_batch_shards

    mesh = make_mesh(MeshConfig(tensor=tensor), topology_devices(target))
    chosen = choose(backend, target.platform, segments=packed)
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
            output = attend(query, key, value, ids, backend=chosen, mesh=mesh)
            # A layer goes on with what attention gave, and needs it again for its own gradient.
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
    name, kernel, options = json.loads(sys.argv[1])
    print(json.dumps(compile_for(name, kernel, **options)))
