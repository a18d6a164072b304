"""Creates the state of a run, describes it without allocating, saves and restores it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import console
from parrot_jax.model import decoder
from parrot_jax.model.lora import LORA, init_adapters
from parrot_jax.model.lora_config import LoraConfig
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import array_sharding
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.train.train_state import IsTrainable, TrainState, all_trainable, split
from parrot_jax.weights.adapters import abstract_adapters
from parrot_jax.weights.checkpoints import Checkpoints, DamagedCheckpointError
from parrot_jax.weights.frozen import abstract_frozen
from parrot_jax.weights.model_folder import abstract_params, load_params


def new_state(
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
    like: TrainState,
    frozen: Any = None,
) -> TrainState:
    """Random weights or those of `config.init_from`, with new moments, created sharded.

    Args:
      config: Seed, dtype and source of the weights.
      optimizer: Creates the moments.
      like: Shapes and shardings, from `abstract_state`.
      frozen: The frozen weights of a run with adapters that start from zero.

    Raises:
      UserError: `config.init_from` has no checkpoint, or that of another model.
    """
    if config.lora is None:
        trainable, frozen = _parted(initial_params(config, like), like)
    else:
        shardings = shardings_of(like.trainable[LORA])
        adapters = init_adapters(
            config.model, config.lora, config.seed, shardings, dtype=config.param_dtype
        )
        trainable = {LORA: adapters}
    init = jax.jit(optimizer.init, out_shardings=shardings_of(like.opt_state))
    step = jax.device_put(jnp.int32(0), like.step.sharding)
    return TrainState(trainable, init(trainable), step, frozen)


def initial_params(config: TrainConfig, like: TrainState) -> Any:
    """The weights with which a run starts, sharded like `like`.

    Raises:
      UserError: As in `new_state`.
    """
    if config.init_from is None:
        return decoder.init_params(
            config.model, config.seed, shardings_of(like.params), dtype=config.param_dtype
        )
    return load_params(config.init_from, like.params)


def _parted(params: Any, like: TrainState) -> tuple[Any, Any]:
    """Splits a model's weights into trainable and frozen, as in `like`."""

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
    lora: LoraConfig | None = None,
    is_trainable: IsTrainable = all_trainable,
) -> TrainState:
    """Shapes, dtypes and shardings of the whole state; allocates nothing.

    Moments are sharded like their weights, scalars replicated; `offload` keeps the moments in host
    memory. With `lora`, only its adapters are trained.

    Raises:
      UserError: The devices cannot use host memory, or as in `abstract_frozen`.
    """
    if lora is None:
        params, frozen = split(abstract_params(config, mesh, param_dtype), is_trainable)
    else:
        params = {LORA: abstract_adapters(config, lora, mesh, param_dtype)}
        frozen = abstract_frozen(config, lora, mesh)
    everywhere = array_sharding(mesh)
    memory = _host_memory(mesh) if offload else None
    # By default, jit would replicate the moments: 104 GB per device at 13B.
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
        # jax silently ignores the requested memory kind.
        raise UserError(
            "offload_optimizer cannot be planned for devices that you don't have; plan without "
            "it, and subtract the optimizer's memory."
        )
    if "pinned_host" not in kinds:
        raise UserError(
            f"offload_optimizer is on, but {device.device_kind} has no pinned host memory, only "
            f"{', '.join(kinds)}; turn it off."
        )
    return "pinned_host"


def shardings_of(tree: Any) -> Any:
    """The sharding of each leaf."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def save_state(checkpoints: Checkpoints, step: int, state: TrainState) -> None:
    """Starts to save the trainable state; weights and the rest can be read separately.

    Raises:
      DiskFullError: The disk is full.
    """
    checkpoints.save(step, state.trainable, {"state": state.opt_state, "step": state.step})


def restore_state(checkpoints: Checkpoints, step: int, like: TrainState) -> TrainState:
    """Restores from `save_state`, sharded like `like`; the frozen part is that of `like`.

    Raises:
      UserError: The checkpoint has other shapes.
    """
    optimizer = {"state": like.opt_state, "step": like.step}
    restored = checkpoints.restore(step, {"params": like.trainable, "optimizer": optimizer})
    optimizer = restored["optimizer"]
    return TrainState(restored["params"], optimizer["state"], optimizer["step"], like.frozen)


def restore_newest(checkpoints: Checkpoints, like: TrainState) -> tuple[int, TrainState] | None:
    """The newest undamaged checkpoint with its step, or None.

    Prints the name of a damaged one, which stays until the next save.

    Raises:
      UserError: All are damaged, or the newest has other shapes.
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
