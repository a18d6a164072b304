"""The state of a run as a whole: made new, described without memory, saved, restored."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import console
from parrot_jax.model import decoder
from parrot_jax.model.config import ModelConfig
from parrot_jax.sharding import array_sharding
from parrot_jax.train.config import TrainConfig
from parrot_jax.train.train_state import IsTrainable, TrainState, all_trainable, split
from parrot_jax.weights.checkpoints import Checkpoints, DamagedCheckpointError
from parrot_jax.weights.model_folder import abstract_params, load_params


def new_state(
    config: TrainConfig, optimizer: optax.GradientTransformation, like: TrainState
) -> TrainState:
    """Random weights, or those of `config.init_from`, with fresh moments, made where they live.

    Args:
      config: Seed, type of the weights and where they come from.
      optimizer: Makes the moments.
      like: Shapes and placements, from `abstract_state`.

    Raises:
      UserError: `config.init_from` has no checkpoint, or one of another model.
    """
    if config.init_from is None:
        params = decoder.init_params(
            config.model, config.seed, shardings_of(like.params), dtype=config.param_dtype
        )
    else:
        params = load_params(config.init_from, like.params)
    trainable, frozen = _parted(params, like)
    init = jax.jit(optimizer.init, out_shardings=shardings_of(like.opt_state))
    step = jax.device_put(jnp.int32(0), like.step.sharding)
    return TrainState(trainable, init(trainable), step, frozen)


def _parted(params: Any, like: TrainState) -> tuple[Any, Any]:
    """The two parts of a model's weights, as those of `like` are."""

    def is_trainable(path: tuple[str, ...]) -> bool:
        place = like.trainable
        for name in path:
            if name not in place:
                return False
            place = place[name]
        return True

    return split(params, is_trainable)


def abstract_state(
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    param_dtype: DTypeLike = "float32",
    *,
    offload: bool = False,
    is_trainable: IsTrainable = all_trainable,
) -> TrainState:
    """Shapes, types and placements of the whole state; allocates nothing.

    Moments live beside their weights, scalars everywhere; `offload` keeps the moments in the memory
    of the hosts.

    Raises:
      UserError: The devices cannot use the memory of their host.
    """
    params, frozen = split(abstract_params(config, mesh, param_dtype), is_trainable)
    everywhere = array_sharding(mesh)
    memory = _host_memory(mesh) if offload else None
    # Left to itself, jit would replicate the moments: 104 GB a device at 13B.
    opt_state = optax.tree_map_params(
        optimizer,
        lambda moment, param: jax.ShapeDtypeStruct(
            moment.shape, moment.dtype, sharding=param.sharding.with_memory_kind(memory)
        ),
        jax.eval_shape(optimizer.init, params),
        params,
        transform_non_params=lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=everywhere
        ),
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    return TrainState(params, opt_state, step, frozen)


def _host_memory(mesh: Mesh) -> str:
    device = mesh.devices.flat[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    if not kinds:
        # jax forgets the memory that is asked for, without a word.
        raise UserError(
            "offload_optimizer cannot be planned for devices that are not here; plan without it: "
            "the optimizer's memory is then what a device is spared."
        )
    if "pinned_host" not in kinds:
        raise UserError(
            f"offload_optimizer is on, but {device.device_kind} has no pinned host memory, only "
            f"{', '.join(kinds)}; turn it off."
        )
    return "pinned_host"


def shardings_of(tree: Any) -> Any:
    """The placement of each leaf."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def frozen_weights(config: TrainConfig, like: TrainState) -> Any:
    """The part that is not trained, from where the run began: checkpoints do not have it."""
    if not like.frozen:
        return {}
    assert config.init_from is not None
    return _parted(load_params(config.init_from, like.params), like)[1]


def save_state(checkpoints: Checkpoints, step: int, state: TrainState) -> None:
    """Starts to save what is trained; weights and the rest are apart, to be read alone.

    Raises:
      DiskFullError: There is no room.
    """
    checkpoints.save(step, state.trainable, {"state": state.opt_state, "step": state.step})


def restore_state(checkpoints: Checkpoints, step: int, like: TrainState) -> TrainState:
    """Reads back what `save_state` wrote, placed like `like`; the frozen part stays that of `like`.

    Raises:
      UserError: The checkpoint is of another shape.
    """
    optimizer = {"state": like.opt_state, "step": like.step}
    restored = checkpoints.restore(step, {"params": like.trainable, "optimizer": optimizer})
    optimizer = restored["optimizer"]
    return TrainState(restored["params"], optimizer["state"], optimizer["step"], like.frozen)


def restore_newest(checkpoints: Checkpoints, like: TrainState) -> tuple[int, TrainState] | None:
    """The newest checkpoint that is not damaged, with its step; None = there is none.

    A damaged one is named and left where it is until the next one is saved.

    Raises:
      UserError: All are damaged, or the newest is of another shape.
    """
    problem: DamagedCheckpointError | None = None
    while (step := checkpoints.latest_step()) is not None:
        try:
            state = restore_state(checkpoints, step, like)
        except DamagedCheckpointError as error:
            problem = error
            console.print(str(error))
        else:
            return step, state
    if problem is not None:
        raise problem
    return None
