"""Reads the text of a compiled program: its instructions, and how often each loop runs.

Only what `collectives.py` needs. The text is that of `jax.stages.Compiled.as_text()`.
"""

import re
from collections.abc import Callable
from typing import NamedTuple


class Instruction(NamedTuple):
    """`%name = type opcode(operands), attributes`."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    """Names of instructions; of a constant or a parameter, what is in the brackets."""
    attributes: str
    is_root: bool

    def called(self, role: str) -> str | None:
        """The computation in `role=%name`, e.g. of `body`; None without this role."""
        found = re.search(rf"(?:^|[ ,]){role}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None


class Computation(dict[str, Instruction]):
    """Instructions by name, in order."""

    @property
    def root(self) -> Instruction:
        """The result."""
        return next(each for each in self.values() if each.is_root)


class Module(NamedTuple):
    """A compiled program."""

    computations: dict[str, Computation]
    entry: str
    num_devices: int


_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_OPENING, _CLOSING = "([{", ")]}"


def parse_module(text: str) -> Module:
    """Splits the text of a module into computations and instructions.

    Raises:
      ValueError: There is no entry computation, so the text is not that of a module.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", Computation()
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if head := _HEAD.match(line):
            current = computations[head[2]] = Computation()
            entry = head[2] if head[1] else entry
        elif found := _LINE.match(line):
            kind, rest = _split(line[found.end() :], " ")
            opcode, _, rest = rest.partition("(")
            inside, attributes = _split(rest, ")")
            current[found[2]] = Instruction(
                found[2], kind, opcode, _names(inside), attributes, bool(found[1])
            )
    if not entry:
        raise ValueError("no ENTRY computation; give the text of compiled.as_text().")
    sizes = re.findall(r"(?:num_partitions|replica_count)=(\d+)", text.partition("\n")[0])
    return Module(computations, entry, max([1, *map(int, sizes)]))


def _split(text: str, end: str) -> tuple[str, str]:
    """Cuts at the first `end` that is outside of all brackets."""
    depth = 0
    for index, char in enumerate(text):
        if not depth and char == end:
            return text[:index], text[index + 1 :]
        depth += (char in _OPENING) - (char in _CLOSING)
    return text, ""


def _names(operands: str) -> tuple[str, ...]:
    names = []
    while operands:
        first, operands = _split(operands, ",")
        names.append(first.split()[-1].lstrip("%") if first.split() else "")
    return tuple(names)


def trip_count(module: Module, inside: str, loop: Instruction) -> int:
    """How often a loop runs: as the compiler says, or by running its counter.

    GPU programs state most counts. TPU programs state none, so the few integers that the loop's
    condition depends on are computed, iteration by iteration.

    Args:
      module: The program.
      inside: The computation that holds the loop.
      loop: The `while`.

    Raises:
      ValueError: The condition depends on data, or on an operation that is not understood.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    condition, body = (
        module.computations[loop.called(role) or ""] for role in ("condition", "body")
    )
    before = module.computations[inside]
    values: dict[int, int] = {}
    try:
        # Only the elements that the condition reads are followed; `first` finds them.
        def first(index: int) -> int:
            values[index] = _value(module, before, _element(before, loop.operands[0], index), None)
            return values[index]

        count = 0
        running = _value(module, condition, condition.root.name, first)
        while running:
            count += 1
            if count > _MOST_TRIPS:
                raise ValueError(f"it runs more than {_MOST_TRIPS} times")
            values = {
                index: _value(
                    module, body, _element(body, body.root.name, index), values.__getitem__
                )
                for index in values
            }
            running = _value(module, condition, condition.root.name, values.__getitem__)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"the trip count of loop {loop.name} is unknown: {error}. Its collectives cannot be "
            "counted; extend parrot_jax/train/hlo_text.py."
        ) from error
    return count


_MOST_TRIPS = 1_000_000
_Parameter = Callable[[int], int]


def _element(computation: Computation, name: str, index: int) -> str:
    """The instruction that makes an element of a tuple."""
    made = computation[name]
    while made.opcode in ("copy", "bitcast", "optimization-barrier"):
        made = computation[made.operands[0]]
    if made.opcode != "tuple":
        raise ValueError(f"{made.name} is a {made.opcode}, not a tuple")
    return made.operands[index]


def _value(module: Module, inside: Computation, name: str, parameter: _Parameter | None) -> int:
    """The value of an integer; `parameter` gives the elements of the parameter, if it is known."""
    found = inside[name]
    if found.opcode == "constant":
        return {"true": 1, "false": 0}.get(found.operands[0]) or int(found.operands[0])
    if found.opcode == "parameter" and parameter is not None:
        return parameter(int(found.operands[0]))
    if found.opcode == "get-tuple-element":
        index, source = int(re.findall(r"index=(\d+)", found.attributes)[0]), found.operands[0]
        if inside[source].opcode == "parameter" and parameter is not None:
            return parameter(index)
        return _value(module, inside, _element(inside, source, index), parameter)
    if found.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start", "reshape"):
        return _value(module, inside, found.operands[0], parameter)
    if found.opcode in ("fusion", "call"):
        called = module.computations[found.called("calls") or found.called("to_apply") or ""]
        return _value(
            module, called, called.root.name,
            lambda index: _value(module, inside, found.operands[index], parameter),
        )  # fmt: skip
    key = found.opcode
    if key == "compare":
        key = re.findall(r"direction=(\w+)", found.attributes)[0]
    if key not in _OPERATIONS:
        raise ValueError(f"{found.name} is a {found.opcode}, which is not understood")
    return _OPERATIONS[key](*(_value(module, inside, each, parameter) for each in found.operands))


_OPERATIONS: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
}
