"""The collectives of a compiled step: how often each runs, and the bytes it sends.

A program names its collectives in several ways: plain, as a pair of start and done, inside loops,
and (on TPUs) as rings of permutes fused with matrix products. All are counted. What is not
understood is an error, since a collective that is left out would make a program look cheap.
"""

import math
import re
from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from parrot_jax.train.chips import Chip
from parrot_jax.train.hlo_text import Computation, Instruction, Module, parse_module, trip_count

_BITS = {"pred": 8, "token": 0, "bf16": 16, "c64": 64, "c128": 128}


def _all_to_all(group: int, result: int) -> float:
    return (group - 1) / group * result


_SENT = {
    "all-gather": _all_to_all,
    "reduce-scatter": lambda group, result: (group - 1) * result,
    "all-reduce": lambda group, result: 2 * (group - 1) / group * result,
    "all-to-all": _all_to_all,
    "collective-permute": lambda group, result: result,
}
"""Bytes that a device sends, from the size of the group and the bytes of its result, in a ring.

Source: Chan et al., Collective communication: theory, practice, and experience, 2007, section 4.
"""

_UNKNOWN = ("collective-broadcast", "ragged-all-to-all", "send", "recv")


class Collective(NamedTuple):
    """One collective instruction."""

    kind: str
    """E.g. `all-gather`."""
    executions: int
    """In a step."""
    sent_bytes: float
    """That a device sends in one execution."""
    group: int
    """Devices that take part together."""
    route: str
    """Of a permute: its pairs of devices. Permutes with other pairs use other links."""
    source: str
    """The operation of the model that it comes from, as jax names it."""
    channel: str = ""
    """The compiler's number for it."""

    @property
    def step_bytes(self) -> float:
        """That a device sends in a step."""
        return self.executions * self.sent_bytes


class Traffic(NamedTuple):
    """All collectives of a kind in a step."""

    executions: int
    bytes: int
    """That a device sends."""


def collectives(hlo: str) -> list[Collective]:
    """Lists the collectives of a compiled program.

    Args:
      hlo: The text of an optimised module: `jit(f).lower(...).compile().as_text()`.

    Returns:
      One entry for each instruction with a group of more than one device.

    Raises:
      ValueError: A loop with collectives has an unknown trip count, or a collective or its group is
        not understood. The message names it.
    """
    module = parse_module(hlo)
    return list(_inside(module, module.entry, _started(module)))


def traffic(found: Iterable[Collective]) -> dict[str, Traffic]:
    """Sums collectives by kind."""
    sums: dict[str, Traffic] = {}
    for each in found:
        old = sums.get(each.kind, Traffic(0, 0))
        total = old.bytes + each.executions * round(each.sent_bytes)
        sums[each.kind] = Traffic(old.executions + each.executions, total)
    return dict(sorted(sums.items()))


def seconds(found: Iterable[Collective], chip: Chip) -> float | None:
    """The least time that a chip needs to send what collectives send, in seconds.

    Collectives are assumed to use all links at the vendor's rate. A permute sends to one neighbour,
    so it has one link; permutes on other routes run beside it.

    Returns:
      None if the chip's links are unknown.
    """
    if chip.link_bytes_per_s is None:
        return None
    routes: dict[str, float] = {}
    others = 0.0
    for each in found:
        if each.kind == "collective-permute":
            routes[each.route] = routes.get(each.route, 0) + each.step_bytes
        else:
            others += each.step_bytes
    busiest = chip.links * max(routes.values(), default=0)
    return (others + max(busiest, sum(routes.values()))) / chip.link_bytes_per_s


def _started(module: Module) -> Set[str]:
    """The channels of collectives that a TPU program splits into steps.

    It fuses each step with a product: a start, then any number in the same or an inner loop, and an
    end. All have the channel and the shape of the whole, so only the start counts.
    """
    return {
        one.channel
        for computation in module.computations.values()
        for each in computation.values()
        if each.opcode == "fusion" and each.name.startswith(_FUSED_START)
        for one in _called(module, each, "calls", frozenset())
        if one.channel
    }


_FUSED_START = "async-collective-start"


