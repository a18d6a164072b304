"""vLLM continues prompts as we do, for an export of each kind of model."""

import json
import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from parrot_jax.model.generate import generate
from parrot_jax.model.hf_config import from_hf
from parrot_jax.weights.model_folder import ModelFolder, load_params
from parrot_jax.weights.names import tensors

from ..published_configs import FAMILIES, small
from .servers import ENVIRONMENT, parrot
from .test_vllm import VLLM_PYTHON

pytestmark = pytest.mark.vllm

MAX_TOKENS = 24
# The longest leaves the window of 12 tokens before its first new one.
PROMPT_LENGTHS = (3, 11, 40)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_are_ours(name: str, tmp_path: Path) -> None:
    write_random(tmp_path / "hf", name)
    parrot("convert", "hf-to-flax", tmp_path / "hf", tmp_path / "flax")
    parrot("convert", "flax-to-hf", tmp_path / "flax", tmp_path / "export")
    folder = ModelFolder(tmp_path / "flax")
    random = np.random.default_rng(1)
    prompts = [random.integers(0, 300, length).tolist() for length in PROMPT_LENGTHS]
    ours = generate(
        folder.load_model(), load_params(folder), prompts, max_new_tokens=MAX_TOKENS,
        compute_dtype=jnp.float32,
    )  # fmt: skip
    assert continued_by_vllm(tmp_path / "export", prompts) == [list(row.ids) for row in ours]
    # The comparison is meaningful only if the tokens differ.
    assert len({token for row in ours for token in row.ids}) > MAX_TOKENS


def write_random(folder: Path, name: str) -> None:
    """Writes a model with random weights under the published names of keys and tensors."""
    values = small(name)
    random = np.random.default_rng(0)
    arrays = {}
    for tensor in tensors(from_hf(values)):
        noise = random.standard_normal(tensor.their_shape).astype(np.float32)
        norm = tensor.theirs.endswith("norm.weight")
        arrays[tensor.theirs] = 1 + 0.2 * noise if norm else 0.1 * noise
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})


def continued_by_vllm(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    if not VLLM_PYTHON.exists():
        pytest.fail(f"{VLLM_PYTHON} is absent; `make test-vllm` installs it and runs these tests.")
    asked, answered = (folder.parent / name for name in ("prompts.json", "new.json"))
    asked.write_text(json.dumps(prompts))
    script = Path(__file__).with_name("greedy.py")
    command = [VLLM_PYTHON, script, folder, asked, MAX_TOKENS, answered]
    process = subprocess.run(
        [*map(str, command)],
        # In one process: it starts faster, and leaves nothing behind.
        env=ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-5000:]
    return json.loads(answered.read_text())
