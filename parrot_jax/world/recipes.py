"""Training configs for the synthetic world: small LLaMAs, two minutes on two CPU cores.

Batches are small because so small a model needs many steps rather than many tokens. On about the
same dialogues, Parrot-Chat learned nothing in 250 steps of 16 rows, nearly everything in 800 steps
of 4, and everything in 1,300 steps of 2.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from parrot_jax.api.endpoint_config import JobEndpointConfig
from parrot_jax.collect.collect_config import BeginningsConfig, CollectConfig, SpeakerConfig
from parrot_jax.collect.stops import StopConfig
from parrot_jax.data.data_config import DataConfig, MaskConfig, Task
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.negatives.negatives_config import NegativesConfig
from parrot_jax.train.train_config import OptimConfig, PreferenceConfig, TrainConfig
from parrot_jax.world.answerer import NO_ANSWER
from parrot_jax.world.world_engine import MODEL as ANSWERER
from parrot_jax.world.world_files import VOCAB_SIZE

_LONG_ROWS = 320

ASKER = "ask"
"""The model name of the served Parrot-Ask."""

_MODEL = ModelConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=512,
    tie_word_embeddings=True,
    # About 1 / sqrt(128), so that matrix products keep their scale. With LLaMA's 0.02, meant for
    # widths of thousands, learning started much later, and with one seed not at all.
    initializer_range=0.09,
)


def ask_config(
    world: Path, out: Path, *, seed: int, epochs: float, train_end: bool = False
) -> TrainConfig:
    """Returns the config of Parrot-Ask, trained on people's second and later questions."""
    mask = MaskConfig(loss_roles=("user",), skip_first_turn=True, train_end=train_end)
    return _config(
        "ask", world, world / "people.jsonl", mask, out,
        seed=seed, epochs=epochs, batch_rows=4, lr=3e-3,
    )  # fmt: skip


def chat_config(
    world: Path, dialogues: Path, out: Path, *, seed: int, epochs: float, max_turns: int | None
) -> TrainConfig:
    """Returns the config of Parrot-Chat, trained on the answers of all or of the first turns."""
    mask = MaskConfig(loss_roles=("assistant",), max_turns=max_turns)
    return _config(
        "chat", world, dialogues, mask, out, seed=seed, epochs=epochs, batch_rows=2, lr=2e-3
    )


def collect_config(
    world: Path, out: Path, *, asker_url: str, answerer_url: str, seed: int, max_turns: int = 10
) -> CollectConfig:
    """Returns a collection's config, with first questions (part U) and short sessions (part S).

    Parrot-Ask samples at temperature 1. A lower top-p gives fewer invalid questions, but removes
    rare ones too: at 0.95 it never asked "The first one again?", since 1 % of people's questions
    start with "The", and Parrot-Chat did not learn to answer it.
    """
    return CollectConfig(
        out=str(out),
        asker=SpeakerConfig(
            base_url=asker_url, model=ASKER, temperature=1.0, top_p=0.99, max_tokens=32
        ),
        answerer=SpeakerConfig(base_url=answerer_url, model=ANSWERER),
        beginnings=(
            BeginningsConfig(kind="messages", path=str(world / "short_sessions.jsonl")),
            BeginningsConfig(
                kind="messages", path=str(world / "first_questions.jsonl"), take="first_question"
            ),
        ),
        max_turns=max_turns,
        # Six batches of the asker, so that most of their rows are filled.
        concurrency=96,
        # Repeats are normal here ("And its river?", of several places), and there is one language.
        stops=StopConfig(
            meaningless_answers=(f"^{re.escape(NO_ANSWER)}$",),
            repeated_question=None,
            language_switch=None,
        ),
        seed=seed,
    )


def negatives_config(
    dialogues: Path, out: Path, *, url: str, prompts: Mapping[str, str], seed: int, per_kind: int
) -> NegativesConfig:
    """Returns the config of the negatives.

    The sentences of the world are alike, so a negative may be as close as it likes to the right
    answer, if it differs.
    """
    return NegativesConfig(
        out=str(out),
        sources=(_messages(dialogues),),
        generator=JobEndpointConfig(base_url=url, model=ANSWERER, concurrency=48),
        prompts=dict(prompts),
        per_kind=per_kind,
        similarity=100.0,
        language_switch=None,
        seed=seed,
    )


def capo_config(
    world: Path, pairs: Sequence[Path], out: Path, *, init_from: Path, seed: int, epochs: float
) -> TrainConfig:
    """Returns the config of CaPO on files of pairs.

    The SFT term keeps the right answers likely. Without it, one of three seeds of the hard world
    lost half of them: the answers that neglect a comparison are shorter than the right ones, and
    the model learned to go on where they end (docs/benchmarks/world_capo.md).
    """
    sources = tuple(SourceConfig(kind="preference", path=str(path)) for path in pairs)
    mask = MaskConfig(loss_roles=("assistant",))
    config = _config(
        "chat", world, pairs[0], mask, out, seed=seed, epochs=epochs, batch_rows=8, lr=5e-5
    )
    return replace(
        config,
        objective="preference",
        preference=PreferenceConfig(sft_weight=1.0),
        init_from=str(init_from),
        data=replace(config.data, sources=sources, eval_sources=(), row_tokens=_LONG_ROWS),
        optim=replace(config.optim, weight_decay=0.0),
    )


def _config(
    task: Task,
    world: Path,
    dialogues: Path,
    mask: MaskConfig,
    out: Path,
    *,
    seed: int,
    epochs: float,
    batch_rows: int,
    lr: float,
) -> TrainConfig:
    return TrainConfig(
        task=task,
        out=str(out),
        data=DataConfig(
            sources=(_messages(dialogues),),
            eval_sources=(_messages(world / "held_out.jsonl"),),
            tokenizer=str(world),
            mask=mask,
            # The longest dialogue of a person has 12 questions and about 300 tokens.
            row_tokens=_LONG_ROWS if task == "ask" else 256,
        ),
        model=_MODEL,
        # Warm-up: one twentieth of the run.
        optim=OptimConfig(lr=lr, warmup_epochs=epochs / 20, beta2=0.98, weight_decay=0.1),
        epochs=epochs,
        batch_rows=batch_rows,
        seed=seed,
        compute_dtype="float32",
        eval_every_epochs=epochs,
        log_every_steps=100,
        # A kill loses a quarter of a minute. Every 100 steps, saving took 3 % of the training.
        checkpoint_every_steps=250,
    )


def _messages(path: Path) -> SourceConfig:
    return SourceConfig(kind="messages", path=str(path))
