"""The order of a run: rows, state, steps; evaluation before the checkpoint of its step.

Killed anywhere and started again, a run reads the same rows and ends with the same bits: batches
are a function of the step, and whatever was written after the newest checkpoint is written again.
"""

import contextlib
import math
import time
from pathlib import Path

import jax
import numpy as np

from parrot_jax.core.config import config_to_dict
from parrot_jax.core.errors import PreemptedError, RunError, UserError, disk_full_is_a_user_error
from parrot_jax.core.files import AnyPath, atomic_write, write_array, write_json
from parrot_jax.core.logs import console, progress_bar
from parrot_jax.core.memory import keep_freed_memory
from parrot_jax.data.histories import held_out_histories
from parrot_jax.data.pipeline import Batches
from parrot_jax.data.prepare import Prepared, prepare
from parrot_jax.data.tokenizer import Tokenizer, load_tokenizer
from parrot_jax.distributed import any_process, check_same_everywhere, is_first_process
from parrot_jax.sharding import make_mesh, num_batch_shards
from parrot_jax.train import evaluate as evaluation
from parrot_jax.train.chips import chip_of, flops_per_token
from parrot_jax.train.config import TrainConfig
from parrot_jax.train.optim import Schedule, learning_rate, plan_steps
from parrot_jax.train.preemption import catch_sigterm
from parrot_jax.train.profile import Profiler
from parrot_jax.train.program import make_program, put_rows
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.sample import sample_next_turns
from parrot_jax.train.state import new_state, restore_state, save_state
from parrot_jax.train.step import TrainState
from parrot_jax.train.trackers import Trackers, open_trackers
from parrot_jax.train.watchdog import Watchdog
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.model_folder import check_same_model

_NUM_SAMPLES = 5
_SAMPLE_TOKENS = 64
_FLUSH_EVERY_S = 60.0


def train(config: TrainConfig) -> None:
    """Trains, or continues, the run in `config.out`.

    Raises:
      UserError: The data, the sizes or the run folder do not fit the config.
      RunError: Loss or gradient norm is not finite; the batch is saved and named.
    """
    keep_freed_memory()
    # A continued run need not compile again what it compiled before.
    jax.config.update("jax_compilation_cache_dir", str(Path(config.data.cache_dir) / "compiled"))
    folder = RunFolder(config.out)
    # Asked first: that a bucket cannot be reached should be known before the data are read.
    is_new = not folder.config_path.exists()
    if config.init_from is not None and is_new:
        check_same_model(config.init_from, config.model)
    tokenizer = load_tokenizer(config.data.tokenizer)
    _check_vocabulary(config, tokenizer)
    prepared = prepare(config.data, "train")
    has_eval = bool(config.data.eval_sources or config.data.eval_fraction)
    held_out = prepare(config.data, "eval") if has_eval else None
    check_same_everywhere(prepared.fingerprint, f"the rows of {config.data.cache_dir}")
    with folder.open(config, tokenizer), disk_full_is_a_user_error(f"the run in {config.out}"):
        _Run(config, folder, tokenizer, prepared, held_out).run()


