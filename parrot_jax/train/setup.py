"""Prepares a run before its first step: rows, schedule, program."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from numpy.typing import NDArray

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import console, visible
from parrot_jax.core.memory import keep_freed_memory
from parrot_jax.data.pipeline import Batches
from parrot_jax.data.prepare import Prepared, note_shared_files, prepare
from parrot_jax.data.templates import make_template
from parrot_jax.data.templates.base import Template
from parrot_jax.data.tokenizers import Tokenizer, check_rows, load_tokenizer
from parrot_jax.distributed import check_same_everywhere
from parrot_jax.model.families import num_parameters
from parrot_jax.model.lora_config import num_adapter_parameters
from parrot_jax.sharding import make_mesh, num_batch_shards
from parrot_jax.train.chips import chip_of, flops_per_token
from parrot_jax.train.objectives import Objective, RoleMaskedLoss
from parrot_jax.train.optim import Schedule, Steps, count_steps, learning_rate
from parrot_jax.train.preference import PairRows, PreferenceObjective
from parrot_jax.train.program import Program, make_program, put_rows
from parrot_jax.train.step import Batch
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.weights.model_folder import ModelFolder, check_same_model

_MOST_GROUPS = 16
"""Kinds, and turns, of which the steps log their own metrics; the evaluation reports all."""


class Setup(NamedTuple):
    """The constants of a run in one process."""

    template: Template
    prepared: Prepared
    held_out: Prepared | None
    """The evaluation split, or None."""
    live_capacity: int
    """Of the loss; see `RoleMaskedLoss`."""
    rows: Sequence[dict[str, NDArray[Any]]]
    """The training rows; of pairs, with zeros as reference until the weights are known."""
    batches: Batches
    steps: Steps
    learning_rate: Schedule
    program: Program
    flops_per_step: int
    """By the formula, over all devices."""

    def batch(self, step: int) -> Batch:
        """The rows of step `step` on the devices; each process reads those of its devices."""
        like = self.program.batch["tokens"]
        return put_rows(lambda places: self.batches.read(step, places), like.shape, like.sharding)

    def with_rows(self, rows: PairRows, seed: int) -> "Setup":
        """The same run with the reference in its rows."""
        _, num_rows, _ = self.program.batch["tokens"].shape
        batch_rows = num_rows * self.program.micro_shape[0]
        return self._replace(rows=rows, batches=Batches(rows, batch_rows=batch_rows, seed=seed))

    def mfu(self, seconds: float) -> float | None:
        """The utilisation at a given step time: formula FLOPs / peak FLOPs of all chips.

        Padding counts as work. None if the peak of the devices is unknown, e.g. for a CPU.
        """
        devices = self.program.mesh.devices
        chip = chip_of(devices.flat[0].device_kind)
        return (
            None
            if chip is None
            else (self.flops_per_step / seconds / (chip.peak_flops * devices.size))
        )

    def print_summary(self, config: TrainConfig) -> None:
        """Prints an overview of the run."""
        counts = self.prepared.counts
        read = counts["read"]
        if read["broken"]:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in read["broken"].items())
            console.print(
                f"{sum(read['broken'].values()):,} of {read['rows']:,} rows are rejected: "
                f"{reasons}; the first is {read['examples'][0]}"
            )
        if too_long := counts.get("too_long"):
            console.print(
                f"{len(too_long):,} pairs do not fit in data.row_tokens={config.data.row_tokens} "
                f"and are dropped: {visible(', '.join(too_long[:5]))}"
                f"{', ...' if too_long[5:] else ''}"
            )
        for difference in counts.get("template_differs", ()):
            console.print(
                "the chat template of the tokenizer's folder renders some dialogues otherwise: "
                f"{visible(difference)}"
            )
        share = config.batch_rows / counts["rows"]
        unit = "pairs" if config.trains_pairs else "sessions"
        console.print(
            f"{_parameters(config)}; {counts['sessions']:,} {unit} in "
            f"{counts['rows']:,} rows of {config.data.row_tokens} tokens, "
            f"{counts['padding_share']:.1%} padding; {self.steps.num_steps} steps of "
            f"{config.batch_rows} rows = {share * counts['sessions']:.1f} {unit} and "
            f"{share * counts['live_tokens']:,.0f} live tokens per step"
        )
        data, fsdp, tensor = self.program.mesh.shape.values()
        num_micro, rows = self.program.micro_shape
        console.print(
            f"{self.program.mesh.size} devices ({jax.devices()[0].device_kind}) as data {data} x "
            f"fsdp {fsdp} x tensor {tensor}; {num_micro} x {rows} rows per step; attention "
            f"{self.program.forward.attention.name}, remat {config.remat}"
        )


def _parameters(config: TrainConfig) -> str:
    """How many weights there are, and how many of them are trained."""
    total = num_parameters(config.model)
    if config.lora is None:
        return f"{total:,} parameters"
    trained = num_adapter_parameters(config.model, config.lora)
    total += trained
    return f"{total:,} parameters, {trained:,} of them trained ({trained / total:.2%})"


def set_up(config: TrainConfig, *, is_new: bool, objective: Objective | None = None) -> Setup:
    """Prepares the data and builds the program; creates no weights yet.

    Args:
      config: The run.
      is_new: Whether it starts from `config.init_from` instead of its own checkpoint.
      objective: The training loss; None = that of the config.

    Raises:
      UserError: The data, the sizes or the devices do not fit the config.
    """
    config.check_mask()
    keep_freed_memory()
    tokenizer = load_tokenizer(config.data.tokenizer)
    template = make_template(config.data.template, tokenizer)
    template.check_loss_roles([*config.data.mask.loss_roles, *(["user"] * (config.task == "ask"))])
    _check_vocabulary(config, tokenizer)
    if config.lora is not None and config.init_from is None:
        raise UserError(
            "lora trains adapters of the weights in init_from, but init_from is null; set it to a "
            "run or a converted model, or remove lora."
        )
    if config.init_from is not None and is_new:
        check_same_model(config.init_from, config.model)
        _check_same_tokenizer(config, tokenizer)
    pairs = config.trains_pairs
    prepared = prepare(config.data, "train", pairs=pairs)
    has_eval = bool(config.data.eval_sources or config.data.eval_fraction)
    held_out = prepare(config.data, "eval", pairs=pairs) if has_eval else None
    if held_out is not None:
        note_shared_files(prepared, held_out)
    for split in (prepared, held_out):
        if split is not None:
            check_same_everywhere(split.rows_hash, f"the rows of {config.data.cache_dir}")
    # So that a resumed run does not compile again. Here, because the folder exists by now.
    jax.config.update("jax_compilation_cache_dir", str(Path(config.data.cache_dir) / "compiled"))
    rows = PairRows(prepared.rows(), None) if pairs else prepared.rows()
    steps = count_steps(config, len(rows))
    schedule = learning_rate(
        config.optim, steps_per_epoch=steps.steps_per_epoch, num_steps=steps.num_steps
    )
    mesh = make_mesh(config.mesh)
    capacity = _live_capacity(prepared, config, num_batch_shards(mesh))
    if objective is None:
        objective = make_objective(config, capacity, prepared.counts)
    tokens = config.batch_rows * config.data.row_tokens
    return Setup(
        template,
        prepared,
        held_out,
        capacity,
        rows,
        Batches(rows, batch_rows=config.batch_rows, seed=config.seed),
        steps,
        schedule,
        make_program(config, mesh, objective=objective),
        flops_per_token(config.model, config.data.row_tokens, config.lora) * tokens,
    )


def make_objective(
    config: TrainConfig, live_capacity: int | None, counts: Mapping[str, Any]
) -> Objective:
    """The objective of a config.

    Args:
      config: The run.
      live_capacity: See `RoleMaskedLoss`.
      counts: Of the prepared rows; empty = unknown.
    """
    if not config.trains_pairs:
        return RoleMaskedLoss(live_capacity)
    return PreferenceObjective(
        config.preference,
        live_capacity,
        kinds=tuple(kind for kind in counts.get("kinds", ()) if kind)[:_MOST_GROUPS],
        turns=tuple(map(int, counts.get("turns", ())))[:_MOST_GROUPS],
    )


def _live_capacity(prepared: Prepared, config: TrainConfig, num_shards: int) -> int:
    """Capacity for the live tokens of a micro-batch: mean + 4 standard deviations, in whole tiles.

    Args:
      prepared: The rows and their live-token counts.
      config: Rows of a micro-batch.
      num_shards: Number of parts that share the rows; each has an equal share of the capacity.

    Returns:
      Live tokens over all shards, at most all tokens; for a batch with more, the loss computes all.
    """
    rows = config.batch_rows // config.accumulation_steps(num_shards) // num_shards
    live = prepared.counts["live_tokens_a_row"]
    needed = rows * live["mean"] + 4 * math.sqrt(rows) * live["deviation"]
    tile = min(config.loss_tile or 256, 256)
    capacity = math.ceil(needed / tile) * tile
    return num_shards * min(capacity, rows * config.data.row_tokens)


def _check_vocabulary(config: TrainConfig, tokenizer: Tokenizer) -> None:
    rows, name = config.model.vocab_size, config.data.tokenizer
    if config.new_tokenizer and tokenizer.vocab_size <= rows:
        console.print(f"{name} has {tokenizer.vocab_size:,} ids, the model {rows:,} rows")
    elif note := check_rows(tokenizer, rows, name):
        console.print(note)


def _check_same_tokenizer(config: TrainConfig, tokenizer: Tokenizer) -> None:
    """Checks that the tokenizer is the one that the initial weights were trained with."""
    base = ModelFolder(config.init_from or "")
    made_with = base.tokenizer_fingerprint()
    if made_with is None and base.tokenizer.exists():  # saved by an earlier version
        made_with = load_tokenizer(base.tokenizer).fingerprint
    if made_with == tokenizer.fingerprint:
        return
    ours = (
        f"data.tokenizer {config.data.tokenizer} ({tokenizer.fingerprint[:12]}, "
        f"{tokenizer.vocab_size:,} ids)"
    )
    if made_with is None:
        problem = f"{base.path} does not record the tokenizer of its weights, so {ours} may differ"
        advice = "if it is the tokenizer of the weights"
    else:
        problem = f"the weights in {base.path} were made with another tokenizer ({made_with[:12]})"
        problem += f" than {ours}"
        advice = f"set data.tokenizer: {base.tokenizer}, or, if the change is intended"
    if not config.new_tokenizer:
        raise UserError(f"{problem}; {advice}, set new_tokenizer: true.")
    console.print(problem)
