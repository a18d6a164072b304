"""A small world, and the config of a model that trains on it in seconds, for experiments."""

from pathlib import Path

from parrot_jax.data.data_config import DataConfig, MaskConfig
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.train.train_config import OptimConfig, TrainConfig
from parrot_jax.world.facts import make_world
from parrot_jax.world.world_files import VOCAB_SIZE, Sizes, write_world


def small_example(folder: Path | str) -> TrainConfig:
    """Writes a small synthetic world; returns the config of a small Parrot-Chat to train on it.

    The folder gets the files of `parrot world write`, with fewer dialogues. The model is too small
    to be useful, but trains in seconds.

    >>> config = small_example(getfixture("tmp_path"))
    >>> config.task, config.model.hidden_size, config.max_steps
    ('chat', 64, 4)
    """
    folder = Path(folder)
    sizes = Sizes(people=300, held_out=20, beginnings=20, exam=4)
    write_world(folder, make_world("easy", seed=0), sizes)

    def source(name: str) -> SourceConfig:
        return SourceConfig(kind="messages", path=str(folder / name))

    return TrainConfig(
        task="chat",
        out=str(folder / "run"),
        data=DataConfig(
            sources=(source("people.jsonl"),),
            eval_sources=(source("held_out.jsonl"),),
            tokenizer=str(folder),
            mask=MaskConfig(loss_roles=("assistant",)),
            row_tokens=256,
            cache_dir=str(folder / "cache"),
        ),
        model=ModelConfig(
            vocab_size=VOCAB_SIZE, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=512, tie_word_embeddings=True,
        ),
        optim=OptimConfig(lr=3e-3),
        max_steps=4,
        batch_rows=8,
        compute_dtype="float32",
    )  # fmt: skip