class _Run:
    """One process's part of a run: what stays the same from step to step."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        tokenizer: Tokenizer,
        prepared: Prepared,
        held_out: Prepared | None,
    ) -> None:
        self.config, self.folder, self.tokenizer = config, folder, tokenizer
        self.held_out = held_out
        self.writes = is_first_process()
        rows = prepared.rows()
        self.plan = plan_steps(config, len(rows))
        self.batches = Batches(rows, batch_rows=config.batch_rows, seed=config.seed)
        mesh = make_mesh(config.mesh)
        self.schedule = learning_rate(
            config.optim,
            steps_per_epoch=self.plan.steps_per_epoch,
            num_steps=self.plan.num_steps,
        )
        self.program = make_program(
            config,
            mesh,
            self.schedule,
            live_capacity=live_capacity(prepared, config, num_batch_shards(mesh)),
        )
        self.token_nlls = evaluation.compile_token_nll(
            self.program.forward, self.program.rows_sharding
        )
        self.chip = chip_of(mesh.devices.flat[0].device_kind)
        self.flops_per_step = (
            flops_per_token(config.model, config.data.row_tokens)
            * config.batch_rows
            * config.data.row_tokens
        )
        self.checkpoints = Checkpoints(folder.checkpoints, keep=config.keep_checkpoints)
        _print_plan(config, prepared, self.plan)

    trackers: Trackers
    """Of the first process alone."""

    def run(self) -> None:
        path = self.folder.path
        here = path if isinstance(path, Path) else Path(self.config.data.cache_dir)
        report = here / f"stacks-{jax.process_index()}.txt"
        with (
            catch_sigterm() as sigterm,
            Watchdog(self.config.step_timeout_s, report) as watchdog,
            progress_bar("steps") as progress,
            contextlib.ExitStack() as held,
        ):
            state = self._start()
            first = int(state.step)
            profiler = Profiler(path, self.config.profile_steps)
            held.callback(profiler.close)
            if self.writes:
                self.trackers = open_trackers(
                    self.config.trackers,
                    folder=path,
                    config=config_to_dict(self.config),
                    first_step=first + 1,
                )
                held.callback(self.trackers.close)
            # Before the first step where there is none, or after one that ended by a signal.
            if first in self.plan.eval_steps and not self._result(first).exists():
                self._evaluate(state, first)
            if first == 0 and self.plan.stop_step == 0:
                self._save(state, 0)
            bar = progress.add_task("train", total=self.plan.stop_step, completed=first)
            for step in range(first, self.plan.stop_step):
                done = step + 1
                with profiler.step(done):
                    state = self._step(state, step)
                watchdog.reset()
                progress.update(bar, completed=done)
                if any_process(sigterm.asked):
                    self._stop_at_signal(state, done)
                if done in self.plan.eval_steps:
                    self._evaluate(state, done)
                    watchdog.reset()
                # After the evaluation: a run that continues from here has its results already.
                if done % self.config.checkpoint_every_steps == 0 or done == self.plan.stop_step:
                    self._save(state, done)
            self.checkpoints.close()
        console.print(f"done: {self.plan.stop_step} steps in {self.folder.path}")

    def _stop_at_signal(self, state: TrainState, done: int) -> None:
        """Saves at once: whoever sent the signal gives little time."""
        self._save(state, done)
        self.checkpoints.close()
        raise PreemptedError(
            f"asked to end by SIGTERM: step {done} is saved in {self.folder.path}; the same "
            "command continues there."
        )

    def _result(self, step: int) -> AnyPath:
        return self.folder.results / f"eval-{step:06d}.json"

    def _start(self) -> TrainState:
        """The newest checkpoint, or new weights; later metrics than that are dropped."""
        step = self.checkpoints.latest_step()
        if step is None:
            state = new_state(self.config, self.program.optimizer, self.program.state)
        else:
            state = restore_state(self.checkpoints, step, self.program.state)
            console.print(f"continuing {self.folder.path} at step {step}")
        if self.writes:
            self.folder.metrics.keep_through(step or 0)
            self.folder.samples.keep_through(step or 0)
        return state

    def _step(self, state: TrainState, step: int) -> TrainState:
        started = time.perf_counter()
        like = self.program.batch["tokens"]
        batch = put_rows(lambda places: self.batches.read(step, places), like.shape, like.sharding)
        state, metrics = self.program.step(state, batch)
        if not metrics.finite:
            self._stop_at_bad_batch(step, float(metrics.loss), float(metrics.grad_norm))
        seconds = time.perf_counter() - started
        tokens, live = int(metrics.tokens), int(metrics.live_tokens)
        values = {
            "step": step + 1,
            "epoch": (step + 1) / self.plan.steps_per_epoch,
            "loss": float(metrics.loss),
            "grad_norm": float(metrics.grad_norm),
            "lr": float(np.asarray(self.schedule(step))),
            "tokens": tokens,
            "live_tokens": live,
            "step_s": seconds,
        }
        if self.chip is not None:
            values["mfu"] = (
                self.flops_per_step / seconds / (self.chip.peak_flops * self.program.mesh.size)
            )
        if self.writes:
            self.folder.metrics.append(**values)
            self.trackers.log(step + 1, {k: v for k, v in values.items() if k != "step"})
            self.folder.flush(every_s=_FLUSH_EVERY_S)
        if (step + 1) % self.config.log_every_steps == 0 or step + 1 == self.plan.stop_step:
            console.print(
                f"step {step + 1}/{self.plan.num_steps}  epoch {values['epoch']:.2f}  "
                f"loss {values['loss']:.4f}  norm {values['grad_norm']:.2f}  "
                f"lr {values['lr']:.2e}  {seconds * 1e3:.0f} ms  "
                f"{tokens / seconds:,.0f} tok/s  {live / seconds:,.0f} live tok/s"
                + (f"  MFU {values['mfu']:.1%}" if "mfu" in values else "")
            )
        return state

    def _stop_at_bad_batch(self, step: int, loss: float, norm: float) -> None:
        path = self.folder.path / f"bad-batch-{step + 1:06d}.npz"
        if self.writes:
            with atomic_write(path, "wb") as file:
                np.savez(file, allow_pickle=False, **self.batches[step])
        self.folder.flush()
        self.checkpoints.close()
        raise RunError(
            f"step {step + 1}: loss {loss} and gradient norm {norm} must both be finite; nothing "
            f"was updated, and the batch is in {path}. Lower optim.lr or look at that batch."
        )

    def _save(self, state: TrainState, step: int) -> None:
        self.folder.flush()
        if self.writes:
            self.trackers.flush()
        save_state(self.checkpoints, step, state)

    def _evaluate(self, state: TrainState, step: int) -> None:
        if self.held_out is None:
            return
        started = time.perf_counter()
        turns = evaluation.evaluate(
            self.token_nlls,
            state.params,
            self.held_out,
            batch_rows=self.program.micro_shape[1],
            sharding=self.program.rows_sharding,
        )
        summary = evaluation.summarise(turns)
        if self.writes:
            write_array(self.folder.results / f"eval-{step:06d}.npy", turns)
            # Last: a continued run takes it for the sign that all is there.
            write_json(self._result(step), {"step": step, **summary})
        console.print(
            f"eval at step {step}: user turns 2..T {_ppl(summary['user_ppl'])}, assistant turns "
            f"{_ppl(summary['assistant_ppl'])} perplexity ({time.perf_counter() - started:.1f} s)"
        )
        self._sample(state, step)

    def _sample(self, state: TrainState, step: int) -> None:
        """What the model says after the five fixed held-out histories."""
        config = self.config
        histories = held_out_histories(
            config.data, config.task, self.tokenizer, count=_NUM_SAMPLES,
            max_prompt_tokens=config.model.max_position_embeddings - _SAMPLE_TOKENS,
        )  # fmt: skip
        replies = sample_next_turns(
            config.model,
            state.params,
            self.tokenizer,
            [history.prompt for history in histories],
            max_new_tokens=_SAMPLE_TOKENS,
            seed=config.seed,
            compute_dtype=self.program.forward.compute_dtype,
            mesh=self.program.mesh,
        )
        for history, reply in zip(histories, replies, strict=True):
            if self.writes:
                self.folder.samples.append(
                    step=step, dialogue=history.dialogue_id, truth=history.truth, **reply._asdict()
                )
            console.print(f"  {history.dialogue_id}: {reply.text!r} [{reply.finish_reason}]")


def live_capacity(prepared: Prepared, config: TrainConfig, num_shards: int) -> int | None:
    """Room for the live tokens of a micro-batch: mean and four deviations, in whole tiles.

    Args:
      prepared: Its counts say how many live tokens a row has.
      config: Rows of a micro-batch.
      num_shards: Parts the rows are split into; each has its share of the room.

    Returns:
      Live tokens over all shards; a batch with more falls back to all its tokens. None where
      compaction would save little.
    """
    rows = config.batch_rows // config.accumulation_steps(num_shards) // num_shards
    live = prepared.counts["live_tokens_a_row"]
    needed = rows * live["mean"] + 4 * math.sqrt(rows) * live["deviation"]
    tile = min(config.loss_tile, 256)
    capacity = math.ceil(needed / tile) * tile
    return num_shards * capacity if capacity < 0.9 * rows * config.data.row_tokens else None


def _check_vocabulary(config: TrainConfig, tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size > config.model.vocab_size:
        raise UserError(
            f"the tokenizer {config.data.tokenizer} has {tokenizer.vocab_size} ids, more than "
            f"model.vocab_size={config.model.vocab_size}; raise the latter."
        )


def _print_plan(config: TrainConfig, prepared: Prepared, plan: Schedule) -> None:
    counts = prepared.counts
    read = counts["read"]
    if read["broken"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in read["broken"].items())
        console.print(
            f"{sum(read['broken'].values()):,} of {read['rows']:,} rows are broken and left out: "
            f"{reasons}; the first is {read['examples'][0]}"
        )
    share = config.batch_rows / counts["rows"]
    console.print(
        f"{config.model.num_parameters():,} parameters; {counts['sessions']:,} sessions in "
        f"{counts['rows']:,} rows of {config.data.row_tokens} tokens, "
        f"{counts['padding_share']:.1%} padding; {plan.num_steps} steps of {config.batch_rows} "
        f"rows = {share * counts['sessions']:.1f} sessions and "
        f"{share * counts['live_tokens']:,.0f} live tokens a step"
    )


def _ppl(value: float | None) -> str:
    return "no tokens" if value is None else f"{value:.2f}"
