"""Runs with adapters: what is saved, how the base is found again, and what is used of both."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from parrot_jax.cli import main
from parrot_jax.core.config import load_config
from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import MaskConfig
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.loaded_run import load_run
from parrot_jax.model.lora import LORA
from parrot_jax.model.lora_config import LoraConfig, num_adapter_parameters, targets_of
from parrot_jax.train.loop import train
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.weights.adapters import recorded
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.fingerprints import HashInParts, weights_hash
from parrot_jax.weights.model_folder import ModelFolder, load_params
from parrot_jax.weights.names import tensors

ADAPTERS = LoraConfig(rank=4, alpha=8, base_dtype="float32")


@pytest.fixture
def config(tiny_run: Path, trained_run: Path) -> TrainConfig:
    """A run of two steps with adapters of the session's trained run."""
    return replace(
        load_config(TrainConfig, tiny_run), init_from=str(trained_run), lora=ADAPTERS, max_steps=2
    )


def evals(run: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(Path(run).glob("results/*.json"))]


def adapters_of(run: str) -> dict[str, np.ndarray]:
    """All arrays of the newest checkpoint by name."""
    checkpoints, step = ModelFolder(run).open_checkpoint()
    return {name: checkpoints.read(step, name) for name in checkpoints.stored(step)}


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.slow
def test_a_run_saves_its_adapters_only_and_is_used_merged(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    trained = num_adapter_parameters(config.model, ADAPTERS)
    # A layer: q 32 + 32, k and v 32 + 16, o 32 + 32; gate and up 32 + 64, down 64 + 32.
    assert trained == 2 * 4 * (64 + 48 + 48 + 64 + 96 + 96 + 96)
    assert f"{trained:,} of them trained (" in capsys.readouterr().out
    stored = adapters_of(config.out)
    assert sum(array.size for array in stored.values()) == trained
    assert stored["lora.layers.01.attention.o.a"].shape == (4, 8, 4)
    assert all(name.startswith("lora.layers.") for name in stored)
    step = Path(config.out, "checkpoints", "2")
    base = Path(str(config.init_from), "checkpoints")
    newest = base / str(ModelFolder(str(config.init_from)).latest_step())
    assert size_of(step / "params") < size_of(newest / "params") / 2
    # Merged, by hand: W + 8 / 4 A B.
    params, before = load_params(config.out), load_params(str(config.init_from))
    np.testing.assert_array_equal(params["embed"], before["embed"])
    for target in targets_of(config.model, ADAPTERS):
        kind, name = target.path
        a, b = (stored[f"lora.layers.01.{kind}.{name}.{part}"] for part in "ab")
        ab = a.reshape(-1, 4) @ b.reshape(4, -1)
        weight = before["layers"][kind][name][1]
        merged = weight + 2 * ab.reshape(weight.shape)
        np.testing.assert_allclose(params["layers"][kind][name][1], merged, atol=1e-6)
        assert np.abs(ab).max() > 1e-4
    (reply,) = load_run(config.out).generate([[]], max_tokens=4)
    assert reply.num_tokens


@pytest.mark.nightly
def test_perplexity_in_training_is_that_of_the_merged_weights(config: TrainConfig) -> None:
    train(replace(config, optim=replace(config.optim, lr=0.1), max_steps=6))
    _, trained = evals(config.out)
    # The merged weights as the start of another run, which is evaluated before its first step.
    other = replace(
        config, init_from=config.out, lora=None, out=config.out + "-merged", max_steps=0
    )
    train(other)
    (merged,) = evals(other.out)
    (start,) = evals(str(config.init_from))[-1:]
    assert merged["user_ppl"] == pytest.approx(trained["user_ppl"], rel=1e-4)
    assert abs(trained["user_ppl"] - start["user_ppl"]) > 0.01


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits_also_with_dropout(config: TrainConfig) -> None:
    config = replace(
        config, lora=replace(ADAPTERS, dropout=0.3, base_dtype="bfloat16"), max_steps=4,
        checkpoint_every_steps=2,
    )  # fmt: skip
    train(config)
    parted = replace(config, out=config.out + "-parted")
    train(replace(parted, max_steps=2))
    train(parted)
    one, two = adapters_of(config.out), adapters_of(parted.out)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.nightly
def test_adapters_of_a_run_with_adapters_start_from_the_merged_weights(
    config: TrainConfig,
) -> None:
    train(config)
    second = replace(config, init_from=config.out, out=config.out + "-second", max_steps=2)
    train(second)
    merged = load_params(config.out)
    base = Checkpoints(Path(second.out, "base", "checkpoints"), read_only=True)
    # Two devices merged what one merges here; their products may round differently.
    down = merged["layers"]["mlp"]["down"][1]
    np.testing.assert_allclose(base.read(0, "lm_head"), merged["lm_head"], rtol=0, atol=2e-8)
    np.testing.assert_allclose(base.read(0, "layers.01.mlp.down"), down, rtol=0, atol=2e-8)
    assert (
        np.abs(down - load_params(str(config.init_from))["layers"]["mlp"]["down"][1]).max() > 1e-4
    )
    # A start that was killed after merging, and whose dtype is then changed: merged again.
    early = replace(second, lora=replace(ADAPTERS, base_dtype="bfloat16"), max_steps=1)
    early = replace(early, out=config.out + "-early")
    train(early)
    shutil.rmtree(Path(early.out, "checkpoints"))
    train(replace(early, lora=ADAPTERS), allow_changes=["lora.base_dtype"])
    again = Checkpoints(Path(early.out, "base", "checkpoints"), read_only=True)
    np.testing.assert_array_equal(
        again.read(1, "layers.01.mlp.down"), base.read(0, "layers.01.mlp.down")
    )
    # It needs the first run no more.
    shutil.rmtree(config.out)
    train(replace(second, max_steps=3))
    load_run(second.out).generate([[]], max_tokens=2)


@pytest.mark.slow
def test_an_export_for_peft_names_the_checkpoint_of_its_base(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(str(config.init_from), base)
    first = ModelFolder(base).latest_step()
    config = replace(config, init_from=str(base))
    second = replace(config, init_from=config.out, out=config.out + "-second")
    train(config)
    train(second)
    # Both are trained on.
    train(replace(config, max_steps=3))
    newer = Checkpoints(base / "checkpoints")
    newer.save(first + 1, load_params(base))
    newer.close()

    def advice(run: str) -> str:
        assert main(["convert", "flax-to-hf", run, f"{tmp_path}/peft", "--peft"]) == 2
        return capsys.readouterr().err

    assert f"flax-to-hf {base} BASE --step {first}` and add --base BASE" in advice(config.out)
    assert f"flax-to-hf {config.out} BASE --step 2` and add --base BASE" in advice(second.out)
    shutil.rmtree(config.out)
    assert "not there any more; export without --peft." in advice(second.out)


def test_the_hash_of_the_base_is_the_same_in_parts(config: TrainConfig) -> None:
    params = load_params(str(config.init_from))
    checkpoints, step = ModelFolder(str(config.init_from)).open_checkpoint()
    found = HashInParts()
    for tensor in reversed(tensors(config.model)):
        found.add(tensor.ours, checkpoints.read(step, tensor.ours))
    assert found.result() == weights_hash(params)


@pytest.mark.slow
def test_a_base_that_moved_or_changed(config: TrainConfig, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(str(config.init_from), base)
    config = replace(config, init_from=str(base))
    train(config)
    checkpoints, step = ModelFolder(config.out).open_checkpoint()
    adapter = recorded(checkpoints, step)
    assert adapter is not None
    assert adapter.base.path == str(base)
    expected = load_params(config.out)
    # Named otherwise on purpose: these adapters would not fit those weights.
    other = replace(config, init_from=str(tmp_path / "other"), seed=1, lora=None, max_steps=0)
    train(replace(other, init_from=None, out=str(tmp_path / "other")))
    with pytest.raises(UserError, match=r"init_from is .*other, but the adapters .* belong to the"):
        train(replace(config, init_from=other.init_from), allow_changes=["init_from"])
    # Moved: found again where the config says.
    base.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"not there any more; move them back, or set init_from to"):
        load_params(config.out)
    with pytest.raises(UserError, match="and in the config that you train with"):
        train(replace(config, max_steps=3))
    path = Path(config.out, "config.yaml")
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"init_from": str(tmp_path / "moved")}))
    jax.tree.map(np.testing.assert_array_equal, load_params(config.out), expected)
    # A resumed run is given the same place.
    train(replace(config, init_from=str(tmp_path / "moved")))
    # Saved again with the same values: another identity, but the same hash.
    moved = Checkpoints(tmp_path / "moved" / "checkpoints")
    newest = moved.latest_step()
    assert newest is not None
    params = load_params(tmp_path / "moved")
    moved.save(newest + 1, params)
    moved.close()
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / str(newest))
    for left in (tmp_path / "moved" / "checkpoints").iterdir():
        if left.name != str(newest + 1):
            shutil.rmtree(left)
    jax.tree.map(np.testing.assert_array_equal, load_params(config.out), expected)
    # One bit changed.
    moved = Checkpoints(tmp_path / "moved" / "checkpoints")
    params["norm"] = params["norm"].at[0].add(2.0**-10)
    moved.save(newest + 2, params)
    moved.close()
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / str(newest + 1))
    with pytest.raises(UserError, match=r"adapters of other weights than those in .*moved: these"):
        load_params(config.out)


