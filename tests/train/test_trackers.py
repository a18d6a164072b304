"""Trackers: the values read back from their files, also after a kill and a resume."""

import builtins
import struct
from pathlib import Path
from typing import Any

import fsspec
import pytest

from parrot_jax.core.errors import DiskFullError, UserError
from parrot_jax.core.remote import RemotePath
from parrot_jax.train import trackers
from parrot_jax.train.trackers import TrackerName, open_trackers

CONFIG = {"optim": {"lr": 0.1}, "sources": ["a.jsonl"]}


def start(
    name: TrackerName, folder: Path | RemotePath, *, first_step: int = 1
) -> trackers.Trackers:
    return open_trackers([name], folder=folder, config=CONFIG, first_step=first_step)


def read_events(data: bytes) -> list[Any]:
    """The events of a file, each stored as length, checksum, event, checksum."""
    from tensorboardX.proto import event_pb2

    messages: Any = event_pb2
    events = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(messages.Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def shown(files: list[bytes]) -> dict[str, list[tuple[int, float]]]:
    """The curves as TensorBoard shows them: a start drops earlier values from its step on."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for data in files:
        for event in read_events(data):
            if event.HasField("session_log"):
                for name, curve in curves.items():
                    curves[name] = [point for point in curve if point[0] < event.step]
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def files_by_age(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.iterdir(), key=lambda f: f.stat().st_mtime)]


def test_no_tracker_does_nothing(tmp_path: Path) -> None:
    none = open_trackers([], folder=tmp_path, config=CONFIG, first_step=1)
    none.log(1, {"loss": 1.0})
    none.flush()
    none.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_a_killed_and_continued_run_as_one(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="it is in the trackers extra")
    killed = start("tensorboard", tmp_path)
    for step in (1, 2, 3):
        killed.log(step, {"loss": 10.0 - step, "lr": 0.5})
    killed.flush()  # not closed: the run was killed after step 3, with its last checkpoint at 1
    continued = start("tensorboard", tmp_path, first_step=2)
    for step in (2, 3, 4):
        continued.log(step, {"loss": 10.0 - step})
    continued.close()
    continued.close()
    assert shown(files_by_age(tmp_path / "tensorboard")) == {
        "loss": [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)],
        "lr": [(1, 0.5)],
    }
    killed.close()


def test_values_are_written_now_and_then_without_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboardX", reason="it is in the trackers extra")
    tracker = start("tensorboard", tmp_path)
    tracker.log(1, {"loss": 1.0})
    assert shown(files_by_age(tmp_path / "tensorboard")) == {}
    monkeypatch.setattr(trackers, "_FLUSH_EVERY_S", 0.0)
    tracker.log(2, {"loss": 2.0})
    assert shown(files_by_age(tmp_path / "tensorboard")) == {"loss": [(1, 1.0), (2, 2.0)]}
    tracker.close()


def test_tensorboard_in_a_bucket(bucket: str) -> None:
    pytest.importorskip("tensorboardX", reason="it is in the trackers extra")
    tracker = start("tensorboard", RemotePath(f"{bucket}/run"))
    tracker.log(1, {"loss": 1.0})
    tracker.flush()
    tracker.log(2, {"loss": 2.0})
    tracker.close()
    store = fsspec.filesystem("gs", use_listings_cache=False)
    (name,) = store.ls(f"{bucket}/run/tensorboard", detail=False)
    assert shown([store.cat_file(name)]) == {"loss": [(1, 1.0), (2, 2.0)]}


def test_a_full_disk_is_one_clear_error_and_no_hang(small_disk: Path) -> None:
    pytest.importorskip("tensorboardX", reason="it is in the trackers extra")
    tracker = start("tensorboard", small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(250_000))

    def fill() -> None:
        for step in range(10_000):
            tracker.log(step, {"loss": 1.0})

    with pytest.raises(DiskFullError, match="no room left on the disk for TensorBoard's events"):
        fill()
    ballast.unlink()
    tracker.close()


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_library_is_an_error_that_names_the_extra(
    name: TrackerName, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    expected = rf"{name} needs {module}, .* `pip install 'parrot-jax\[trackers\]'`"
    with pytest.raises(UserError, match=expected):
        start(name, tmp_path)


@pytest.fixture
def wandb_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="it is in the trackers extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)


@pytest.mark.usefixtures("wandb_offline")
@pytest.mark.slow
def test_wandb_continues_the_run_of_the_folder_and_keeps_the_key_to_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my-run"
    folder.mkdir()
    for first_step in (1, 2):
        tracker = start("wandb", folder, first_step=first_step)
        tracker.log(first_step, {"loss": 1.5})
        tracker.log(first_step, {"eval_loss": 2.5})  # evaluated after the same step
        tracker.close()
    run_id = (folder / "wandb_id").read_text().strip()
    written = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert [file.name for file in written] == [f"run-{run_id}.wandb"] * 2
    texts = [file.read_bytes() for file in written]
    assert all(b"parrot_jax" in text and b"my-run" in text for text in texts)
    assert all(b"eval_loss" in text and b"a.jsonl" in text for text in texts)
    everything = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    assert not any(b"0123456789" * 4 in text for text in everything)
    output = capfd.readouterr()
    assert "0123456789" not in output.out + output.err


@pytest.mark.usefixtures("wandb_offline")
def test_wandb_is_not_told_of_a_step_that_it_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    logged: list[int] = []

    class Run:
        url = None
        step = 7  # the step that the server reports to a resumed run

        def log(self, values: dict[str, float], step: int) -> None:
            logged.append(step)

        def finish(self) -> None: ...

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    tracker = start("wandb", tmp_path, first_step=5)
    for step in range(5, 10):
        tracker.log(step, {"loss": 1.0})
    tracker.close()
    assert logged == [7, 8, 9]


@pytest.mark.usefixtures("wandb_offline")
def test_wandb_without_a_key_says_what_to_do_and_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(UserError, match="set WANDB_API_KEY in the environment, or WANDB_MODE="):
        start("wandb", tmp_path)


@pytest.mark.usefixtures("wandb_offline")
def test_wandbs_own_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb.errors

    def refuse(**_: Any) -> None:
        raise wandb.errors.AuthenticationError("the key\nis not known")

    monkeypatch.setattr("wandb.init", refuse)
    with pytest.raises(UserError, match="wandb does not start: the key is not known; check"):
        start("wandb", tmp_path)
