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
    """Traces the chosen steps and nothing else; neighbours share one trace.

    A trace begins with the first of neighbouring steps and is written when the last has ended, to
    `profile/step-000123`, 123 being the first of them. Every host of a run traces itself, into
    files of its own. A traced step must be waited for inside `step`, or its work on the device
    falls out of the trace; the first step is mostly compilation.
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
        """Runs the block as step `step`, traced where it was chosen.

        A block that raises ends the trace, so that it shows the way to the error.

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
        """Ends a trace that goes on because the run stopped before its last chosen step."""
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
        console.print(f"trace in {folder}; `tensorboard --logdir` or ui.perfetto.dev shows it")
