"""The kernels for TPU and GPU: interpreted on a CPU at small shapes, run on hardware at LLaMA's.

An interpreted kernel runs the same program, block by block, in XLA on the CPU. This tests its
results, not whether it compiles for the hardware (see test_attention_aot.py).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.model import attention
from parrot_jax.model.attention import attend, choose, resolve
from parrot_jax.sharding import MeshConfig, array_sharding, make_mesh

pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True)
class Case:
    """A backend, and the shape to test it at."""

    backend: attention.Backend
    rows: int
    length: int
    num_heads: int
    num_kv_heads: int
    width: int
    dtype: str = "float32"

    def arrays(self):
        """Queries, keys, values and an upstream gradient."""
        # With numpy, because jax would compile each function separately.
        random = np.random.default_rng(0)
        heads = (self.num_heads, self.num_kv_heads, self.num_kv_heads, self.num_heads)
        return [
            jnp.asarray(
                random.standard_normal((self.rows, self.length, count, self.width), np.float32),
                self.dtype,
            )
            for count in heads
        ]

    def segments(self):
        """Segments that end inside blocks, one of a single token, and padding (id 0)."""
        ends = [self.length * part // 10 for part in (3, 4, 9)]
        starts = [0, ends[0], ends[1], ends[1] + 1, ends[2]]
        lengths = np.diff([*starts, self.length])
        row = np.repeat([1, 2, 3, 4, 0], lengths)
        return jnp.asarray(np.tile(row, (self.rows, 1)), jnp.int32), starts


def interpreted(name, platform):
    backend = choose(name, platform)
    return dataclasses.replace(
        backend, function=functools.partial(backend.function, interpret=True)
    )


SPLASH, PALLAS = interpreted("splash", "tpu"), interpreted("pallas", "gpu")

# Three blocks of 128; blocks of 64; blocks of 128 and 64 with head widths that are no power of two.
SMALL = [
    pytest.param(Case(SPLASH, 1, 384, 4, 4, 16), id="splash"),
    pytest.param(Case(SPLASH, 2, 384, 4, 2, 16), id="splash-grouped"),
    pytest.param(Case(PALLAS, 1, 192, 2, 2, 16), id="pallas"),
    pytest.param(Case(PALLAS, 2, 128, 4, 2, 24), id="pallas-grouped"),
    pytest.param(Case(PALLAS, 1, 256, 4, 1, 16, "bfloat16"), id="pallas-bfloat16"),
]
LLAMA = [
    pytest.param(
        Case(choose(name, platform), 2, 4096, num_heads, num_kv_heads, 128, "bfloat16"),
        id=f"{name}-{num_heads}-{num_kv_heads}",
        marks=getattr(pytest.mark, platform),
    )
    for name, platform in (("splash", "tpu"), ("pallas", "gpu"))
    for num_heads, num_kv_heads in ((40, 40), (64, 8))
]
CUDNN = pytest.param(
    Case(choose("cudnn", "gpu", segments=False), 2, 4096, 40, 40, 128, "bfloat16"),
    id="cudnn",
    marks=pytest.mark.gpu,
)


@functools.partial(jax.jit, static_argnames=("backend", "window", "mesh"))
def output_and_gradients(arrays, segment_ids, backend, mesh=None, window=None):
    def attended(query, key, value):
        return attend(query, key, value, segment_ids, backend=backend, window=window, mesh=mesh)

    *inputs, upstream = arrays
    output, pullback = jax.vjp(attended, *inputs)
    return output, *pullback(upstream)


@functools.partial(jax.jit, static_argnames="window")
def expected_output_and_gradients(arrays, segment_ids, window=None):
    """The result of dense in float32, one key head at a time: all at once would need 10 GiB."""
    num_rows, length, _, width = arrays[0].shape
    num_kv_heads = arrays[1].shape[2]

    def one_head(arrays):
        return output_and_gradients(arrays, segment_ids, choose("dense"), window=window)

    by_kv_head = [
        jnp.moveaxis(array.reshape(num_rows, length, num_kv_heads, -1, width), 2, 0)
        for array in (array.astype(jnp.float32) for array in arrays)
    ]
    with jax.default_matmul_precision("highest"):
        found = jax.lax.map(one_head, by_kv_head)
    return tuple(jnp.moveaxis(array, 0, 2).reshape(num_rows, length, -1, width) for array in found)


@pytest.mark.parametrize("case", SMALL + LLAMA)
def test_packed_rows_have_the_output_and_gradients_of_dense(case):
    check_parity(case, case.segments()[0])


@pytest.mark.parametrize("case", [SMALL[0], SMALL[2], *LLAMA, CUDNN])
def test_rows_of_one_segment_have_the_output_and_gradients_of_dense(case):
    check_parity(case, None)


@pytest.mark.parametrize("case", [*SMALL, *LLAMA])
@pytest.mark.parametrize("share", [0.04, 0.4])
def test_a_window_has_the_output_and_gradients_of_dense(case, share):
    check_parity(case, case.segments()[0], round(case.length * share))


@pytest.mark.parametrize("case", [SMALL[0], SMALL[2], CUDNN])
def test_a_window_in_rows_of_one_segment_has_them_too(case):
    check_parity(case, None, case.length // 3)


def check_parity(case, segment_ids, window=None):
    arrays = case.arrays()
    expected = expected_output_and_gradients(arrays, segment_ids, window)
    # bfloat16 has 8 bits: in it, dense itself is off by 0.003.
    allowed = 0.006 if case.dtype == "bfloat16" else 1e-6
    found = output_and_gradients(arrays, segment_ids, case.backend, window=window)
    for what, ours, exact in zip(("output", "query", "key", "value"), found, expected, strict=True):
        assert ours.dtype == case.dtype
        distance = np.linalg.norm(np.asarray(ours, np.float32) - exact) / np.linalg.norm(exact)
        assert distance < allowed, what


@pytest.mark.parametrize("case", [SMALL[0], SMALL[2], *LLAMA])
def test_changing_one_segment_leaves_the_bits_of_the_others(case):
    arrays = [np.asarray(array) for array in case.arrays()]
    segment_ids, starts = case.segments()
    start, end = starts[3], starts[4]
    before = output_and_gradients(arrays, segment_ids, case.backend)
    other = [array.copy() for array in arrays]
    for array in other:
        array[:, start:end] *= np.asarray(-50.0, array.dtype)
    after = output_and_gradients(other, segment_ids, case.backend)
    for one, two in zip(before, after, strict=True):
        one, two = np.asarray(one, np.float32), np.asarray(two, np.float32)
        np.testing.assert_array_equal(one[:, :start], two[:, :start])
        np.testing.assert_array_equal(one[:, end:], two[:, end:])
        assert np.abs(one[:, start:end] - two[:, start:end]).max() > 0.1


def test_pallas_visits_only_the_blocks_that_may_share_a_segment():
    from parrot_jax.model.attention_pallas import _Blocks, _first_keys, _last_queries

    # Blocks of 64 hold the segments 1 | 1 2 | 2 3 | 3.
    row = jnp.asarray(np.repeat([[1, 2, 3]], [80, 80, 96], axis=1), jnp.int32)
    blocks = _Blocks(queries=64, keys=64)
    assert _first_keys(row, blocks).tolist() == [[0, 0, 1, 2]]
    assert _last_queries(row, blocks).tolist() == [[2, 3, 4, 4]]
    assert _first_keys(row, _Blocks(queries=128, keys=64)).tolist() == [[0, 1]]
    # With a window of 65, query 128 sees keys from 64 on, and key 0 is seen by queries up to 64.
    one = jnp.ones((1, 256), jnp.int32)
    assert _first_keys(one, blocks, 65).tolist() == [[0, 0, 1, 2]]
    assert _last_queries(one, blocks, 65).tolist() == [[2, 3, 4, 4]]
    # They are not read at all: NaNs in them do not spread.
    case = Case(PALLAS, 1, 256, 2, 2, 16)
    arrays = [np.array(array) for array in case.arrays()]
    for array in arrays:
        array[:, :64] = np.nan
    for found in output_and_gradients(arrays, row, PALLAS):
        finite = np.isfinite(found).all((0, 2, 3))
        assert not finite[:64].any()
        assert finite[192:].all()


def test_pallas_takes_segments_in_pieces_and_in_any_order():
    case = Case(PALLAS, 1, 128, 2, 2, 16)
    check_parity(case, jnp.asarray(np.repeat([[3, 1, 3, 0, 2, 1]], 22, axis=1)[:, :128], jnp.int32))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(SPLASH, 4, 128, 4, 2, 16), id="splash"),
        pytest.param(Case(PALLAS, 4, 32, 4, 2, 16), id="pallas"),
    ],
)
@pytest.mark.slow
def test_on_a_mesh_each_device_attends_for_its_own_rows_and_heads(case):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    heads = array_sharding(mesh, "batch", "seq", "heads", "head_dim")
    arrays, (segment_ids, _) = case.arrays(), case.segments()
    expected = expected_output_and_gradients(arrays, segment_ids)
    split = [jax.device_put(array, heads) for array in arrays]
    segment_ids = jax.device_put(segment_ids, array_sharding(mesh, "batch", "seq"))
    found = output_and_gradients(split, segment_ids, case.backend, mesh)
    for ours, alone in zip(found, expected, strict=True):
        assert ours.sharding.is_equivalent_to(heads, 4)
        np.testing.assert_allclose(ours, alone, atol=5e-6)


@pytest.mark.parametrize("backend", [SPLASH, PALLAS], ids=lambda backend: backend.name)
@pytest.mark.slow
def test_a_remat_policy_can_keep_what_the_backward_kernel_needs(backend, capsys):
    case = Case(backend, 2, 128, 4, 2, 16)
    *inputs, _ = case.arrays()
    keep = jax.checkpoint_policies.save_only_these_names("attention")
    total = lambda *qkv: attend(*qkv, case.segments()[0], backend=backend).sum()  # noqa: E731
    jax.ad_checkpoint.print_saved_residuals(jax.checkpoint(total, policy=keep), *inputs)
    # The log-sum-exp of each query and the output: without them the kernel would run again.
    assert "f32[2,4,128] " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "platform", "refused", "reason"),
    [
        ("splash", "tpu", (4000, 128, "bfloat16"), "rows of a multiple of 128 tokens, not 4000"),
        ("splash", "tpu", (4096, 512, "bfloat16"), "heads of width up to 256, not 512"),
        ("splash", "tpu", (4096, 128, "float16"), "float32 or bfloat16, not float16"),
        ("pallas", "gpu", (4100, 128, "bfloat16"), "rows of a multiple of 16 tokens, not 4100"),
        ("pallas", "gpu", (4096, 8, "bfloat16"), "bfloat16 heads of width 16 to 256, not 8"),
        ("pallas", "gpu", (4096, 256, "float32"), "width 16 to 128, not 256"),
        ("cudnn", "gpu", (4096, 128, "float32"), "bfloat16 or float16, not float32"),
        ("cudnn", "gpu", (4096, 256, "bfloat16"), "width is a multiple of 8 up to 128, not 256"),
    ],
)
def test_a_named_kernel_refuses_what_it_cannot_honour_and_auto_takes_the_next(
    name, platform, refused, reason
):
    message = f"backend '{name}' takes .*{reason}; change that or choose another backend"
    with pytest.raises(UserError, match=message):
        resolve(choose(name, platform, segments=False), *refused)
    if name != "cudnn":  # auto never chooses it
        taken = resolve(choose("auto", platform), *refused).name
        assert taken == {"tpu": "dense", "gpu": "block_causal"}[platform]


@pytest.mark.parametrize(
    ("platform", "name", "otherwise"),
    [("tpu", "splash", "dense"), ("gpu", "pallas", "block_causal")],
)
def test_auto_takes_the_kernel_where_it_fits_and_attends_without_it_where_not(
    platform, name, otherwise
):
    auto = choose("auto", platform)
    assert resolve(auto, 4096, 128, "bfloat16").name == name
    case = Case(auto, 1, 20, 4, 2, 8)
    arrays, segment_ids = case.arrays(), jnp.ones((1, 20), jnp.int32)
    for ours, theirs in zip(
        output_and_gradients(arrays, segment_ids, auto),
        output_and_gradients(arrays, segment_ids, choose(otherwise, platform)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_without_pallas_for_triton_auto_attends_in_plain_xla(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert resolve(choose("auto", "gpu"), 4096, 128, "bfloat16").name == "block_causal"
    with pytest.raises(
        UserError, match=r"'pallas' needs Pallas for Triton, which jax \d.* no longer"
    ):
        resolve(choose("pallas", "gpu"), 4096, 128, "bfloat16")


def test_cudnn_refuses_packed_rows():
    with pytest.raises(UserError, match="'cudnn' does not support packed segments"):
        choose("cudnn", "gpu")


@pytest.mark.parametrize(
    ("rows", "num_kv_heads", "what"),
    [(6, 2, r"queries of .*\[6, 32"), (4, 1, r"keys of .*\[4, 32")],
)
def test_rows_and_heads_that_do_not_divide_over_the_mesh_are_refused(rows, num_kv_heads, what):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    case = Case(PALLAS, rows, 32, 4, num_kv_heads, 16)
    with pytest.raises(
        UserError, match=f"{what}.* cannot be sharded as .* over the mesh {{'data': 2, "
    ):
        output_and_gradients(case.arrays(), None, case.backend, mesh)
