"""The program of a run: everything that depends on config and mesh only, not on data or weights.

The loop runs it, `parrot plan` compiles it for other hardware, `--preflight` tests it.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from numpy.typing import NDArray

from parrot_jax.core.errors import UserError
from parrot_jax.data.packing import most_pairs, row_dtype
from parrot_jax.losses.token_loss import default_tile
from parrot_jax.model.attention import choose, resolve
from parrot_jax.sharding import array_sharding, num_batch_shards
from parrot_jax.train.forward import Batch, Forward
from parrot_jax.train.objectives import Objective
from parrot_jax.train.optim import adamw, without_schedule
from parrot_jax.train.preference import REFERENCE
from parrot_jax.train.state import abstract_state, shardings_of
from parrot_jax.train.step import compile_step
from parrot_jax.train.train_config import OptimConfig, TrainConfig
from parrot_jax.train.train_state import TrainState

KEPT_PROGRAMS = 8
"""Compiled functions of each kind that a process keeps for later runs."""

ReadRows = Callable[[Sequence[int]], dict[str, NDArray[Any]]]
"""Reads the rows at the given indices of a batch, as arrays [len, T]."""


class Program(NamedTuple):
    """How a run trains on one mesh."""

    mesh: Mesh
    forward: Forward
    optimizer: optax.GradientTransformationExtraArgs
    state: TrainState
    """Shapes, dtypes and shardings of the state."""
    batch: dict[str, jax.ShapeDtypeStruct]
    """Sharding of the rows of a step, [micro-batches, rows, T]."""
    step: Any
    """The jitted function (state, batch, learning rate) -> (state, metrics); it donates the old
    state."""

    @property
    def rows_sharding(self) -> NamedSharding:
        """The sharding of rows [rows, T]."""
        return array_sharding(self.mesh, "batch", "seq")

    @property
    def micro_shape(self) -> tuple[int, int]:
        """Micro-batches in a step, and the rows of each."""
        steps, rows, _ = self.batch["tokens"].shape
        return steps, rows


def make_program(config: TrainConfig, mesh: Mesh, *, objective: Objective) -> Program:
    """Builds the program of a run; compiles nothing yet.

    Args:
      config: The run.
      mesh: Local devices, or those of `topologies`.
      objective: The training loss.

    Raises:
      UserError: Rows or parameters do not divide evenly over the mesh, or the attention backend
        does not run there or does not support the config.
    """
    compute_dtype = jnp.dtype(config.compute_dtype)
    platform = mesh.devices.flat[0].platform
    # The two sides of a pair share a row also without packing.
    packed = config.data.packing or config.trains_pairs
    windowed = config.model.window_within(config.data.row_tokens) is not None
    backend = choose(config.attention, platform, segments=packed, window=windowed)
    forward = Forward(
        model=config.model,
        compute_dtype=compute_dtype,
        attention=resolve(backend, config.data.row_tokens, config.model.head_width, compute_dtype),
        remat=config.remat,
        loss_tile=config.loss_tile or default_tile(platform),
        packed=packed,
        unroll_layers=config.unroll_layers,
        mesh=mesh,
        lora=config.lora,
    )
    optimizer, state, step = _compile(
        forward,
        without_schedule(config.optim),
        param_dtype=config.param_dtype,
        offload=config.offload_optimizer,
        objective=objective,
        accumulator_dtype=config.accumulator_dtype,
        seed=config.seed,
    )
    steps = config.accumulation_steps(num_batch_shards(mesh))
    sharding = array_sharding(mesh, None, "batch", "seq")
    rows = (steps, config.batch_rows // steps)
    batch = {
        name: jax.ShapeDtypeStruct((*rows, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in _row_fields(config).items()
    }
    return Program(mesh, forward, optimizer, state, batch, step)


def _row_fields(config: TrainConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of each field of a row."""
    pairs = most_pairs(config.data.row_tokens) if config.trains_pairs else 0
    row = row_dtype(config.data.row_tokens, pairs)
    fields = {name: (row[name].shape, row[name].base) for name in row.names or ()}
    if pairs:
        fields[REFERENCE] = ((2 * pairs,), np.dtype(np.float32))
    return fields


@functools.lru_cache(maxsize=KEPT_PROGRAMS)
def _compile(
    forward: Forward,
    optim: OptimConfig,
    *,
    param_dtype: str,
    offload: bool,
    objective: Objective,
    accumulator_dtype: str,
    seed: int,
) -> tuple[optax.GradientTransformationExtraArgs, TrainState, Any]:
    """The optimizer, the abstract state, and the jitted step.

    They depend on the arguments only. So a second run of the same program in a process gets the
    same functions, which jax does not trace or compile again.
    """
    optimizer = adamw(optim)
    mesh = forward.mesh
    assert mesh is not None
    state = abstract_state(
        forward.model, optimizer, mesh, param_dtype, offload=offload, lora=forward.lora
    )
    step = compile_step(
        shardings_of(state),
        array_sharding(mesh, None, "batch", "seq"),
        forward=forward,
        optimizer=optimizer,
        clip_norm=optim.clip_norm,
        objective=objective,
        accumulator_dtype=accumulator_dtype,
        seed=seed,
    )
    return optimizer, state, step


@contextlib.contextmanager
def too_large_is_a_user_error() -> Iterator[None]:
    """Turns an out-of-memory error of the devices into one line that says what to change.

    Raises:
      UserError: The devices have not enough memory for the block.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"a step does not fit into device memory: {str(error).splitlines()[0]}. "
            "Find micro_rows and remat that fit with `parrot plan CONFIG --topology T --search`; "
            "docs/training.md lists what else to change."
        ) from error


def put_rows(read: ReadRows, shape: tuple[int, ...], sharding: NamedSharding) -> Batch:
    """Places rows on the devices; each process reads only the rows of its own devices.

    Args:
      read: Reads rows by their indices in the batch.
      shape: Of the tokens: [rows, T] or [micro-batches, rows, T], indices in row-major order.
      sharding: Of every field.

    Returns:
      The batch as global arrays; fields of another length than T have that as their last dimension.
    """
    places = np.arange(np.prod(shape[:-1])).reshape(shape[:-1])
    parts: dict[tuple[int, ...], dict[str, NDArray[Any]]] = {}

    def part(index: tuple[slice, ...]) -> dict[str, NDArray[Any]]:
        mine = places[index[:-1]]
        key = tuple(mine.flatten().tolist())
        if key not in parts:  # devices along the tensor axis hold the same rows
            parts[key] = {
                name: array.reshape(*mine.shape, *array.shape[1:])
                for name, array in read(key).items()
            }
        return parts[key]

    indices: Any = sharding.addressable_devices_indices_map(shape)
    fields = part(next(iter(indices.values())))
    # jax's types allow None as the index.
    make: Any = jax.make_array_from_callback
    return {
        name: make(
            (*shape[:-1], field.shape[-1]), sharding, lambda index, name=name: part(index)[name]
        )
        for name, field in fields.items()
    }
