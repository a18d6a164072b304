"""Settings and fixtures of all tests: eight CPU devices, strict broadcasting, the real data folder."""

import os
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Timings on a shared machine say nothing about a test, and every run tries the same examples.
settings.register_profile(
    "parrot", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("parrot")

_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real dialogues, weights and judgments beside the checkout."""
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