@pytest.mark.slow
def test_adapters_are_read_before_the_run_removes_them(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(replace(config, max_steps=1))
    expected, restore = load_params(config.out), Checkpoints.restore

    def slow(checkpoints: Checkpoints, *arguments: Any, **options: Any) -> Any:
        if str(config.init_from) in str(checkpoints.folder):
            shutil.rmtree(Path(config.out, "checkpoints", "1"))
        return restore(checkpoints, *arguments, **options)

    monkeypatch.setattr(Checkpoints, "restore", slow)
    jax.tree.map(np.testing.assert_array_equal, load_params(config.out), expected)


@pytest.mark.slow
def test_a_damaged_base_is_reported(config: TrainConfig, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(str(config.init_from), base)
    train(replace(config, init_from=str(base), max_steps=1))
    newest = base / "checkpoints" / str(ModelFolder(base).latest_step())
    largest = max((newest / "params").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        load_params(config.out)


def on_pairs(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """Preference training on 60 small pairs."""
    pairs = tmp_path / "pairs.jsonl"
    with pairs.open("w") as file:
        for number in range(60):
            prompt = [{"role": "user", "content": f"What is {number} and {number % 7}?"}]
            answers = {"chosen": f"It is {number + number % 7}.", "rejected": f"It is {number}."}
            file.write(json.dumps({"prompt": prompt, **answers}) + "\n")
    data = replace(
        config.data, sources=(SourceConfig(kind="preference", path=str(pairs)),),
        mask=MaskConfig(loss_roles=("assistant",)), cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    return replace(config, task="chat", objective="preference", data=data)


@pytest.mark.nightly
def test_the_reference_of_preference_training_is_the_base(
    config: TrainConfig, tmp_path: Path
) -> None:
    config = replace(on_pairs(config, tmp_path), max_steps=4, lora=replace(ADAPTERS, dropout=0.2))
    train(config)
    lines = Path(config.out, "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    # B is zero at first, so the model is its reference.
    assert steps[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert abs(steps[-1]["rewards/margins"]) > 1e-4
    # A run that trains all weights has the same reference, and finds it on the disk.
    parts = sorted((tmp_path / "cache").glob("reference-*/*.npy"))
    train(replace(config, lora=None, out=f"{config.out}-full", max_steps=1))
    assert sorted((tmp_path / "cache").glob("reference-*/*.npy")) == parts
    parted = replace(config, out=f"{config.out}-parted")
    train(replace(parted, max_steps=2))
    train(parted)
    one, two = adapters_of(config.out), adapters_of(parted.out)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.slow
def test_settings_that_cannot_be(config: TrainConfig) -> None:
    with pytest.raises(UserError, match="but init_from is null; set it to a run or a converted"):
        train(replace(config, init_from=None))
    for targets, fault in [
        (("q_proj", "embed_tokens"), "but 'embed_tokens' cannot have an adapter; list one or more"),
        (("lm_head",), "of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, each on"),
        (("q_proj", "q_proj"), "each once"),
        ((), "list one or more"),
    ]:
        with pytest.raises(UserError, match=fault):
            replace(config, lora=replace(ADAPTERS, targets=targets))
    for values, fault in [
        ({"rank": 0}, "lora.rank is 0; it must be a whole number from 1 to 10,000"),
        ({"alpha": 0.0}, "lora.alpha is 0.0; it must be finite and above 0"),
        ({"dropout": 1.0}, r"lora.dropout is 1.0; it must be in \[0, 1\)"),
    ]:
        with pytest.raises(UserError, match=fault):
            replace(ADAPTERS, **values)
    train(config)
    # Before the first checkpoint, e.g. after a rank that does not fit into memory, they can.
    early = replace(config, out=f"{config.out}-early", max_steps=0)
    shutil.copytree(config.out, early.out, ignore=shutil.ignore_patterns("checkpoints"))
    early = replace(early, lora=replace(ADAPTERS, rank=2))
    with pytest.raises(UserError, match=r"lora.rank: 4 -> 2\); .*--allow-changes lora.rank"):
        train(early)
    train(early, allow_changes=["lora.rank"])
    for changed in (replace(ADAPTERS, rank=2), replace(ADAPTERS, targets=("q_proj",)), None):
        with pytest.raises(UserError, match=r"trains other weights \(lora.*a new run from it"):
            train(replace(config, lora=changed), allow_changes=["lora"])
    assert load_config(TrainConfig, Path(config.out, "config.yaml")).lora == ADAPTERS


@pytest.mark.slow
def test_a_changed_dtype_of_the_base_is_recorded_with_its_hash(config: TrainConfig) -> None:
    train(replace(config, max_steps=1))
    other = replace(config, lora=replace(ADAPTERS, base_dtype="bfloat16"))
    train(other, allow_changes=["lora.base_dtype"])
    adapter = recorded(*ModelFolder(config.out).open_checkpoint())
    assert adapter is not None
    rounded = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), load_params(str(config.init_from)))
    assert adapter.base.weights == weights_hash(rounded)


@pytest.mark.slow
def test_attention_only(config: TrainConfig) -> None:
    lora = replace(ADAPTERS, targets=("v_proj", "q_proj"))
    train(replace(config, lora=lora, max_steps=1))
    assert set(adapters_of(config.out)) == {
        f"lora.layers.0{layer}.attention.{name}.{part}"
        for layer in (0, 1) for name in "qv" for part in "ab"
    }  # fmt: skip


@pytest.mark.nightly
def test_bfloat16_adapters_and_base(config: TrainConfig) -> None:
    config = replace(
        config, lora=replace(ADAPTERS, base_dtype="bfloat16"), param_dtype="bfloat16",
        compute_dtype="bfloat16", max_steps=1,
    )  # fmt: skip
    train(config)
    assert {array.dtype for array in adapters_of(config.out).values()} == {np.dtype(jnp.bfloat16)}
    merged, base = load_params(config.out), load_params(str(config.init_from))
    # The base as it was trained with: rounded.
    np.testing.assert_array_equal(merged["embed"], base["embed"].astype(jnp.bfloat16))
    assert LORA not in merged