def _inside(module: Module, name: str, started: Set[str]) -> Iterator[Collective]:
    computation = module.computations[name]
    for each in computation.values():
        if own := _own(module, computation, each):
            yield own
        if each.opcode == "while":
            body = [
                *_called(module, each, "body", started),
                *_called(module, each, "condition", started),
            ]
            trips = trip_count(module, name, each) if body else 0
            yield from (one._replace(executions=trips * one.executions) for one in body)
        elif each.opcode == "conditional":
            names = re.findall(r"%([\w.\-]+)", " ".join(re.findall(
                r"(?:branch_computations=\{.*?\}|(?:true|false)_computation=%[\w.\-]+)",
                each.attributes)))  # fmt: skip
            if any(True for branch in names for _ in _inside(module, branch, started)):
                raise ValueError(
                    f"{each.name} is a conditional with collectives in a branch; which branch runs "
                    "is unknown, so they cannot be counted."
                )
        elif each.opcode == "fusion":
            is_start = each.name.startswith(_FUSED_START)
            for one in _called(module, each, "calls", started):
                if is_start or one.channel not in started:
                    yield one
        elif each.opcode not in ("async-update", "async-done"):  # they name async-start's again
            for role in ("calls", "to_apply"):
                yield from _called(module, each, role, started)


def _called(
    module: Module, each: Instruction, role: str, started: Set[str]
) -> Iterator[Collective]:
    name = each.called(role)
    if name is not None:
        yield from _inside(module, name, started)


def _own(module: Module, computation: Computation, each: Instruction) -> Collective | None:
    """The collective that an instruction is; None for other instructions."""
    start, kind = each, each.opcode
    if kind.endswith("-start"):
        base = kind.removesuffix("-start")
        # Its result holds operands too, so the bytes are taken from the `-done`.
        return _refuse(each) if base in _UNKNOWN else None
    if kind.endswith("-done") and kind.removesuffix("-done") in _SENT:
        kind, start = kind.removesuffix("-done"), computation[each.operands[0]]
    if kind in _UNKNOWN and "is_host_transfer=true" not in each.attributes:
        return _refuse(each)
    if kind not in _SENT:
        return None
    route, group = "", 2
    if kind == "collective-permute":
        route = re.findall(r"source_target_pairs=(\{.*?\}\})", start.attributes)[0]
    else:
        group = _group(module, start)
    if group == 1:
        return None
    operation = re.search(r'op_name="([^"]*)"', start.attributes)
    channel = re.search(r"channel_id=(\d+)", start.attributes)
    return Collective(
        kind=kind,
        executions=1,
        sent_bytes=_SENT[kind](group, num_bytes(each.type)),
        group=group,
        route=route,
        source=operation[1] if operation else "",
        channel=channel[1] if channel else "",
    )


def _refuse(each: Instruction) -> None:
    raise ValueError(
        f"{each.name} is a {each.opcode}, whose bytes are not known; add its formula to "
        "parrot_jax/train/collectives.py."
    )


def _group(module: Module, each: Instruction) -> int:
    """Devices in each group. There are three notations, and none means all devices."""
    text = each.attributes.partition("replica_groups=")[2]
    if lists := re.match(r"\{(\{[\d,{}]*\})\}", text):
        sizes = {len(group.split(",")) for group in re.findall(r"\{([\d,]+)\}", lists[1])}
        if len(sizes) == 1:
            return sizes.pop()
    elif text.startswith("{}"):
        return module.num_devices
    elif iota := re.match(r"\[\d+,(\d+)\]<=", text):
        return int(iota[1])
    elif mesh := re.match(r"mesh\[(.*?)\][^{]*\{(.*?)\}", text):
        sizes_by_axis = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        axes = [axis.strip(" '") for axis in mesh[2].split(",") if axis.strip()]
        if all(axis in sizes_by_axis for axis in axes):
            return math.prod(int(sizes_by_axis[axis]) for axis in axes)
    raise ValueError(
        f"the replica groups of {each.name} are {text[:80]!r}; known are lists of equal size, "
        "[groups,size]<=[...] and mesh[...] {axes}."
    )


def num_bytes(shape: str) -> int:
    """Bytes of a shape or a tuple of shapes, without padding.

    >>> num_bytes("(bf16[2,3]{1,0}, f32[])")
    16

    Raises:
      ValueError: A type of elements is unknown.
    """
    bits = 0
    for dtype, dims in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shape):
        width = re.fullmatch(r"[sufb]+(\d+)\w*", dtype)
        if dtype not in _BITS and width is None:
            raise ValueError(f"elements of {shape} have the unknown type {dtype}.")
        each = _BITS[dtype] if dtype in _BITS else int(width[1]) if width else 0
        bits += each * math.prod(int(dim) for dim in dims.split(",") if dim)
    return bits // 8
