"""Settings of a training run. Loads no jax, so help is instant."""

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from parrot_jax.core.config import Named
from parrot_jax.core.errors import UserError
from parrot_jax.data.config import DataConfig, Task
from parrot_jax.distributed import DistributedConfig
from parrot_jax.model.config import ModelConfig
from parrot_jax.model.presets import PRESETS
from parrot_jax.sharding import MeshConfig


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with warm-up and cosine decay. The defaults are the papers' where they say."""

    lr: float = 3e-5
    """Highest learning rate, reached at the end of the warm-up."""

    warmup_epochs: float = 0.1
    """Epochs over which the rate rises from 0, linearly."""

    final_lr_fraction: float = 0.0
    """Rate at the last step, as a share of `lr`; the way down is half a cosine."""

    beta1: float = 0.9
    """Decay of the mean of gradients. Not stated by the papers."""

    beta2: float = 0.95
    """Decay of the mean of squared gradients. Not stated by the papers."""

    eps: float = 1e-8
    """Added to the root of the second moment."""

    weight_decay: float = 0.0
    """Decoupled decay of every parameter, a step times the rate. Not stated by the papers."""

    clip_norm: float = 1.0
    """Largest norm of the whole gradient; a larger one is scaled down to it."""

    moments_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which the two means are stored; they are calculated in float32."""

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"optim.{name} is {value}; it must be finite and above 0.")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optim.{name} is {getattr(self, name)}; it must be in [0, 1).")
        for name in ("warmup_epochs", "final_lr_fraction", "weight_decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"optim.{name} is {value}; it must be finite and at least 0.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run: data and model in, a run folder out."""

    task: Task
    """What the model is for: `ask` writes the user's next question, `chat` the answer. It decides
    which chat template the run carries and what its samples are; `data.mask` decides the loss."""

    allow_other_mask: bool = False
    """Accept a `data.mask` that does not train what the model is for: a chat model on questions, an
    asker on answers, either on both. For comparisons."""

    out: str
    """The run folder, local or `gs://bucket/folder`. Where it holds this run already, training
    continues from its checkpoint."""

    data: DataConfig
    """The dialogues, and how they become rows."""

    model: Annotated[ModelConfig, Named(PRESETS)]
    """Sizes of the model."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer."""

    mesh: MeshConfig = field(default_factory=MeshConfig)
    """How devices share the work."""

    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """Where the other processes of the job are."""

    init_from: str | None = None
    """Folder whose newest weights to start from: a run, or what `parrot convert hf-to-flax` made.
    Its `model` must be this one. Null = random weights."""

    new_tokenizer: bool = False
    """Train although `data.tokenizer` is not that which the weights of `init_from` were made
    with, or has far fewer ids than the model has rows. Rows of the embedding then begin with the
    weights of other words."""

    epochs: float = 3.0
    """Passes over the sessions."""

    max_steps: int | None = None
    """Stop after this many steps, the schedule still being that of `epochs`; null = no limit.
    0 evaluates the untrained model."""

    batch_rows: int = 32
    """Rows in one optimizer step, over all devices and accumulated micro-batches."""

    micro_rows: int | None = None
    """Most rows that one part of the mesh (data x fsdp) takes at once. A step's rows are taken in
    as few micro-batches as keep to it, on any number of devices, and their gradients summed, so
    fewer devices make the same steps. Null = all at once."""

    seed: int = 0
    """Decides the initial weights and the order of the rows."""

    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which weights are stored and trained. bfloat16 takes half the memory; each update is
    then rounded stochastically, as most would be lost in rounding to the nearest."""

    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of matrix products and activations; sums are float32."""

    accumulator_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which the gradients of micro-batches are summed. bfloat16 takes half the memory; each
    sum is then rounded stochastically."""

    attention: Literal["auto", "block_causal", "cudnn", "dense", "pallas", "splash"] = "auto"
    """Attention backend; auto takes the best one for the platform."""

    remat: Literal["none", "attention", "dots", "full"] = "none"
    """What the backward pass recomputes instead of keeping: nothing; all but the products with
    weights and what attention needs; all but those products; all but the layers' inputs."""

    unroll_layers: int = 1
    """Layers that the loop over layers takes at a time. 1 compiles fastest; all of them leave no
    loop, which lets a GPU overlap the work of neighbours."""

    offload_optimizer: bool = False
    """Keep the moments in the host's memory between steps, where the platform can."""

    loss_tile: int = 2048
    """Tokens whose logits stand in memory at once."""

    eval_every_epochs: float = 1.0
    """Epochs between evaluations on the held-out split; there is always one at the end."""

    xla_flags: tuple[str, ...] = ()
    """Flags for XLA, e.g. `--xla_gpu_enable_triton_gemm=false`, beside those that each platform has
    (`core/xla_flags.py`); they win over those, and over `XLA_FLAGS` in the environment."""

    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where curves are shown beside `metrics.jsonl`; needs the extra `trackers`."""

    profile_steps: tuple[int, ...] = ()
    """Steps to trace, 1 being the first, into `profile/` of the run folder."""

    step_timeout_s: float = 1800.0
    """A step that takes longer, its compilation included, hangs: the stacks of all threads are
    written, and the process ends with exit code 75, "start again". 0 = wait forever."""

    checkpoint_every_steps: int = 100
    """Steps between checkpoints; there is always one at the end."""

    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep."""

    log_every_steps: int = 10
    """Steps between printed lines; `metrics.jsonl` has every step."""

    def __post_init__(self) -> None:
        for name in ("batch_rows", "micro_rows", "checkpoint_every_steps", "keep_checkpoints",
                     "log_every_steps", "loss_tile", "unroll_layers"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1.")
        if self.model.num_hidden_layers % self.unroll_layers:
            raise UserError(
                f"unroll_layers={self.unroll_layers} does not divide the "
                f"{self.model.num_hidden_layers} layers of the model; choose a divisor."
            )
        if any(step < 1 for step in self.profile_steps):
            raise UserError(f"profile_steps is {list(self.profile_steps)}; the first step is 1.")
        if not self.step_timeout_s >= 0:
            raise UserError(f"step_timeout_s is {self.step_timeout_s}; it must be at least 0.")
        if not self.epochs > 0 or not self.eval_every_epochs > 0:
            raise UserError(
                f"epochs={self.epochs} and eval_every_epochs={self.eval_every_epochs} must be "
                "above 0."
            )
        if self.max_steps is not None and self.max_steps < 0:
            raise UserError(f"max_steps is {self.max_steps}; it must be at least 0, or null.")
        if self.data.row_tokens > self.model.max_position_embeddings:
            raise UserError(
                f"data.row_tokens={self.data.row_tokens} is more than "
                f"model.max_position_embeddings={self.model.max_position_embeddings}; "
                "lower the former."
            )

    @classmethod
    def of(cls, options: "TrainConfig") -> "TrainConfig":
        """The config alone, without what a verb that extends it has beside it."""
        return cls(**{name.name: getattr(options, name.name) for name in fields(TrainConfig)})

    def check_mask(self) -> None:
        """Refuses a mask that contradicts the task or itself, as a config made from another may.

        Not part of the constructor: runs of earlier versions may have such masks, and can be used.

        Raises:
          UserError: The mask trains other turns than the task's and `allow_other_mask` is off, or
            keys of it have no effect or leave nothing to train.
        """
        mask, speaker = self.data.mask, {"ask": "user", "chat": "assistant"}[self.task]
        roles = set(mask.loss_roles)
        if roles != {speaker} and not self.allow_other_mask:
            kind = "an asker" if self.task == "ask" else "a chat model"
            raise UserError(
                f"task: {self.task} makes {kind}, which writes the {speaker}'s turns, but "
                f"data.mask.loss_roles is {list(mask.loss_roles)}; set it to [{speaker}], or "
                "allow_other_mask: true where that is meant."
            )
        if mask.skip_first_turn and "user" not in roles:
            raise UserError(
                "data.mask.skip_first_turn=true keeps the first question untrained, but "
                f"loss_roles={list(mask.loss_roles)} trains no questions; set it to false."
            )
        only_first = mask.max_turns == 1 and not mask.train_end
        if only_first and mask.skip_first_turn and roles == {"user"}:
            raise UserError(
                "data.mask.max_turns=1 keeps the first question alone, and skip_first_turn=true "
                "does not train it; raise max_turns, or set skip_first_turn to false."
            )

    def accumulation_steps(self, row_shards: int) -> int:
        """Micro-batches in a step, where `row_shards` parts of the mesh share the rows.

        32 rows on 8 parts with `micro_rows=1` are 4 micro-batches of 8; on 4 parts, 8 of 4.

        Raises:
          UserError: The parts cannot share the rows of a step evenly.
        """
        if self.batch_rows % row_shards:
            raise UserError(
                f"batch_rows={self.batch_rows} does not divide into the {row_shards} parts of "
                "mesh.data x mesh.fsdp; make it a multiple, or mesh.tensor larger."
            )
        rows = self.batch_rows // row_shards
        most = self.micro_rows or rows
        return next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= most)
