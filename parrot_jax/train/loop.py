"""The training loop. At a step with both, the evaluation runs before the checkpoint is saved.

A run that is killed and started again reads the same rows and ends with the same bits: batches
are a function of the step, and everything after the newest checkpoint is written again.

The devices run one step ahead of the host: while they compute a step, the host reports the
previous one and reads the rows of the next. It waits for a step only when the weights are needed:
for an evaluation, a checkpoint or a trace.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from parrot_jax.core.config import check_config, config_to_dict
from parrot_jax.core.errors import PreemptedError, RunError, UserError, disk_full_is_a_user_error
from parrot_jax.core.files import atomic_write, write_array, write_json
from parrot_jax.core.logs import Pace, console, duration, progress_bar, visible
from parrot_jax.core.paths import AnyPath
from parrot_jax.distributed import any_process, in_first_process, is_first_process
from parrot_jax.model.lora import scaled
from parrot_jax.train import perplexity
from parrot_jax.train.base import load_base
from parrot_jax.train.objectives import Objective, check_objective
from parrot_jax.train.pair_evaluation import check_first_step, evaluate_pairs
from parrot_jax.train.preemption import Preemption, preemption
from parrot_jax.train.preference import PairRows
from parrot_jax.train.profile import Profiler
from parrot_jax.train.program import too_large_is_a_user_error
from parrot_jax.train.reference import load_reference
from parrot_jax.train.run_data import describe_data
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.sample import sample_next_turns
from parrot_jax.train.setup import Setup, set_up
from parrot_jax.train.state import (
    initial_params,
    new_state,
    restore_newest,
    save_state,
)
from parrot_jax.train.step import StepMetrics
from parrot_jax.train.trackers import Trackers, open_trackers
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.train.train_state import TrainState
from parrot_jax.train.watchdog import Watchdog
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.fingerprints import weights_hash
from parrot_jax.weights.model_folder import made_of

_SAMPLE_TOKENS = 64
_FLUSH_EVERY_S = 60.0


def train(
    config: TrainConfig,
    *,
    objective: Objective | None = None,
    allow_changes: Sequence[str] = (),
) -> None:
    """Starts or resumes the run in `config.out`.

    Args:
      config: The run.
      objective: The training loss; None = that of the config.
      allow_changes: Allowed differences from the resumed run; see `RunFolder.open`.

    Raises:
      UserError: The data, the sizes or the run folder do not fit the config.
      RunError: Loss or gradient norm is not finite; the message names the saved batch.

    >>> import dataclasses
    >>> from parrot_jax import small_example
    >>> config = dataclasses.replace(small_example(getfixture("tmp_path")), max_steps=0)
    >>> train(config)  # doctest: +ELLIPSIS
    139,584 parameters; 300 sessions in 260 rows of 256 tokens, ...
    >>> Path(config.out, "checkpoints", "0").is_dir()
    True
    """
    check_config(config, TrainConfig)
    if objective is not None:
        check_objective(objective)
    if isinstance(allow_changes, str):
        raise UserError(f"allow_changes is {allow_changes!r}; give a list of keys.")
    folder = RunFolder(config.out)
    in_first_process(folder.check_writable, f"write to {folder.path}")
    setup = set_up(config, is_new=not folder.has_checkpoint(), objective=objective)
    data = describe_data(config.data, setup.prepared, setup.held_out)
    with (
        folder.open(config, setup.template, data, allow_changes=allow_changes),
        disk_full_is_a_user_error(f"the run in {config.out}"),
    ):
        _Run(config, folder, setup).run()


class _InFlight(NamedTuple):
    """A step that the devices are computing."""

    step: int
    learning_rate: float
    metrics: StepMetrics
    started: float


class _Run:
    """The part of a run in one process."""

    def __init__(self, config: TrainConfig, folder: RunFolder, setup: Setup) -> None:
        self.config, self.folder, self.setup = config, folder, setup
        self.steps, self.program = setup.steps, setup.program
        self.histories = (
            []
            if setup.held_out is None
            else setup.held_out.histories(
                config.task,
                max_prompt_tokens=config.model.max_position_embeddings - _SAMPLE_TOKENS,
            )
        )
        self.writes = is_first_process()
        self.checkpoints = Checkpoints(
            folder.checkpoints,
            keep=config.keep_checkpoints,
            made_of=made_of(config.model, setup.template.tokenizer.fingerprint),
        )
        setup.print_summary(config)

    trackers: Trackers
    """In the first process only."""
    watchdog: Watchdog
    sigterm: Preemption
    held_out_pairs: PairRows | None = None
    """The evaluation split of preference training, with its reference."""
    in_flight: _InFlight | None = None
    """The step that is not reported yet."""
    last_end: float = 0.0
    """When the previous step ended."""
    saved_step: int | None = None
    eval_s: float | None = None
    """Seconds of the last evaluation, including samples."""

    def run(self) -> None:
        path = self.folder.path
        here = path if isinstance(path, Path) else Path(self.config.data.cache_dir)
        report = here / f"stacks-{jax.process_index()}.txt"
        with (
            preemption() as self.sigterm,
            Watchdog(self.config.step_timeout_s, report) as self.watchdog,
            progress_bar("steps") as progress,
            contextlib.ExitStack() as held,
        ):
            state = self._start()
            first = int(state.step)
            self.pace = Pace(self.steps.stop_step)
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
            # Before the first step, or when the previous process was stopped before its evaluation.
            if first in self.steps.eval_steps and not self._result(first).exists():
                self._evaluate(state, first)
            if first == 0 and self.steps.stop_step == 0:
                self._save(state, 0)
            bar = progress.add_task("train", total=self.steps.stop_step, completed=first)
            for step in range(first, self.steps.stop_step):
                done = step + 1
                is_measured = done in self.steps.eval_steps
                is_saved = (
                    done % self.config.checkpoint_every_steps == 0 or done == self.steps.stop_step
                )
                with profiler.step(done):
                    state = self._step(state, step)
                    if is_measured or is_saved or done in self.config.profile_steps:
                        self._report()
                progress.update(bar, completed=done)
                if is_measured:
                    self._evaluate(state, done)
                    self.watchdog.reset()
                # After the evaluation, so that a run resumed from here already has its results.
                if is_saved:
                    self._save(state, done)
            self.checkpoints.close()
        steps = max(first, self.steps.stop_step)
        console.print(f"done: {steps} steps in {self.folder.path}")

    def _stop_at_signal(self, state: TrainState, done: int) -> None:
        """Saves at once: SIGKILL follows soon."""
        self._report()
        if self.saved_step != done:
            self._save(state, done)
        self.checkpoints.close()
        raise PreemptedError(
            f"stopped by SIGTERM: step {done} is saved in {self.folder.path}; run the same "
            "command again to resume."
        )

    def _result(self, step: int) -> AnyPath:
        return self.folder.results / f"eval-{step:06d}.json"

    def _start(self) -> TrainState:
        """Restores the newest checkpoint or makes new weights; drops later metrics."""
        config, like = self.config, self.program.state
        # Of adapters, the reference is the model without them.
        frozen = load_base(config, self.folder, like, self.checkpoints)
        if config.trains_pairs and self.checkpoints.latest_step() is not None:
            # Before the state is restored, since there is memory for one model only.
            self._use_reference(frozen or initial_params(config, like), is_new=False)
        found = restore_newest(self.checkpoints, like)
        step = 0
        if found is None:
            state = new_state(config, self.program.optimizer, like, frozen)
            if config.trains_pairs:
                self._use_reference(frozen or state.params, is_new=True)
        else:
            step, state = found
            state = state._replace(frozen=frozen)
            console.print(f"resuming {self.folder.path} at step {step}")
        if self.writes:
            self.folder.metrics.keep_through(step)
            self.folder.samples.keep_through(step)
        return state

    def _use_reference(self, params: Any, *, is_new: bool) -> None:
        """Gives the rows the log-probabilities of their answers under the initial weights."""
        known = weights_hash(params)
        in_first_process(
            lambda: self.folder.keep_reference(known, is_new=is_new), f"use {self.folder.path}"
        )
        paces: dict[str, Pace] = {}

        def advance(split: str, done: int, rows: int) -> None:
            self.watchdog.reset()
            paces.setdefault(split, Pace(rows)).line(
                f"reference of the {split} split", done, "rows"
            )

        cache = Path(self.config.data.cache_dir)
        train, self.held_out_pairs = load_reference(self.setup, params, cache, advance=advance)
        self.setup = self.setup.with_rows(train, self.config.seed)

    def _step(self, state: TrainState, step: int) -> TrainState:
        """Starts a step and reports the previous one."""
        batch, rate = self.setup.batch(step), self.setup.learning_rate(step)
        # With several processes, each waits here for the previous step.
        if any_process(self.sigterm.asked):
            self._stop_at_signal(state, step)
        started = time.perf_counter()
        with too_large_is_a_user_error():
            state, metrics = self.program.step(state, batch, rate)
        self.sigterm.catch()  # from now on there is something to save
        self._report()
        self.in_flight = _InFlight(step, rate, metrics, started)
        return state

    def _report(self) -> None:
        """Waits for the step in flight, if any, and logs its metrics.

        Raises:
          RunError: Its loss or norm is not finite. It changed no weights, and a step started after
            it is discarded.
        """
        if self.in_flight is None:
            return
        step, rate, metrics, started = self.in_flight
        self.in_flight = None
        with too_large_is_a_user_error():
            metrics = jax.device_get(metrics)
        if not metrics.finite:
            self._stop_at_bad_batch(step, metrics)
        ended = time.perf_counter()
        seconds = ended - max(started, self.last_end)
        self.last_end = ended
        self.watchdog.reset()
        tokens, live = int(metrics.tokens), int(metrics.live_tokens)
        values = {
            "step": step + 1,
            "epoch": (step + 1) / self.steps.steps_per_epoch,
            "loss": float(metrics.loss),
            "grad_norm": float(metrics.grad_norm),
            "lr": rate,
            "tokens": tokens,
            "live_tokens": live,
            "step_s": seconds,
        }
        # An extra without weight in this step has no value.
        extras = {name: float(value) for name, value in metrics.extras.items()}
        values |= {name: value for name, value in extras.items() if not math.isnan(value)}
        if self.config.trains_pairs and step == 0:
            check_first_step(values, self.config)
        mfu = self.setup.mfu(seconds)
        if mfu is not None:
            values["mfu"] = mfu
        if self.writes:
            self.folder.metrics.append(**values)
            self.trackers.log(step + 1, {k: v for k, v in values.items() if k != "step"})
            self.folder.flush(every_s=_FLUSH_EVERY_S)
        left = self.pace.left(step + 1)
        if (step + 1) % self.config.log_every_steps == 0 or step + 1 == self.steps.stop_step:
            console.print(
                f"step {step + 1}/{self.steps.num_steps}  epoch {values['epoch']:.2f}  "
                f"loss {values['loss']:.4f}  {_pairs(values)}norm {values['grad_norm']:.2f}  "
                f"lr {values['lr']:.2e}  {seconds * 1e3:.0f} ms  "
                f"{tokens / seconds:,.0f} tok/s  {live / seconds:,.0f} live tok/s"
                + (f"  MFU {mfu:.1%}" if mfu is not None else "")
                + (f"  {left}" if left and step + 1 < self.steps.stop_step else "")
            )

    def _stop_at_bad_batch(self, step: int, metrics: StepMetrics) -> None:
        path = self.folder.path / f"bad-batch-{step + 1:06d}.npz"
        if self.writes:
            with atomic_write(path, "wb") as file:
                np.savez(file, allow_pickle=False, **self.setup.batches[step])
        self.folder.flush()
        self.checkpoints.close()
        raise RunError(
            f"step {step + 1}: loss {float(metrics.loss)}, gradient norm "
            f"{float(metrics.grad_norm)}{_named(metrics.extras)} must be finite; the weights are "
            f"unchanged and the batch is in {path}. Lower optim.lr, or check that batch and the "
            "objective."
        )

    def _save(self, state: TrainState, step: int) -> None:
        self.folder.flush()
        if self.writes:
            self.trackers.flush()
        save_state(self.checkpoints, step, state)
        self.saved_step = step

    def _evaluate(self, state: TrainState, step: int) -> None:
        if self.setup.held_out is None:
            return
        rows = len(self.setup.held_out.rows())
        console.print(
            f"eval at step {step}: {rows:,} rows and {len(self.histories)} samples"
            + (f", about {duration(self.eval_s)}" if self.eval_s is not None else "")
        )
        pace = Pace(rows)

        def advance(done: int) -> None:
            self.watchdog.reset()
            # A collective: all processes must call it equally often.
            if any_process(self.sigterm.asked):
                self._stop_at_signal(state, step)
            pace.line("eval", done, "rows")

        started = time.perf_counter()
        records, summary, line = self._measure(state.params, advance)
        if self.writes:
            write_array(self.folder.results / f"eval-{step:06d}.npy", records)
            # Written last: for a resumed run, this file marks the evaluation as complete.
            write_json(self._result(step), {"step": step, **summary})
        console.print(f"eval at step {step}: {line} ({time.perf_counter() - started:.1f} s)")
        self._sample(state, step)
        self.eval_s = time.perf_counter() - started

    def _measure(
        self, params: Any, advance: Callable[[int], None]
    ) -> tuple[NDArray[Any], dict[str, Any], str]:
        """Records of the held-out turns or pairs, their summary, and a line of it."""
        if self.held_out_pairs is not None:
            return evaluate_pairs(
                self.setup, self.config.preference, params, self.held_out_pairs, advance
            )
        assert self.setup.held_out is not None
        turns = perplexity.evaluate(
            perplexity.compile_token_nll(self.program.forward, self.program.rows_sharding),
            params,
            self.setup.held_out,
            batch_rows=self.program.micro_shape[1],
            sharding=self.program.rows_sharding,
            advance=advance,
        )
        summary = perplexity.summarise(turns)
        line = (
            f"user turns 2..T {_ppl(summary['user_ppl'])}, assistant turns "
            f"{_ppl(summary['assistant_ppl'])} perplexity"
        )
        return turns, summary, line

    def _sample(self, state: TrainState, step: int) -> None:
        """Replies of the model to five fixed held-out histories."""
        config = self.config
        replies = sample_next_turns(
            config.model,
            scaled(state.params, config.lora),
            self.setup.template,
            [history.prompt for history in self.histories],
            max_new_tokens=_SAMPLE_TOKENS,
            seed=config.seed,
            compute_dtype=self.program.forward.compute_dtype,
            mesh=self.program.mesh,
        )
        for history, reply in zip(self.histories, replies, strict=True):
            if self.writes:
                self.folder.samples.append(
                    step=step, dialogue=history.dialogue_id, truth=history.truth, **reply._asdict()
                )
            id = visible(history.dialogue_id)
            console.print(f"  {id}: {reply.text!r} [{reply.finish_reason}]")


def _named(extras: Mapping[str, Any]) -> str:
    return "".join(f", {name} {float(value)}" for name, value in extras.items())


def _pairs(values: Mapping[str, float]) -> str:
    if "rewards/margins" not in values:
        return ""
    return f"margin {values['rewards/margins']:.3f}  accuracy {values['rewards/accuracies']:.0%}  "


def _ppl(value: float | None) -> str:
    return "no tokens" if value is None else f"{value:.2f}"
