"""What a notebook needs that no command has: a run as an object, a small world to try things on.

`dir(parrot_jax)` lists these together with the functions behind the commands.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from parrot_jax.core.paths import AnyPath
from parrot_jax.data.config import DataConfig, MaskConfig
from parrot_jax.data.templates.base import check_speaker
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.model.config import ModelConfig
from parrot_jax.serve.messages import read_messages, split_turns
from parrot_jax.train.config import OptimConfig, TrainConfig
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.sample import Sample, sample_next_turns
from parrot_jax.weights.model_folder import load_params
from parrot_jax.world.facts import make_world
from parrot_jax.world.files import VOCAB_SIZE, Sizes, write_world

Messages = Sequence[Mapping[str, Any]]
"""A history as clients of OpenAI send it: {role, content} each."""


class Run:
    """A trained model, as its run folder has it.

    Attributes:
      config: What it was trained with.
      template: Its chat format and tokenizer.
    """

    def __init__(self, folder: AnyPath | str) -> None:
        """Reads the config and the tokenizer; the weights are read when they are first needed.

        Raises:
          UserError: The folder has no run.
        """
        self._folder = RunFolder(folder)
        self.config = self._folder.load_config()
        self.template = self._folder.load_template()

    @functools.cached_property
    def params(self) -> Any:
        """The weights of the newest checkpoint, a nested dict of arrays."""
        return load_params(self._folder)

    def prompt(self, messages: Messages) -> list[int]:
        """The ids that the model continues.

        Raises:
          UserError: A message is malformed, or it is not this model's turn: an asker speaks after
            an answer, an answerer after a question.
        """
        system, turns = split_turns(read_messages(list(messages)))
        check_speaker(self.config.task, [role for role, _ in turns])
        return self.template.prompt(system, turns)

    def generate(
        self,
        histories: Sequence[Messages],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[Sample]:
        """The next turn of each history: a question of an asker, an answer of an answerer.

        Args:
          histories: One list of messages each.
          max_tokens: Most tokens of a reply, >= 1.
          temperature: 0 = the likeliest token each time.
          top_p: Sample among the likeliest tokens that hold this probability, in (0, 1].
          seed: The same seed gives the same replies.

        Raises:
          UserError: As in `prompt`.
        """
        return sample_next_turns(
            self.config.model,
            self.params,
            self.template,
            [self.prompt(messages) for messages in histories],
            max_new_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            compute_dtype=jnp.dtype(self.config.compute_dtype),
        )


def load_run(folder: AnyPath | str) -> Run:
    """Opens a run folder.

    >>> from parrot_jax import load_run, small_example, train_model
    >>> config = small_example(getfixture("tmp_path"))
    >>> train_model(config)  # doctest: +ELLIPSIS
    139,584 parameters; 300 sessions in ...
    >>> (reply,) = load_run(config.out).generate([[{"role": "user", "content": "Where is Oria?"}]])
    >>> reply.finish_reason in ("stop", "length")
    True
    """
    return Run(folder)


def small_example(folder: Path | str) -> TrainConfig:
    """Writes a small synthetic world, and says how to train a small Parrot-Chat on it.

    The folder gets dialogues and a tokenizer, as `parrot world write` makes them. The model is far
    too small to be of use: it is there to try things on, in seconds.

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
