"""The collectives of a compiled step: small programs by hand, and a step on eight devices.

The step's bytes are held against the formula of `scaling.py`. Where XLA's CPU backend departs from
it, the departure is a term of its own.
"""

from dataclasses import replace

import jax
import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import DataConfig, MaskConfig
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.presets import PRESETS
from parrot_jax.sharding import MeshConfig, make_mesh
from parrot_jax.train.chips import CHIPS, flops_per_token
from parrot_jax.train.collectives import Collective, collectives, num_bytes, seconds, traffic
from parrot_jax.train.objectives import RoleMaskedLoss
from parrot_jax.train.program import make_program
from parrot_jax.train.scaling import (
    Sent,
    computed_flops_per_token,
    least_tokens,
    sent_by_formula,
)
from parrot_jax.train.train_config import TrainConfig

# ---- small programs -----------------------------------------------------------------------------


def program(*instructions: str, loop: str = "", count: str = "") -> str:
    """A module of eight devices with these instructions, in its entry or in the body of a loop.

    The loop counts from 1 in steps of 2 while the counter is below 8.
    """
    ends = f'backend_config={{"known_trip_count":{{"n":"{count}"}}}}' if count else ""
    inside = "\n  ".join(instructions)
    return f"""HloModule step, is_scheduled=true, num_partitions=8

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %state = (s32[]{{:T(128)}}, /*index=1*/f32[8]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8]{{0}} get-tuple-element(%state), index=1
  %two = s32[] constant(2)
  %next = s32[] add(%i, %two)
  {inside if loop else ""}
  ROOT %result = (s32[], f32[8]{{0}}) tuple(%next, %x)
}}

%fused (a: s32[], b: s32[]) -> pred[] {{
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %less = pred[] compare(%a, %b), direction=LT
}}

%condition (state.1: (s32[], f32[8])) -> pred[] {{
  %state.1 = (s32[], f32[8]{{0}}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %eight = s32[] constant(8)
  ROOT %goes_on = pred[] fusion(%i.1, %eight), kind=kLoop, calls=%fused
}}

%sum (l: f32[], r: f32[]) -> f32[] {{
  %l = f32[] parameter(0)
  %r.1 = f32[] parameter(1)
  ROOT %total = f32[] add(%l, %r.1)
}}

%wrapped (y: f32[8]) -> f32[8] {{
  %y = f32[8]{{0}} parameter(0)
  ROOT %inner = f32[8]{{0}} all-reduce(%y), replica_groups=[2,4]<=[8], to_apply=%sum
}}

ENTRY %main (p: f32[8], n: s32[]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
  %n = s32[] parameter(1)
  %one = s32[] constant(1)
  {inside if not loop else ""}
  %start = (s32[], f32[8]{{0}}) tuple(%{loop or "one"}, %p)
  %loop = (s32[], f32[8]{{0}}) while(%start), condition=%condition, body=%body, {ends}
  ROOT %out = f32[8]{{0}} get-tuple-element(%loop), index=1
}}
"""


GROUPS_OF_4 = "replica_groups={{0,1,2,3},{4,5,6,7}}"
PLAIN = f"%g = bf16[64]{{0}} all-gather(%p), {GROUPS_OF_4}, dimensions={{0}}"


@pytest.mark.parametrize(
    ("instruction", "kind", "sent"),
    [
        # 64 * 2 bytes; a device gets three quarters from others, and passes as many on.
        (PLAIN, "all-gather", 96),
        # The result of 16 bytes is a quarter of the operand.
        (f"%r = f32[4] reduce-scatter(%p), {GROUPS_OF_4}, to_apply=%sum", "reduce-scatter", 48),
        # 32 bytes: a reduce-scatter and an all-gather.
        (f"%r = f32[8] all-reduce(%p), {GROUPS_OF_4}, to_apply=%sum", "all-reduce", 48),
        (f"%r = (f32[], f32[7]) all-reduce(%p, %p), {GROUPS_OF_4}", "all-reduce", 48),
        (f"%r = f32[8] all-to-all(%p), {GROUPS_OF_4}", "all-to-all", 24),
        ("%r = f32[8] collective-permute(%p), source_target_pairs={{0,1},{1,0}}",
         "collective-permute", 32),
        # The same group of 4 in the other notations; none = all eight.
        ("%r = f32[8] all-reduce(%p), replica_groups=[2,4]<=[4,2]T(1,0)", "all-reduce", 48),
        ("%r = f32[8] all-reduce(%p), replica_groups=mesh['a'=2,'b'=4] {'b'}", "all-reduce", 48),
        ("%r = f32[8] all-reduce(%p), "
         "replica_groups=mesh['a'=2,'b'=2,'c'=2], device_ids=([4,2]T(1,0)) {'a','c'}, x=1",
         "all-reduce", 48),
        ("%r = f32[8] all-reduce(%p), replica_groups={}, to_apply=%sum", "all-reduce", 56),
        ("%r = ((f32[8]), f32[8]) async-start(%p), calls=%wrapped", "all-reduce", 48),
    ],
)  # fmt: skip
def test_the_bytes_that_a_device_sends(instruction: str, kind: str, sent: float) -> None:
    (found,) = collectives(program(instruction))
    assert (found.kind, found.executions, found.sent_bytes) == (kind, 1, sent)


