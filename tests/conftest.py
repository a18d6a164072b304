"""Settings and fixtures of all tests: eight CPU devices, strict broadcasting, real data."""

import gc
import json
import os
import re
import signal
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from beartype import BeartypeConf
from beartype.claw import beartype_package
from jaxtyping import install_import_hook

_PACKAGE = Path(__file__).resolve().parents[1] / "parrot_jax"


def _needs_jaxtyping(file: Path) -> bool:
    """Whether a file annotates shapes, or imports types under TYPE_CHECKING."""
    return (
        re.search("^(from jaxtyping import|if TYPE_CHECKING)", file.read_text(), re.M) is not None
    )


# Types are checked at every call; shapes only in files that annotate any. jaxtyping binds the
# arguments of each call, which would take half of the tests' time if applied to all files.
beartype_package("parrot_jax", conf=BeartypeConf(claw_is_pep526=False, is_pep484_tower=True))
install_import_hook(
    [
        ".".join(file.relative_to(_PACKAGE.parent).with_suffix("").parts)
        for file in sorted(_PACKAGE.rglob("*.py"))
        if _needs_jaxtyping(file)
    ],
    "beartype.beartype",
)

from parrot_jax.core.xla_flags import guess_platform, known_xla_flags

# Tests run small programs once, so compiling with optimisations would take longer than it saves.
_XLA_FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    # Halves compile time on two cores. Newer versions of XLA have only the emitters.
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
]
_given = os.environ.get("XLA_FLAGS", "")
# xdist workers inherit the flags. A GPU's kernels are tested as they are compiled for use.
if _XLA_FLAGS[0] not in _given and guess_platform() == "cpu":
    os.environ["XLA_FLAGS"] = " ".join([_given, *known_xla_flags(_XLA_FLAGS)]).strip()

import jax
import pytest
import yaml
from filelock import FileLock
from hypothesis import HealthCheck, settings
from jax.experimental.compilation_cache import compilation_cache

WriteDialogues = Callable[..., Path]

