"""Settings of a training run. Does not import jax, so that --help is fast."""

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from parrot_jax.core.config import Named
from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import DataConfig, MaskConfig, Task
from parrot_jax.distributed import DistributedConfig
from parrot_jax.model.lora_config import LoraConfig, targets_of
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.presets import PRESETS
from parrot_jax.sharding import MeshConfig

Objective = Literal["sft", "preference"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with warm-up and cosine decay. Defaults are from the papers unless noted."""

    lr: float = 3e-5
    """Highest learning rate, reached at the end of the warm-up."""

    warmup_epochs: float = 0.1
    """Epochs of linear warm-up from 0."""

    final_lr_fraction: float = 0.0
    """Learning rate at the last step as a fraction of `lr`, after cosine decay."""

    beta1: float = 0.9
    """AdamW beta1. Not in the papers."""

    beta2: float = 0.95
    """AdamW beta2. Not in the papers."""

    eps: float = 1e-8
    """AdamW epsilon."""

    weight_decay: float = 0.0
    """Decoupled weight decay of every parameter, per step times `lr`. Not in the papers."""

    clip_norm: float = 1.0
    """Gradients with a larger global norm are scaled down to this."""

    moments_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which the moments are stored; they are computed in float32."""

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
class PreferenceConfig:
    """The loss of `objective: preference`."""

    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """`sigmoid` is DPO (arXiv:2305.18290), `ipo` is arXiv:2310.12036."""

    beta: float = 0.1
    """Strength of the pull to the reference model. Not in the papers."""

    length_normalized: bool = False
    """Divide the log-probability of each answer by its number of tokens. The paper of DPO does not;
    the authors of IPO did."""

    sft_weight: float = 0.0
    """Weight of an added loss: the mean loss per token of the chosen answer (arXiv:2404.19733).
    Not in the papers."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise UserError(f"preference.beta is {self.beta}; it must be finite and above 0.")
        if not (math.isfinite(self.sft_weight) and self.sft_weight >= 0):
            raise UserError(
                f"preference.sft_weight is {self.sft_weight}; it must be finite and at least 0."
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run: data and model in, a run folder out."""

    task: Task
    """Role of the model: `ask` writes the user's next question, `chat` the answer. Sets the chat
    template and the samples of the run; `data.mask` sets the loss."""

    allow_other_mask: bool = False
    """Allow a `data.mask` that contradicts `task`: a chat model trained on questions, an asker on
    answers, or either on both. For comparisons."""

    objective: Objective = "sft"
    """`sft`: cross-entropy on the live tokens. `preference`: CaPO, a preference loss on pairs of
    answers (sources of `kind: preference`); the reference is the model of `init_from`."""

    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    """The preference loss."""

    out: str
    """The run folder, local or `gs://bucket/folder`. If it has this run already, training resumes
    from its checkpoint."""

    data: DataConfig
    """The dialogues, and how they become rows."""

    model: Annotated[ModelConfig, Named(PRESETS)]
    """Sizes of the model."""

    lora: LoraConfig | None = None
    """Train low-rank adapters of the frozen weights in `init_from`. Null = train all weights."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer."""

    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Sizes of the mesh axes."""

    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """The processes of the job."""

    init_from: str | None = None
    """Folder of the initial weights: a run, or output of `parrot convert hf-to-flax`; its newest
    checkpoint is used. Its `model` must be the same. Null = random weights."""

    new_tokenizer: bool = False
    """Allow a `data.tokenizer` that is not the one of the weights in `init_from`, or that has far
    fewer ids than the model has embedding rows. Embedding rows then start with the weights of
    other tokens."""

    epochs: float = 3.0
    """Passes over the sessions."""

    max_steps: int | None = None
    """Stop after this many steps, but with the schedule of `epochs`; null = no limit. 0 evaluates
    the untrained model."""

    batch_rows: int = 32
    """Global batch size: rows of an optimizer step, over all devices and micro-batches."""

    micro_rows: int | None = None
    """Most rows of a micro-batch per data-parallel part (data x fsdp). Gradients are accumulated
    over as few micro-batches as possible, so fewer devices make the same steps. Null = no
    accumulation."""

    seed: int = 0
    """Seed of the initial weights and of the row order."""

    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the stored weights that are trained. bfloat16 takes half the memory; updates are then
    rounded stochastically, because rounding to nearest would lose most of them."""

    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of matrix products and activations; sums are float32."""

    accumulator_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which gradients are accumulated. bfloat16 takes half the memory; sums are then
    rounded stochastically."""

    attention: Literal["auto", "block_causal", "cudnn", "dense", "pallas", "splash"] = "auto"
    """Attention backend; auto takes the best one for the platform."""

    remat: Literal["none", "attention", "dots", "full"] = "none"
    """What the backward pass recomputes: nothing; all but matrix products with weights and the
    residuals of attention; all but those products; all but the inputs of layers."""

    unroll_layers: int = 1
    """Layers per iteration of the scan over layers. 1 compiles fastest; all = no
    loop, so that a GPU can overlap the work of adjacent layers."""

    offload_optimizer: bool = False
    """Keep the moments in host memory between steps, if the platform supports it."""

    loss_tile: int | None = None
    """Tokens whose logits are in memory at once; null = 2048, on a CPU 512."""

    eval_every_epochs: float = 1.0
    """Epochs between evaluations on the held-out split; the last step is always evaluated."""

    xla_flags: tuple[str, ...] = ()
    """XLA flags, e.g. `--xla_gpu_enable_triton_gemm=false`. They override those of the platform
    (`core/xla_flags.py`) and `XLA_FLAGS` in the environment."""

    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Trackers to log to besides `metrics.jsonl`; needs the extra `trackers`."""

    profile_steps: tuple[int, ...] = ()
    """Steps to trace, counted from 1, to `profile/` of the run folder."""

    step_timeout_s: float = 1800.0
    """Timeout of a step, including compilation. After it, the stacks of all threads are written
    and the process exits with code 75 ("restart me"). 0 = no timeout."""

    checkpoint_every_steps: int = 100
    """Steps between checkpoints; the last step is always saved."""

    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep."""

    log_every_steps: int = 10
    """Steps between printed lines; `metrics.jsonl` logs every step."""

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
                "lower data.row_tokens."
            )
        if self.lora is not None:
            targets_of(self.model, self.lora)  # raises if a target is unknown

    @classmethod
    def of(cls, options: "TrainConfig") -> "TrainConfig":
        """The config without the keys of a command that extends it."""
        return cls(**{name.name: getattr(options, name.name) for name in fields(TrainConfig)})

    def check_mask(self) -> None:
        """Checks that the mask does not contradict the task or itself.

        Not in the constructor: runs of earlier versions may have such masks and stay usable.

        Raises:
          UserError: The mask trains other turns than the task's and `allow_other_mask` is off, or
            some of its keys have no effect or leave nothing to train.
        """
        mask, speaker = self.data.mask, {"ask": "user", "chat": "assistant"}[self.task]
        roles = set(mask.loss_roles)
        if self.trains_pairs:
            self._check_pairs()
        elif self.preference != PreferenceConfig():
            raise UserError(
                "`preference` has settings, but objective is sft; set objective: preference."
            )
        if roles != {speaker} and not self.allow_other_mask:
            kind = "an asker" if self.task == "ask" else "a chat model"
            raise UserError(
                f"task: {self.task} makes {kind}, which writes the {speaker}'s turns, but "
                f"data.mask.loss_roles is {list(mask.loss_roles)}; set it to [{speaker}], or "
                "allow_other_mask: true if that is intended."
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

    @property
    def trains_pairs(self) -> bool:
        """Whether rows hold preference pairs."""
        return self.objective == "preference"

    def _check_pairs(self) -> None:
        if self.task != "chat":
            raise UserError(
                f"objective: preference trains answers, but task is {self.task}; set task: chat."
            )
        plain = MaskConfig(loss_roles=("assistant",), turn_weights=self.data.mask.turn_weights)
        if self.data.mask != plain:
            raise UserError(
                "objective: preference trains the two answers of a pair: data.mask may only have "
                "loss_roles: [assistant] and turn_weights; remove its other keys."
            )
        if not self.data.trim_dead:
            raise UserError(
                "objective: preference has no text after its answers; set data.trim_dead: true."
            )

    def accumulation_steps(self, row_shards: int) -> int:
        """Micro-batches per step if `row_shards` parts of the mesh share the rows.

        With `micro_rows=1`, 32 rows on 8 parts make 4 micro-batches of 8; on 4 parts, 8 of 4.

        Raises:
          UserError: The rows of a step do not divide evenly over the parts.
        """
        if self.batch_rows % row_shards:
            raise UserError(
                f"batch_rows={self.batch_rows} does not divide into the {row_shards} parts of "
                "mesh.data x mesh.fsdp; make it a multiple, or mesh.tensor larger."
            )
        rows = self.batch_rows // row_shards
        most = self.micro_rows or rows
        return next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= most)
