"""The frozen weights of a run with adapters: loaded at each start with the same bits.

Usually they are the checkpoint of `init_from`. If that is itself a run with adapters, they are
merged once, into the folder `base` of the new run: another device might merge them to other bits.
"""

from typing import Any

from parrot_jax.core.logs import console
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.train.train_state import TrainState
from parrot_jax.weights.adapters import OWN_BASE, Adapter, Base, described, recorded
from parrot_jax.weights.checkpoints import Checkpoints, DamagedCheckpointError
from parrot_jax.weights.fingerprints import HashInParts
from parrot_jax.weights.frozen import as_read, restore_frozen
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
        # `base_dtype` may have been changed on purpose.
        is_same = known.lora.read_dtype == config.lora.read_dtype
        hashed = None if is_same else HashInParts()
        frozen = restore_frozen((of_base, step), config.model, config.lora, like.frozen, hashed)
        base = known.base if hashed is None else known.base._replace(weights=hashed.result())
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
    assert config.lora is not None  # checked by the caller
    source = ModelFolder(config.init_from)
    checkpoints, step = source.open_checkpoint()
    if recorded(checkpoints, step) is not None:
        source, checkpoints, step = _merged_once(config, folder, checkpoints, step, like)
    hashed = HashInParts()
    frozen = restore_frozen((checkpoints, step), config.model, config.lora, like, hashed)
    base = Base(str(source.path.absolute()), step, checkpoints.identity(step), hashed.result())
    return frozen, base


def _merged_once(
    config: TrainConfig, folder: RunFolder, checkpoints: Checkpoints, step: int, like: Any
) -> tuple[ModelFolder, Checkpoints, int]:
    """The folder `base`, with the weights of `init_from` and its adapters merged."""
    assert config.init_from is not None
    assert config.lora is not None
    source, merged_from = ModelFolder(config.init_from), checkpoints.identity(step)
    own = ModelFolder(folder.path / OWN_BASE)
    merging = {"merged_from": merged_from, "merged_dtype": config.lora.read_dtype}
    of_run = made_of(config.model, source.tokenizer_fingerprint()) | merging
    kept = Checkpoints(own.checkpoints, keep=1, made_of=of_run)
    newest = kept.latest_step()
    if newest is not None and merging.items() <= kept.made_of(newest).items():
        return own, kept, newest  # of a start that was killed
    console.print(f"merging the adapters of {config.init_from} into {own.path}")
    merged = load_params(source, as_read(config.lora, like), step=step)
    step = 0 if newest is None else newest + 1
    kept.save(step, merged)
    kept.wait()
    return own, kept, step
