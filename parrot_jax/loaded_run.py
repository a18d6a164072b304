"""A trained model as an object, for notebooks, `parrot generate` and the server."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import NDArray

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import AnyPath
from parrot_jax.data.prepare import prepare
from parrot_jax.data.templates.base import check_speaker
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.losses.token_loss import default_tile
from parrot_jax.model.attention import choose, resolve
from parrot_jax.model.generate import for_generation
from parrot_jax.serve.jax_engine import JaxEngine
from parrot_jax.serve.messages import read_messages, split_turns
from parrot_jax.sharding import MeshConfig, array_sharding, make_mesh
from parrot_jax.train.forward import Forward
from parrot_jax.train.perplexity import compile_token_nll, evaluate
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.sample import Sample, sample_next_turns
from parrot_jax.weights.model_folder import load_params

ClientMessages = Sequence[Mapping[str, Any]]
"""A history as an OpenAI client sends it: messages of {role, content}."""


class Run:
    """The model in a run folder.

    Attributes:
      folder: The run folder.
      config: The config it was trained with.
      template: Its chat format and tokenizer.
    """

    def __init__(self, folder: AnyPath | str) -> None:
        """Reads the config and the tokenizer; the weights are loaded at their first use.

        Raises:
          UserError: The folder is not a run folder.
        """
        self.folder = RunFolder(folder)
        self.config = self.folder.load_config()
        self.template = self.folder.load_template()

    @functools.cached_property
    def params(self) -> Any:
        """The weights of the newest checkpoint, as a nested dict of arrays."""
        return load_params(self.folder)

    @functools.cached_property
    def _for_generation(self) -> Any:
        return for_generation(self.config.model, self.params, self.config.compute_dtype)

    def engine(self, name: str, *, batch_rows: int | None = None) -> JaxEngine:
        """Returns the engine that serves this model.

        Args:
          name: The model's name in requests.
          batch_rows: Rows of every batch, >= 1; see `JaxEngine`. None = 8 on a CPU, 16 elsewhere.
        """
        return JaxEngine(
            name,
            self.config.task,
            self.config.model,
            self.params,
            self.template,
            compute_dtype=jnp.dtype(self.config.compute_dtype),
            batch_rows=batch_rows or (8 if jax.default_backend() == "cpu" else 16),
        )

    def prompt(self, messages: ClientMessages) -> list[int]:
        """Returns the token ids that the model continues.

        Raises:
          UserError: A message is malformed, or it is not this model's turn: an asker speaks after
            an answer, an answerer after a question.
        """
        given = list(messages) if isinstance(messages, tuple) else messages
        system, turns = split_turns(read_messages(given))
        check_speaker(self.config.task, [role for role, _ in turns])
        return self.template.prompt(system, turns)

    def turn_losses(self, source: SourceConfig) -> NDArray[Any]:
        """Measures how well the model predicts each turn of other dialogues, on one device.

        The rows are prepared as in the run's own evaluation.

        Args:
          source: The dialogues.

        Returns:
          One record of `train.perplexity.TURN_NLL_DTYPE` per turn of both speakers.

        Raises:
          UserError: The dialogues cannot be read.
        """
        data = replace(
            self.config.data,
            sources=(source,),
            eval_sources=(source,),
            eval_fraction=0.0,
            tokenizer=str(self.folder.tokenizer),
        )
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        dtype = jnp.dtype(self.config.compute_dtype)
        platform = mesh.devices.flat[0].platform
        windowed = self.config.model.window_within(data.row_tokens) is not None
        backend = choose(self.config.attention, platform, segments=True, window=windowed)
        forward = Forward(
            model=self.config.model,
            compute_dtype=dtype,
            attention=resolve(backend, data.row_tokens, self.config.model.head_width, dtype),
            remat="none",
            loss_tile=self.config.loss_tile or default_tile(platform),
            mesh=mesh,
        )
        sharding = array_sharding(mesh, "batch", "seq")
        return evaluate(
            compile_token_nll(forward, sharding),
            self.params,
            prepare(data, "eval"),
            batch_rows=1,
            sharding=sharding,
        )

    def generate(
        self,
        histories: Sequence[ClientMessages],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[Sample]:
        """Generates the next turn of each history: an asker a question, an answerer an answer.

        Args:
          histories: One list of messages per dialogue.
          max_tokens: Most tokens of a reply, >= 1.
          temperature: 0 = greedy decoding.
          top_p: Sample from the likeliest tokens with this total probability, in (0, 1].
          seed: The same seed gives the same replies.

        Raises:
          UserError: As in `prompt`, or a number is out of its range.
        """
        if histories is None or isinstance(histories, str | Mapping):
            raise UserError(f"histories is {histories!r:.80}; give a list of lists of messages.")
        for name, value, least in (("max_tokens", max_tokens, 1), ("seed", seed, 0)):
            if type(value) is not int or not least <= value < 2**31:
                raise UserError(f"{name} is {value!r}; it must be a whole number, {least} or more.")
        for name, value in (("temperature", temperature), ("top_p", top_p)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"{name} is {value!r}; it must be a number.")
        return sample_next_turns(
            self.config.model,
            self._for_generation,
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
