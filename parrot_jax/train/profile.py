"""Traces of chosen steps: what each device and thread did, for TensorBoard, XProf or Perfetto."""

import contextlib
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import jax

from parrot_jax.core.errors import disk_full_is_a_user_error
from parrot_jax.core.logs import console
from parrot_jax.core.paths import AnyPath


class Profiler:
    """Traces the chosen steps only; consecutive steps share one trace.

    A trace starts with the first of consecutive steps and is written after the last one, to
    `profile/step-000123`, where 123 is the first. Every host writes its own files. Wait for a
    traced step inside `step`, or its device work is missing from the trace. The first step is
    mostly compilation.
    """

    def __init__(self, folder: AnyPath, steps: Collection[int]) -> None:
        """Chooses steps.

        Args:
          folder: The run folder, on a disk or in a bucket.
          steps: Numbers as given to `step`; empty = no trace.
        """
        self._folder, self._steps = folder / "profile", frozenset(steps)
        self._trace: contextlib.ExitStack | None = None

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Runs the block as step `step`, traced if it was chosen.

        If the block raises, the trace is written up to the error.

        Raises:
          DiskFullError: There is no room for the trace.
          UserError: The bucket cannot be written.
        """
        if step not in self._steps:
            yield
            return
        if self._trace is None:
            self._trace = contextlib.ExitStack()
            self._trace.enter_context(_trace(self._folder / f"step-{step:06d}"))
        try:
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                yield
        except BaseException:
            self.close()
            raise
        if step + 1 not in self._steps:
            self.close()

    def close(self) -> None:
        """Ends a running trace, if the run stopped before the last chosen step."""
        if self._trace is not None:
            trace, self._trace = self._trace, None
            trace.close()


@contextlib.contextmanager
def _trace(folder: AnyPath) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        if isinstance(folder, Path):
            local = folder
        else:
            local = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="parrot-")))
        jax.profiler.start_trace(local)
        try:
            yield
        finally:
            with disk_full_is_a_user_error(f"the trace in {folder}"):
                jax.profiler.stop_trace()
        if not isinstance(folder, Path):
            for file in local.rglob("*"):
                if file.is_file():
                    target = folder
                    for part in file.relative_to(local).parts:
                        target = target / part
                    target.put(file)
        console.print(f"trace in {folder}; view it with `tensorboard --logdir` or ui.perfetto.dev")
