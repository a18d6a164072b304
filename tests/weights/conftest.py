"""Small LLaMA folders as Hugging Face keeps them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from parrot_jax.model.config import LlamaConfig
from parrot_jax.weights.hf_folder import DTYPES
from parrot_jax.weights.names import tensors

Arrays = dict[str, np.ndarray]
RandomTensors = Callable[..., Arrays]
WriteHf = Callable[..., Path]

_SMALL = LlamaConfig(
    vocab_size=340,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)


def _random_tensors(config: LlamaConfig, dtype: str = "bfloat16") -> Arrays:
    random = np.random.default_rng(0)
    return {
        tensor.theirs: (random.standard_normal(tensor.their_shape) * 0.1).astype(DTYPES[dtype])
        for tensor in tensors(config)
    }


def _write_hf(
    folder: Path,
    config: LlamaConfig = _SMALL,
    *,
    arrays: Mapping[str, np.ndarray] | None = None,
    num_files: int = 1,
    **changes: Any,
) -> Path:
    """Writes a folder; `changes` go into its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = dict(_random_tensors(config) if arrays is None else arrays)
    (folder / "config.json").write_text(json.dumps(config.to_hf() | changes))
    if num_files == 1:
        save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    places = {}
    for number in range(num_files):
        name = f"model-{number + 1:05d}-of-{num_files:05d}.safetensors"
        names = list(arrays)[number::num_files]
        save_file({key: arrays[key] for key in names}, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(names, name)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def small() -> LlamaConfig:
    """The sizes of the folders that are written when nothing else is said."""
    return _SMALL


@pytest.fixture(scope="session")
def random_tensors() -> RandomTensors:
    """The function that makes all tensors of some sizes, by Hugging Face's names."""
    return _random_tensors


@pytest.fixture(scope="session")
def write_hf() -> WriteHf:
    """The function that writes a folder."""
    return _write_hf


@pytest.fixture
def hf_folder(tmp_path: Path) -> Path:
    """A random folder in two files."""
    return _write_hf(tmp_path / "hf", num_files=2)
