"""Damaged checkpoints are detected on read and reported in one line; training falls back."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from parrot_jax.cli import main
from parrot_jax.core.config import load_config
from parrot_jax.core.errors import UserError
from parrot_jax.core.remote import RemotePath
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import MeshConfig, make_mesh
from parrot_jax.train.loop import train
from parrot_jax.train.optim import adamw
from parrot_jax.train.state import abstract_state, restore_newest, restore_state, save_state
from parrot_jax.train.train_config import OptimConfig, TrainConfig
from parrot_jax.train.train_state import TrainState
from parrot_jax.weights.checkpoints import Checkpoints, DamagedCheckpointError
from parrot_jax.weights.model_folder import load_params

SIZES = ModelConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=32,
)
OPTIMIZER = adamw(OptimConfig())
# On one device: arrays below 1 kB are stored inside the chunk tables, of which there are copies.
LIKE = abstract_state(SIZES, OPTIMIZER, make_mesh(MeshConfig(fsdp=1), jax.devices()[:1]))


def state(seed: int) -> TrainState:
    rng = np.random.default_rng(seed)

    def array(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.standard_normal(leaf.shape).astype(leaf.dtype)
        return jax.device_put(values, leaf.sharding)

    return jax.tree.map(array, LIKE)


def same_bits(a: TrainState, b: TrainState) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def flip(path: Path) -> None:
    """Flips one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00{" * (path.stat().st_size // 3 + 1))


SLOW = pytest.mark.slow
DAMAGES = (flip, *(pytest.param(other, marks=SLOW) for other in (cut, garbage, Path.unlink)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of `state(1)`."""
    folder = tmp_path_factory.mktemp("whole")
    checkpoints = Checkpoints(folder)
    save_state(checkpoints, 3, state(1))
    checkpoints.close()
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_read_is_what_was_written_or_an_error(
    damage: Callable[[Path], None], whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved = state(1)
    contents = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    found: dict[Path, str] = {}
    for file, content in contents.items():
        damage(file)
        try:
            restored = restore_state(Checkpoints(whole, read_only=True), 3, LIKE)
        except DamagedCheckpointError as error:
            found[file] = str(error)
        else:
            assert same_bits(restored, saved), file
        finally:
            file.write_bytes(content)
    for line in found.values():
        assert line.startswith(f"checkpoint {whole}/3 is damaged: ")
        assert "\n" not in line
        assert len(line) < 700
    # The other files are unused copies, whose number depends on the timing of threads.
    assert sum(len(contents[file]) for file in found) > 0.75 * sum(map(len, contents.values()))
    assert "Traceback" not in capfd.readouterr().err


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (3, 6):
        save_state(checkpoints, step, state(step))
    checkpoints.close()
    largest = max((tmp_path / "6" / "params").rglob("*"), key=lambda path: path.stat().st_size)
    flip(largest)
    said = (
        rf"checkpoint {tmp_path}/6 is damaged: DATA_LOSS: Error reading \S+ .*{tmp_path}/6/params.*"
        rf"The newest other checkpoint is 3: `parrot train` resumes .* move {tmp_path}/6 away first"
    )
    with pytest.raises(DamagedCheckpointError, match=said):
        restore_state(Checkpoints(tmp_path, read_only=True), 6, LIKE)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    with pytest.raises(DamagedCheckpointError, match=said):
        _ = [checkpoints.read(6, name) for name in checkpoints.stored(6)]


def test_what_fails_beside_a_read_is_no_damage(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An intact checkpoint: the process has no file handles left, gets a warning or has a bug."""
    checkpoints = Checkpoints(whole, read_only=True)
    handler = ocp.PyTreeCheckpointHandler
    for error, raised, message in (
        (OSError(errno.EMFILE, "Too many open files"), UserError, "cannot read a checkpoint: "),
        (PermissionError(errno.EACCES, "Permission denied"), UserError, "check permissions"),
        (ValueError("RESOURCE_EXHAUSTED: Error opening x"), UserError, "cannot read a checkpoint"),
        (UserWarning("Error reading the compile cache"), UserWarning, "the compile cache"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(handler, "restore", Mock(side_effect=error))
            with pytest.raises(raised, match=message) as caught:
                restore_state(checkpoints, 3, LIKE)
        assert not isinstance(caught.value, DamagedCheckpointError)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "block_until_ready", Mock(side_effect=TypeError("a bug of ours")))
        with pytest.raises(TypeError, match="a bug of ours"):
            restore_state(checkpoints, 3, LIKE)
    # The checkpoint is not marked as damaged.
    assert checkpoints.latest_step() == 3
    assert same_bits(restore_state(checkpoints, 3, LIKE), state(1))


def test_the_newest_that_is_whole_is_gone_back_to_and_the_damaged_one_is_replaced(
    tmp_path: Path,
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (3, 6):
        save_state(checkpoints, step, state(step))
    checkpoints.close()
    shutil.rmtree(tmp_path / "6" / "params")
    checkpoints = Checkpoints(tmp_path, keep=2)
    found = restore_newest(checkpoints, LIKE)
    assert found is not None
    assert (found[0], same_bits(found[1], state(3))) == (3, True)
    assert (tmp_path / "6").exists(), "nothing is deleted by reading"
    save_state(checkpoints, 5, state(5))
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "5"]


def test_a_checkpoint_that_is_damaged_in_a_bucket_is_gone_back_from(bucket: str) -> None:
    import fsspec

    folder = RemotePath(f"{bucket}/checkpoints")
    checkpoints = Checkpoints(folder, keep=2)
    for step in (3, 6):
        save_state(checkpoints, step, state(step))
    checkpoints.close()
    store = fsspec.filesystem("gs", use_listings_cache=False)
    for path in store.find(f"{folder}/6/params"):
        if "/d/" in path:
            content = bytearray(store.cat_file(path))
            content[len(content) // 2] ^= 1
            store.pipe_file(path, bytes(content))
    found = restore_newest(Checkpoints(folder, keep=2), LIKE)
    assert found is not None
    assert (found[0], same_bits(found[1], state(3))) == (3, True)


@pytest.mark.slow
def test_a_run_with_a_damaged_checkpoint_ends_with_the_same_bits(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(TrainConfig, tiny_run)
    train(config)
    expected, metrics = load_params(config.out), Path(config.out, "metrics.jsonl").read_text()
    folder = Path(config.out, "checkpoints")
    assert sorted(path.name for path in folder.iterdir()) == ["6", "7"]
    for file in (folder / "7" / "params").rglob("d/*"):
        flip(file)
    # Commands that only read name the checkpoint to use instead.
    assert main(["convert", "flax-to-hf", config.out, str(tiny_run.parent / "hf")]) == 2
    line = capsys.readouterr().err
    assert f"checkpoint {folder}/7 is damaged" in line
    assert "The newest other checkpoint is 6" in line

    assert main(["train", str(tiny_run)]) == 0
    said = capsys.readouterr().out
    assert f"checkpoint {folder}/7 is damaged" in said
    assert f"resuming {config.out} at step 6" in said
    for x, y in zip(*map(jax.tree.leaves, (expected, load_params(config.out))), strict=True):
        np.testing.assert_array_equal(x, y)
    steps = [json.loads(line)["step"] for line in metrics.splitlines()]
    again = Path(config.out, "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in again] == steps == list(range(1, 8))


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again_by_itself(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(tiny_run), "--max-steps", "3"]) == 0
    folder = tiny_run.parent / "run" / "checkpoints"
    for file in (folder / "3").rglob("_METADATA"):
        file.write_text("{")
    capsys.readouterr()
    assert main(["train", str(tiny_run)]) == 2
    assert "There is no other checkpoint: restore its folder from a copy, or delete it" in (
        capsys.readouterr().err
    )


def test_a_checkpoint_of_an_earlier_version_is_read_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = {"embed": jnp.ones((4, 2))}
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=ocp.args.Composite(params=ocp.args.StandardSave(arrays)))
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert checkpoints.stored(3)["embed"].shape == (4, 2)
    assert checkpoints.read(3, "embed").tolist() == [[1, 1]] * 4
    assert "was saved without checksums" in capsys.readouterr().err
