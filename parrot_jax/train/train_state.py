"""The weights of a run in two parts: trainable and frozen.

Only the trainable part has gradients and moments and is saved in checkpoints.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

IsTrainable = Callable[[tuple[str, ...]], bool]
"""Whether the weight at a path of names, e.g. `("layers", "mlp", "up")`, is trained."""


class TrainState(NamedTuple):
    """Everything that a step changes, and the frozen weights."""

    trainable: Any
    """The trainable weights, as nested dicts."""
    opt_state: Any
    step: Any
    """Number of updates so far."""
    frozen: Any = {}  # noqa: RUF012  # never changed
    """The other weights, disjoint from `params`; empty if all are trained."""

    @property
    def params(self) -> Any:
        """All weights of the model."""
        return merge(self.trainable, self.frozen)


def all_trainable(path: tuple[str, ...]) -> bool:
    """Every weight is trained."""
    return True


def split(params: Mapping[str, Any], is_trainable: IsTrainable) -> tuple[Any, Any]:
    """Splits a tree into a trainable and a frozen part, without empty branches.

    >>> split({"a": {"x": 1, "y": 2}, "b": 3}, lambda path: path[-1] == "y")
    ({'a': {'y': 2}}, {'a': {'x': 1}, 'b': 3})
    """

    def part(tree: Mapping[str, Any], path: tuple[str, ...], wanted: bool) -> dict[str, Any]:
        found = {}
        for name, value in tree.items():
            here = (*path, name)
            if isinstance(value, Mapping):
                if inner := part(value, here, wanted):
                    found[name] = inner
            elif is_trainable(here) == wanted:
                found[name] = value
        return found

    return part(params, (), True), part(params, (), False)


def merge(one: Any, other: Any) -> Any:
    """Merges the two parts of a tree.

    >>> merge({"a": {"y": 2}}, {"a": {"x": 1}, "b": 3})
    {'a': {'y': 2, 'x': 1}, 'b': 3}
    """
    if not other:
        return one
    both = dict(one)
    for name, value in other.items():
        both[name] = merge(both[name], value) if name in both else value
    return both
