"""The frozen weights of a run with adapters: loaded at each start with the same bits.

Usually they are the checkpoint of `init_from`. If that is itself a run with adapters, they are
merged once, into the folder `base` of the new run: another device might merge them to other bits.
"""

from typing import Any

import jax

from parrot_jax.core.logs import console
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.train.train_state import TrainState
from parrot_jax.weights.adapters import OWN_BASE, Adapter, Base, described, recorded
from parrot_jax.weights.checkpoints import Checkpoints, DamagedCheckpointError
from parrot_jax.weights.fingerprints import weights_hash
from parrot_jax.weights.model_folder import ModelFolder, load_params, made_of


def load_base(
    config: TrainConfig, folder: RunFolder, like: TrainState, checkpoints: Checkpoints
) -> Any:
    """Loads the frozen weights, and tells `checkpoints` to record which they are.

    Args:
      config: The run.
      folder: Its folder; with a checkpoint, the run is resumed and its base must be the same.
      like: Shapes and shardings, from `abstract_state`.
      checkpoints: Those of the run.

    Returns:
      The weights; an empty dict if the run trains all weights.

    Raises:
      UserError: The base has moved or changed since the run started.
    """
    if config.lora is None:
        return {}
    known = _recorded(folder)
    if known is None:
        frozen, base = _new_base(config, folder, like.frozen)
    else:
        of_base, step = folder.open_base(known)
        frozen, base = of_base.restore(step, {"params": like.frozen})["params"], known.base
        if known.lora.base_dtype != config.lora.base_dtype:  # an allowed change
            base = base._replace(weights=weights_hash(frozen))
    checkpoints.also_made_of(described(Adapter(config.lora, base)))
    return frozen


def _recorded(folder: RunFolder) -> Adapter | None:
    """What the newest undamaged checkpoint of a run records; None = there is none."""
    # Not the run's own object: that shall report damaged checkpoints when it restores.
    checkpoints = Checkpoints(folder.checkpoints, read_only=True)
    while (step := checkpoints.latest_step()) is not None:
        try:
            return recorded(checkpoints, step)
        except DamagedCheckpointError:
            continue
    return None


def _new_base(config: TrainConfig, folder: RunFolder, like: Any) -> tuple[Any, Base]:
    assert config.init_from is not None
    source = ModelFolder(config.init_from)
    checkpoints, step = source.open_checkpoint()
    merged_from = checkpoints.identity(step)
    is_merged = recorded(checkpoints, step) is not None
    if is_merged:
        frozen = load_params(source, like, step=step)
        source = ModelFolder(folder.path / OWN_BASE)
        of_run = made_of(config.model, ModelFolder(config.init_from).tokenizer_fingerprint())
        checkpoints = Checkpoints(
            source.checkpoints, keep=1, made_of=of_run | {"merged_from": merged_from}
        )
        newest = checkpoints.latest_step()
        if newest is not None and checkpoints.made_of(newest).get("merged_from") == merged_from:
            step = newest  # of a start that was killed
            del frozen
            frozen = checkpoints.restore(step, {"params": like})["params"]
        else:
            step = 0 if newest is None else newest + 1
            console.print(f"merging the adapters of {config.init_from} into {source.path}")
            checkpoints.save(step, frozen)
            checkpoints.wait()
    else:
        frozen = checkpoints.restore(step, {"params": like})["params"]
    base = Base(str(source.path.absolute()), step, checkpoints.identity(step), weights_hash(frozen))
    jax.block_until_ready(frozen)
    return frozen, base
