"""Fixtures: small LLaMA folders in Hugging Face's format, and a fake hub."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from safetensors.numpy import save_file

from parrot_jax.model.hf_config import to_hf
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.serve.background import BackgroundServer
from parrot_jax.weights.hf_folder import DTYPES
from parrot_jax.weights.names import tensors

from .hub_server import TOKEN, Hub

Arrays = dict[str, np.ndarray]
RandomTensors = Callable[..., Arrays]
WriteHf = Callable[..., Path]

_SMALL = ModelConfig(
    vocab_size=340,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)


def _random_tensors(config: ModelConfig, dtype: str = "bfloat16") -> Arrays:
    random = np.random.default_rng(0)
    return {
        tensor.theirs: (random.standard_normal(tensor.their_shape) * 0.1).astype(DTYPES[dtype])
        for tensor in tensors(config)
    }


def _write_hf(
    folder: Path,
    config: ModelConfig = _SMALL,
    *,
    arrays: Mapping[str, np.ndarray] | None = None,
    num_files: int = 1,
    **changes: Any,
) -> Path:
    """Writes a folder; `changes` go into its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = dict(_random_tensors(config) if arrays is None else arrays)
    (folder / "config.json").write_text(json.dumps(to_hf(config) | changes))
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
def small() -> ModelConfig:
    """The default config of written folders."""
    return _SMALL


@pytest.fixture(scope="session")
def random_tensors() -> RandomTensors:
    """A function that creates all tensors of a config, by Hugging Face's names."""
    return _random_tensors


@pytest.fixture(scope="session")
def write_hf() -> WriteHf:
    """A function that writes a Hugging Face folder."""
    return _write_hf


@pytest.fixture
def hf_folder(tmp_path: Path) -> Path:
    """A folder of random weights in two files."""
    return _write_hf(tmp_path / "hf", num_files=2)


@pytest.fixture(scope="session")
def running() -> Iterator[tuple[Hub, str]]:
    """One hub for all tests, and its address."""
    hub = Hub()
    with BackgroundServer(hub.app) as server:
        yield hub, server.url.removesuffix("/v1")
        _http.close_session()


@pytest.fixture
def hub(running: tuple[Hub, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub; the client is configured to use only it, with a separate cache and token."""
    hub, url = running
    hub.reset()
    settings = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.delenv("HF_OIDC_RESOURCE", raising=False)
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
    _http.close_session()
    yield hub
    _http.close_session()