# A shell starts background processes with SIGINT ignored, and their children inherit that.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# No deadlines, since timings on a shared machine vary; derandomised, so every run tries the same
# examples.
settings.register_profile(
    "parrot", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("parrot")


def pytest_collection_finish() -> None:
    """Exempts imported objects from garbage collection, which would scan them again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real dialogues, weights and judgments, beside the checkout."""
    if not _SHARED_DATA.is_dir():
        reason = f"the folder of real data is absent: ../shared/data beside {Path.cwd().name}"
        if os.environ.get("CI"):
            pytest.fail(reason + "; with CI set that is an error")
        pytest.skip(reason)
    return _SHARED_DATA


@pytest.fixture(scope="session")
def llama_tokenizer_model(shared_data: Path) -> Path:
    """The real LLaMA-2 SentencePiece model, 32,000 pieces."""
    return shared_data / "llama_tokenizer" / "tokenizer.model"


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA-style tokenizer.model of 340 pieces, trained on a few words."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("tiny_tokenizer")
    words = "question answer word what about the river of Velora and its hills be brief hello bye"
    (folder / "corpus.txt").write_text(f"{words}\nUSER: {words}\nASSISTANT: {words}\n" * 20)
    sentencepiece.SentencePieceTrainer.Train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=340,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    return folder / "tokenizer.model"


def _write_dialogues(path: Path, count: int, rounds: int = 3) -> Path:
    """Writes `count` dialogues of `rounds` questions and answers, of different lengths."""
    with open(path, "w") as file:
        for number in range(count):
            messages = []
            for turn in range(rounds):
                words = " ".join(["word"] * (1 + (number * 7 + turn * 3) % 11))
                messages.append({"role": "user", "content": f"question {number} {turn} {words}"})
                messages.append({"role": "assistant", "content": f"answer {words} {words}"})
            file.write(json.dumps({"id": f"d{number}", "messages": messages}) + "\n")
    return path


@pytest.fixture(scope="session")
def write_dialogues() -> WriteDialogues:
    """Returns the function that writes a file of dialogues."""
    return _write_dialogues


def _tiny_config(folder: Path, tokenizer: Path, cache: Path) -> dict[str, Any]:
    """A training config that runs in seconds: 40 dialogues, a two-layer model."""
    dialogues = _write_dialogues(folder / "dialogues.jsonl", 40)
    return {
        "task": "ask",
        "out": str(folder / "run"),
        "data": {
            "sources": [{"kind": "messages", "path": str(dialogues)}],
            "eval_fraction": 0.25,
            "tokenizer": str(tokenizer),
            "mask": {"loss_roles": ["user"], "skip_first_turn": True},
            "row_tokens": 128,
            "cache_dir": str(cache),
        },
        "model": {
            "vocab_size": 340,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
        },
        "optim": {"lr": 1e-2},
        "epochs": 2,
        "batch_rows": 8,
        "compute_dtype": "float32",
        "checkpoint_every_steps": 3,
    }


@pytest.fixture(autouse=True)
def keep_compile_cache() -> Iterator[None]:
    """Restores the compilation cache folder after a test, because a run sets it for the process."""
    before = jax.config.jax_compilation_cache_dir
    yield
    if jax.config.jax_compilation_cache_dir != before:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def run_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of prepared rows and compiled programs, shared by all small runs of a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def small_steps() -> Iterator[None]:
    """Limits samples of small runs to 8 tokens instead of 64, and the default mesh to two devices.

    Programs for eight devices take twice as long to compile and to run here.
    """
    from parrot_jax.sharding import MeshConfig, make_mesh
    from parrot_jax.train import loop, setup

    def small_mesh(config: MeshConfig) -> jax.sharding.Mesh:
        return make_mesh(config, jax.devices()[:2] if config == MeshConfig() else None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_SAMPLE_TOKENS", 8)
        patch.setattr(setup, "make_mesh", small_mesh)
        yield


@pytest.fixture
def tiny_run(tmp_path: Path, tiny_tokenizer: Path, run_cache: Path, small_steps: None) -> Path:
    """The path of a small training config in a new folder."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(_tiny_config(tmp_path, tiny_tokenizer, run_cache)))
    return path


@pytest.fixture(scope="session")
def trained_run(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_tokenizer: Path,
    run_cache: Path,
    small_steps: None,
) -> Path:
    """The run folder of a small asker, trained once for all workers; tests must not change it."""
    from parrot_jax.core.config import config_from_dict
    from parrot_jax.train.loop import train
    from parrot_jax.train.train_config import TrainConfig

    parent = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        parent = parent.parent  # the session's folder, which all workers share
    folder = parent / "trained"
    with FileLock(parent / "trained.lock"):
        if not (folder / "done").exists():
            folder.mkdir()
            config = _tiny_config(folder, tiny_tokenizer, run_cache)
            train(config_from_dict(TrainConfig, config, where="tiny"))
            (folder / "done").touch()
    return folder / "run"


@pytest.fixture(scope="session")
def storage_server() -> Iterator[str]:
    """The address of a local server that emulates Google Cloud Storage."""
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="it is in the dev extra")
    import fsspec

    from .storage_server import GenerationsHandler

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)  # for gcsfs and orbax
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        # Anonymous access, so that neither tests nor their processes look for credentials.
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        patch.setenv("FSSPEC_GCS_TOKEN", "anon")
        # gcsfs would query an API for hierarchical buckets that the emulator lacks.
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        patch.setattr(emulator, "RequestHandler", GenerationsHandler)
        with emulator.create_server("127.0.0.1", port, in_memory=True):
            yield address


@pytest.fixture
def bucket(storage_server: str) -> str:
    """A new bucket, as `gs://name`."""
    import fsspec

    name = f"bucket-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("gs", use_listings_cache=False).mkdir(name)
    return f"gs://{name}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes a privileged user")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
