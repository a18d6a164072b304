"""Train models that ask as people do, collect dialogues with them, train chat models on those.

The names below are all that a notebook needs; each is loaded when it is first used, so that
`import parrot_jax` loads no jax. docs/python.md shows them at work.
"""

import importlib
from typing import TYPE_CHECKING, Any

from parrot_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from parrot_jax.collect.collect_config import BeginningsConfig as BeginningsConfig
    from parrot_jax.collect.collect_config import CollectConfig as CollectConfig
    from parrot_jax.collect.collect_config import SpeakerConfig as SpeakerConfig
    from parrot_jax.collect.publish import export_dataset as export_dataset
    from parrot_jax.collect.run import collect as collect_dialogues  # noqa: F401
    from parrot_jax.collect.run import collect_async as collect_dialogues_async  # noqa: F401
    from parrot_jax.core.config import load_config as load_config
    from parrot_jax.data.data_config import DataConfig as DataConfig
    from parrot_jax.data.data_config import MaskConfig as MaskConfig
    from parrot_jax.data.prepare import prepare as prepare
    from parrot_jax.dialogue.read import read_dialogues as read_dialogues
    from parrot_jax.dialogue.sources import SourceConfig as SourceConfig
    from parrot_jax.dialogue.types import Dialogue as Dialogue
    from parrot_jax.dialogue.types import Turn as Turn
    from parrot_jax.loaded_run import Run as Run
    from parrot_jax.loaded_run import load_run as load_run
    from parrot_jax.model.model_config import ModelConfig as ModelConfig
    from parrot_jax.stats.run import compute_statistics as compute_statistics
    from parrot_jax.train.loop import train as train_model  # noqa: F401
    from parrot_jax.train.train_config import OptimConfig as OptimConfig
    from parrot_jax.train.train_config import TrainConfig as TrainConfig
    from parrot_jax.world.example import small_example as small_example

# `train` and `collect` are packages, so the functions need longer names here.
_PLACES = {
    "read_dialogues": "dialogue.read:read_dialogues",
    "Dialogue": "dialogue.types:Dialogue",
    "Turn": "dialogue.types:Turn",
    "load_config": "core.config:load_config",
    "SourceConfig": "dialogue.sources:SourceConfig",
    "DataConfig": "data.data_config:DataConfig",
    "MaskConfig": "data.data_config:MaskConfig",
    "prepare": "data.prepare:prepare",
    "ModelConfig": "model.model_config:ModelConfig",
    "OptimConfig": "train.train_config:OptimConfig",
    "TrainConfig": "train.train_config:TrainConfig",
    "train_model": "train.loop:train",
    "Run": "loaded_run:Run",
    "load_run": "loaded_run:load_run",
    "small_example": "world.example:small_example",
    "SpeakerConfig": "collect.collect_config:SpeakerConfig",
    "BeginningsConfig": "collect.collect_config:BeginningsConfig",
    "CollectConfig": "collect.collect_config:CollectConfig",
    "collect_dialogues": "collect.run:collect",
    "collect_dialogues_async": "collect.run:collect_async",
    "export_dataset": "collect.publish:export_dataset",
    "compute_statistics": "stats.run:compute_statistics",
}

__all__ = [*_PLACES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'parrot_jax' has no attribute {name!r}")
    module, _, of = _PLACES[name].partition(":")
    value = getattr(importlib.import_module(f"parrot_jax.{module}"), of)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_PLACES, "__version__"])