def test_a_pair_of_start_and_done_counts_once() -> None:
    found = traffic(collectives(program(
        f"%s = (bf16[16], bf16[64]) all-gather-start(%p), {GROUPS_OF_4}",
        "%d = bf16[64] all-gather-done(%s)",
    )))  # fmt: skip
    assert found == {"all-gather": (1, 96)}


def test_the_fused_steps_of_a_collective_count_once() -> None:
    step, started = "fusion(%p), kind=kCustom, calls=%step", "%async-collective-start.3"
    # Two steps in each of four trips; then the start, and the end.
    loop = program("%early = f32[8] " + step, "%late = f32[8] " + step, loop="one")
    inner = loop[loop.index("%wrapped (y") : loop.index("ENTRY")].replace("wrapped", "step")
    inner = inner.replace("replica_groups", "channel_id=7, replica_groups")
    whole = inner + loop.replace(
        "%one = s32[]",
        f"{started} = f32[8] {step}\n  %async-collective-done = f32[8] {step}\n  %one = s32[]",
    )
    assert traffic(collectives(whole)) == {"all-reduce": (1, 48)}
    alone = whole.replace(started, "%fusion")  # steps of nothing: ordinary collectives
    assert traffic(collectives(alone)) == {"all-reduce": (10, 480)}


def test_a_group_of_one_sends_nothing() -> None:
    assert collectives(program("%r = f32[8] all-reduce(%p), replica_groups={{0},{1}}")) == []


@pytest.mark.parametrize(("count", "trips"), [("5", 5), ("", 4)])
def test_a_loop_counts_each_of_its_trips(count: str, trips: int) -> None:
    # Without a count from the compiler, the counter goes 1, 3, 5, 7.
    found = traffic(collectives(program(PLAIN.replace("%p", "%x"), loop="one", count=count)))
    assert found == {"all-gather": (trips, trips * 96)}


