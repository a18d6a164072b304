"""Logs a run to TensorBoard and Weights & Biases, in addition to metrics.jsonl.

A resumed run repeats the steps after its last checkpoint. Each still appears once: TensorBoard
drops the earlier values, and a step that W&B already has is not sent again. One process of a run
opens the trackers.
"""

import contextlib
import importlib.util
import os
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.files import atomic_write
from parrot_jax.core.logs import console
from parrot_jax.core.paths import AnyPath
from parrot_jax.core.remote import RemotePath

TrackerName = Literal["tensorboard", "wandb"]

_MODULES: dict[TrackerName, str] = {"tensorboard": "tensorboardX", "wandb": "wandb"}
_FLUSH_EVERY_S = 30.0
_PROJECT = "parrot_jax"


class Trackers:
    """The configured trackers; each call goes to all of them."""

    def __init__(
        self, trackers: Sequence["_TensorBoard | _Wandb"], held: contextlib.ExitStack
    ) -> None:
        """Takes open trackers, and the stack that closes them."""
        self._trackers, self._held = trackers, held
        self._last_flush = time.monotonic()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the values of a step; steps come in order, and one may come twice.

        Raises:
          DiskFullError: There is no room.
          UserError: The bucket cannot be written.
        """
        for tracker in self._trackers:
            tracker.log(step, values)
        if time.monotonic() - self._last_flush >= _FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Writes buffered values. Call it before a checkpoint, as for the metrics.

        Raises:
          DiskFullError: There is no room.
          UserError: The bucket cannot be written.
        """
        for tracker in self._trackers:
            tracker.flush()
        self._last_flush = time.monotonic()

    def close(self) -> None:
        """Writes buffered values and closes all trackers; a second call does nothing.

        Raises:
          DiskFullError: There is no room.
          UserError: The bucket cannot be written.
        """
        self._trackers = ()
        self._held.close()


def open_trackers(
    names: Sequence[TrackerName], *, folder: AnyPath, config: dict[str, Any], first_step: int
) -> Trackers:
    """Starts or resumes the trackers of a run.

    Args:
      names: The trackers; may be empty.
      folder: The run folder, on a disk or in a bucket. TensorBoard's events go to `tensorboard` in
        it; W&B finds its run again by the `wandb_id` in it.
      config: The config of the run as JSON values, for W&B.
      first_step: The first step to be logged, e.g. 101 if a run resumes from the checkpoint of
        step 100. Values logged earlier for this and later steps are replaced.

    Raises:
      UserError: A library is not installed, or W&B does not start with the `WANDB_API_KEY` of the
        environment.
      DiskFullError: There is no room.
    """
    for name in names:
        if importlib.util.find_spec(_MODULES[name]) is None:
            raise UserError(
                f"the tracker {name} needs {_MODULES[name]}, which is not installed: "
                "`pip install 'parrot-jax[trackers]'`, or remove it from the config."
            )
    with contextlib.ExitStack() as opened:
        trackers: list[_TensorBoard | _Wandb] = []
        for name in dict.fromkeys(names):
            if isinstance(folder, Path):
                local = folder
            else:
                local = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="parrot-")))
            with disk_full_is_a_user_error(f"the tracker {name} in {folder}"):
                if name == "tensorboard":
                    tracker = _TensorBoard(folder / "tensorboard", local, first_step)
                else:
                    tracker = _Wandb(folder, local, config)
            opened.callback(tracker.close)
            trackers.append(tracker)
        return Trackers(trackers, opened.pop_all())


class _TensorBoard:
    """One event file per start.

    Does not use `SummaryWriter`: it passes events to a thread, and hangs once a full disk
    has ended that thread.
    """

    def __init__(self, folder: AnyPath, local: Path, first_step: int) -> None:
        """Writes to `local / "tensorboard"`; `flush` uploads it to `folder` in a bucket."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        # protobuf creates these classes at import.
        messages: Any = event_pb2
        self._folder, self._event, self._scalar = folder, messages.Event, scalar
        self._local = local / "tensorboard"
        self._local.mkdir(parents=True, exist_ok=True)
        # The name has the time in seconds, so two starts in the same second would share it.
        self._writer = EventsWriter(str(self._local / "events"), f".{uuid.uuid4().hex[:8]}")
        # TensorBoard drops earlier values of this and later steps.
        started = messages.SessionLog(status=messages.SessionLog.START)
        self._write(self._event(step=first_step, wall_time=time.time(), session_log=started))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = time.time()
        for name, value in values.items():
            self._write(self._event(step=step, wall_time=now, summary=self._scalar(name, value)))

    def flush(self) -> None:
        with self._room():
            self._writer.flush()
        if isinstance(self._folder, RemotePath):
            for file in self._local.iterdir():
                (self._folder / file.name).put(file)

    def close(self) -> None:
        self.flush()
        self._writer.close()

    def _write(self, event: Any) -> None:
        with self._room():
            self._writer.write_event(event)

    def _room(self) -> contextlib.AbstractContextManager[None]:
        return disk_full_is_a_user_error(f"TensorBoard's events in {self._folder}")


class _Wandb:
    """One run at W&B, found again by the id in the run folder."""

    def __init__(self, folder: AnyPath, local: Path, config: dict[str, Any]) -> None:
        """Connects to W&B, or writes to `local / "wandb"` if `WANDB_MODE` is `offline`."""
        import wandb
        import wandb.errors

        mode = os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not os.environ.get("WANDB_API_KEY"):
            raise UserError(
                "the tracker wandb needs a key: set WANDB_API_KEY in the environment, or "
                "WANDB_MODE=offline to write to the run folder and `wandb sync` it later."
            )
        id_path = folder / "wandb_id"
        if not id_path.exists():
            with atomic_write(id_path) as file:
                file.write(uuid.uuid4().hex[:8] + "\n")
        local.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project=_PROJECT,
                name=folder.name,
                id=id_path.read_text().strip(),
                resume="allow",
                dir=local,
                config=config,
                allow_val_change=True,
                # W&B repeats our own output, and a git remote's address may contain a password.
                settings=wandb.Settings(console="off", silent=True, disable_git=True),
            )
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"wandb does not start: {reason}; check WANDB_API_KEY and the network, or set "
                "WANDB_MODE=offline."
            ) from error
        if self._run.url:
            console.print(f"wandb: {self._run.url}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        # W&B rejects earlier steps. Values of later ones are right: a rerun repeats them exactly.
        if step >= self._run.step:
            self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """Does nothing: W&B's own process already has the values."""

    def close(self) -> None:
        self._run.finish()