def test_a_loop_whose_trips_depend_on_data_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"trip count of loop loop is unknown: n is a parameter"):
        collectives(program(PLAIN.replace("%p", "%x"), loop="n"))
    assert collectives(program(loop="n")) == []  # nothing is sent, so the count does not matter


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("%r = f32[8] collective-broadcast(%p)", "r is a collective-broadcast, whose bytes"),
        ("%r = f32[8] ragged-all-to-all(%p)", "r is a ragged-all-to-all, whose bytes"),
        ("%r = (f32[8], u32[]) send(%p)", "r is a send, whose bytes"),
        ("%r = f32[8] all-reduce(%p), replica_groups=@all", "groups of r are '@all'"),
        ("%r = f32[8] all-reduce(%p), replica_groups={{0,1},{2}}", "known are lists of equal size"),
        ("%r = odd[8] all-reduce(%p), replica_groups={}", "have the unknown type odd"),
        ("%r = f32[8] conditional(%n, %p, %p), branch_computations={%wrapped, %fused}",
         "conditional with collectives in a branch"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_an_error(instruction: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collectives(program(instruction))


def test_a_transfer_to_the_host_is_no_collective() -> None:
    assert collectives(program("%r = (f32[8], u32[]) send(%p), is_host_transfer=true")) == []


def test_other_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no ENTRY computation"):
        collectives("not a module")


def test_bytes_of_small_types() -> None:
    assert num_bytes("(pred[8]{0}, u4[8], f8e4m3fn[8]{0}, token[])") == 8 + 4 + 8


# ---- time ---------------------------------------------------------------------------------------


def test_seconds_by_hand() -> None:
    v5p = next(chip for chip in CHIPS if chip.name == "v5p")  # six links of 100 GB/s
    gather = Collective("all-gather", 2, 300e9, 8, "", "")
    east = Collective("collective-permute", 1, 50e9, 2, "{{0,1},{1,0}}", "")
    west = east._replace(route="{{1,0},{0,1}}", executions=2)
    assert seconds([gather], v5p) == pytest.approx(1.0)
    # The busiest route has one link; the other runs beside it.
    assert seconds([east, west], v5p) == pytest.approx(1.0)
    a100 = next(chip for chip in CHIPS if chip.name == "a100-80g")
    assert seconds([east, west], a100) == pytest.approx(0.5)  # through a switch
    assert seconds([gather], replace(v5p, link_bytes_per_s=None)) is None


def test_recomputed_flops_by_hand() -> None:
    model = PRESETS["llama2-13b"]
    counted, attention, head = flops_per_token(model, 4096), 6 * 40 * 5120 * 4096, 6 * 163_840_000
    assert computed_flops_per_token(model, 4096, "none") == counted
    assert computed_flops_per_token(model, 4096, "dots") == counted + attention / 3
    assert computed_flops_per_token(model, 4096, "full") == counted + (counted - head) / 3


def test_least_tokens_by_hand() -> None:
    # 100 bytes at 10 bytes/s are 10 s; a token of 4 FLOPs at 2 FLOP/s is 2 s.
    assert least_tokens(100, flops=4, peak=2, links=10) == 5


# ---- a step on eight devices --------------------------------------------------------------------

CONFIG = TrainConfig(
    task="ask",
    out="unused",
    data=DataConfig(
        sources=(SourceConfig(kind="messages", path="unused"),),
        tokenizer="unused",
        mask=MaskConfig(loss_roles=("user",)),
        row_tokens=64,
    ),
    model=ModelConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
    ),
    batch_rows=16,
    micro_rows=1,
    remat="full",
    compute_dtype="float32",  # XLA's CPU backend gathers bfloat16 weights in float32
    loss_tile=128,  # several tiles
)


def counted(config: TrainConfig) -> dict[str, int]:
    """Bytes by kind in the program that XLA compiles for eight CPU devices."""
    mesh = make_mesh(config.mesh, jax.devices())
    step = make_program(config, mesh, objective=RoleMaskedLoss(None))
    text = step.step.lower(step.state, step.batch, 0.0).compile().as_text()
    return {kind: each.bytes for kind, each in traffic(collectives(text)).items()}


def gathers(sent: Sent, micro_batches: int) -> float:
    """Departure: gathers of embedding and head leave the loop over micro-batches."""
    return sent.layer_gathers + (sent.embedding_gathers + sent.head_gathers) / micro_batches


def gradients(sent: Sent) -> float:
    """Departure: all-reduces, twice the bytes of reduce-scatters."""
    return 2 * (sent.layer_gradients + sent.outer_gradients) + sent.norm_gradients


SCALARS = 256
"""Most bytes of all sums of scalars: losses, weights, norms, counts."""


def test_the_bytes_of_fsdp_are_those_of_the_formula() -> None:
    config = replace(CONFIG, mesh=MeshConfig(data=1, fsdp=8, tensor=1))
    found, sent = counted(config), sent_by_formula(config, (1, 8, 1))
    # By hand: 2 micro-batches, 3 layers of 4 * 32 * 32 + 3 * 32 * 64 weights, gathered twice.
    assert sent.layer_gathers == 2 * 2 * 7 / 8 * 3 * 10_240 * 4
    assert sent.head_gathers == 2 * 7 / 8 * 256 * 32 * 4
    assert set(found) == {"all-gather", "all-reduce"}
    assert found["all-gather"] == gathers(sent, 2)
    assert 0 <= found["all-reduce"] - gradients(sent) < SCALARS


def test_the_bytes_of_fsdp_and_tensor_parallelism_are_those_of_the_formula() -> None:
    config = replace(CONFIG, mesh=MeshConfig(data=1, fsdp=4, tensor=2))
    found, sent = counted(config), sent_by_formula(config, (1, 4, 2))
    # A row of 64 tokens * 32 * 4 bytes; of two devices each sends as much in an all-reduce.
    one_reduce, micro_batches, layers = 64 * 32 * 4, 4, 3
    assert sent.activations == micro_batches * (5 * layers + 1) * one_reduce
    # Departure: q, k and v, and gate and up, are reduced one by one on the way back.
    one_by_one = micro_batches * layers * (2 + 1) * one_reduce
    # Left out of the formula: maximum, sum and target logit of each token.
    softmax = micro_batches * 64 * 3 * 4
    assert set(found) == {"all-gather", "all-reduce"}
    assert found["all-gather"] == gathers(sent, micro_batches)
    expected = gradients(sent) + sent.activations + one_by_one + softmax
    assert 0 <= found["all-reduce"] - expected < SCALARS


def test_the_formula_refuses_data_parallelism() -> None:
    with pytest.raises(UserError, match=r"mesh.data 1, not 2; use fsdp and tensor only"):
        sent_by_formula(CONFIG, (2, 4, 1))
