"""Whole runs: bit-identical resuming, equality of sharded runs, evaluation by turn."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.core.config import load_config
from parrot_jax.core.errors import RunError, UserError
from parrot_jax.data.prepare import prepare
from parrot_jax.data.templates import make_template
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.model import decoder
from parrot_jax.sharding import MeshConfig
from parrot_jax.train import loop
from parrot_jax.train.loop import train
from parrot_jax.train.objectives import RoleMaskedLoss, Sums
from parrot_jax.train.optim import count_steps
from parrot_jax.train.perplexity import summarise
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.setup import Setup, set_up
from parrot_jax.train.train_config import OptimConfig, TrainConfig
from parrot_jax.weights.model_folder import load_params

EIGHT_PARTS = MeshConfig(data=1, fsdp=8, tensor=1)


@pytest.fixture
def config(tiny_run: Path) -> TrainConfig:
    return load_config(TrainConfig, tiny_run)


def final_params(config: TrainConfig) -> Any:
    return jax.device_get(load_params(config.out))


def metrics(config: TrainConfig) -> list[dict[str, Any]]:
    lines = Path(config.out, "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "step_s"} for line in lines]


def assert_same_bits(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_run_leaves_a_folder_that_says_everything(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, log_every_steps=1)
    train(config)
    lines = capsys.readouterr().out.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    # No estimate after the first step, which compiles, and after the last.
    assert [" left" in line for line in steps] == [False, *[True] * 5, False]
    first, second = (line for line in lines if " rows and 5 samples" in line)
    assert first.startswith("eval at step 4: ")
    assert second.endswith(" s")
    folder = RunFolder(config.out)
    assert folder.load_config() == config
    lines = metrics(config)
    assert [line["step"] for line in lines] == list(range(1, 8))
    assert lines[-1]["loss"] < lines[0]["loss"]
    # Two epochs, without the last two rows, which do not fill a batch.
    counts = prepare(config.data, "train").counts
    seen = [sum(line[key] for line in lines) for key in ("live_tokens", "tokens")]
    rows = 7 * config.batch_rows
    expected = [counts[key] * rows / counts["rows"] for key in ("live_tokens", "tokens")]
    np.testing.assert_allclose(seen, expected, rtol=0.01)
    results = sorted(path.name for path in folder.results.iterdir())
    assert results == ["eval-000004.json", "eval-000004.npy", "eval-000007.json", "eval-000007.npy"]
    samples = list(folder.samples.read())
    assert len(samples) == 10, "five histories at two evaluations"
    assert {sample["dialogue"] for sample in samples[:5]} == {s["dialogue"] for s in samples[5:]}
    versions = json.loads((folder.path / "versions.json").read_text())
    assert versions["jax"] == jax.__version__
    assert load_tokenizer(folder.tokenizer).vocab_size == 340


def test_a_stopped_run_continues_to_the_same_bits(config: TrainConfig, tmp_path: Path) -> None:
    whole = replace(config, out=str(tmp_path / "whole"))
    train(whole)
    for stop in (2, 5, None):
        train(replace(config, max_steps=stop))
    assert_same_bits(final_params(config), final_params(whole))
    assert metrics(config) == metrics(whole)


@pytest.mark.slow
def test_sharded_training_gives_the_losses_of_one_way_data_parallelism(
    config: TrainConfig, tmp_path: Path
) -> None:
    split = replace(config, mesh=MeshConfig(data=2, fsdp=2, tensor=2), out=str(tmp_path / "split"),
                    micro_rows=1)  # fmt: skip
    train(config)
    train(split)
    for a, b in zip(metrics(config), metrics(split), strict=True):
        assert a["live_tokens"] == b["live_tokens"]
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)


def test_another_config_in_the_same_folder_is_refused(config: TrainConfig) -> None:
    train(replace(config, max_steps=1))
    changed = replace(config, optim=OptimConfig(lr=0.5))
    with pytest.raises(UserError, match=r"another config \(optim.lr: 0.01 -> 0.5\)"):
        train(changed)


@pytest.mark.slow
def test_a_run_whose_data_changed_is_refused_and_continues_where_it_is_meant(
    config: TrainConfig, write_dialogues: Any
) -> None:
    train(replace(config, max_steps=1))
    write_dialogues(Path(config.data.sources[0].path), 60)
    with pytest.raises(UserError, match="has a run with other data"):
        train(replace(config, max_steps=2))
    train(replace(config, max_steps=2), allow_changes=["data.rows"])
    assert [line["step"] for line in metrics(config)] == [1, 2]


def test_two_processes_cannot_train_in_one_folder(config: TrainConfig) -> None:
    template = make_template("parrot", load_tokenizer(config.data.tokenizer))
    with (
        RunFolder(config.out).open(config, template, {}),
        pytest.raises(UserError, match="another process trains in"),
    ):
        train(config)


def test_a_loss_that_is_not_finite_stops_and_saves_the_batch(
    config: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="must be finite; the weights are unchanged") as caught:
        train(replace(config, optim=OptimConfig(lr=1e30, warmup_epochs=0.0)))
    assert caught.value.exit_code == 1
    (saved,) = Path(config.out).glob("bad-batch-*.npz")
    assert str(saved) in str(caught.value)
    with np.load(saved) as arrays:
        batch = dict(arrays)
    assert batch["tokens"].shape == (8, 128)
    step = int(saved.stem.rpartition("-")[2])
    assert [line["step"] for line in metrics(config)] == list(range(1, step))


@pytest.mark.slow
def test_a_bad_step_in_the_middle_is_named_with_its_batch_and_changes_nothing(
    config: TrainConfig, tmp_path: Path
) -> None:
    config = replace(config, checkpoint_every_steps=2, max_steps=6)
    batches = set_up(config, is_new=True).batches
    bad_row = int(batches[3]["tokens"][0].sum())

    def poisoned(params: Any, batch: Any, forward: Any) -> Sums:
        loss, weight, extras = RoleMaskedLoss(None)(params, batch, forward)
        is_bad = (batch["tokens"].sum(axis=-1) == bad_row).any()
        return jnp.where(is_bad, jnp.nan, loss), weight, extras

    with pytest.raises(RunError, match="step 4: loss nan"):
        train(config, objective=poisoned)
    with np.load(Path(config.out, "bad-batch-000004.npz")) as saved:
        np.testing.assert_array_equal(saved["tokens"], batches[3]["tokens"])
    assert [line["step"] for line in metrics(config)] == [1, 2, 3]
    assert [path.name for path in Path(config.out, "checkpoints").iterdir()] == ["2"]
    whole = replace(config, out=str(tmp_path / "whole"))
    for each in (config, whole):
        train(each, objective=RoleMaskedLoss(None))
    assert_same_bits(final_params(config), final_params(whole))
    assert metrics(config) == metrics(whole)


def test_the_next_rows_are_read_while_the_devices_work(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    batch, report = Setup.batch, loop._Run._report

    def noting_batch(self: Setup, step: int) -> Any:
        order.append(f"read {step}")
        return batch(self, step)

    def noting_report(self: Any) -> None:
        if self.in_flight is not None:
            order.append(f"wait for {self.in_flight.step}")
        report(self)

    monkeypatch.setattr(Setup, "batch", noting_batch)
    monkeypatch.setattr(loop._Run, "_report", noting_report)
    train(replace(config, max_steps=3))
    assert order == ["read 0", "read 1", "wait for 0", "read 2", "wait for 1", "wait for 2"]


def test_an_evaluation_reads_no_source_again(config: TrainConfig) -> None:
    train(replace(config, max_steps=1))
    first = list(RunFolder(config.out).samples.read())
    held_out = prepare(config.data, "eval")
    for source in config.data.sources:
        Path(source.path).unlink()
    histories = held_out.histories(config.task, max_prompt_tokens=1000)
    assert [history.dialogue_id for history in histories] == [s["dialogue"] for s in first]
    assert [history.truth for history in histories] == [s["truth"] for s in first]


@pytest.mark.slow
def test_training_starts_from_another_runs_weights(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    more = replace(config, out=str(tmp_path / "more"), init_from=config.out, max_steps=0)
    train(more)
    assert_same_bits(final_params(more), final_params(config))


def test_evaluation_by_turn_equals_scoring_each_window_alone(config: TrainConfig) -> None:
    train(config)
    turns = np.load(Path(config.out, "results", "eval-000007.npy"))
    prepared = prepare(config.data, "eval")
    rows, spans = prepared.rows(), prepared.spans()
    params = jax.device_put(final_params(config))
    assert len(turns) == len(spans)

    @jax.jit
    def logprobs_of(tokens: jax.Array) -> jax.Array:
        hidden = decoder.hidden_states(
            config.model, params, tokens[None], None, jnp.arange(len(tokens))[None],
            compute_dtype="float32", remat="none",
        )  # fmt: skip
        return jax.nn.log_softmax(hidden[0] @ decoder.unembedding(params), axis=-1)

    for span, turn in list(zip(spans, turns, strict=True))[::7]:
        row = rows[int(span["row"])]
        segment = row["segment_ids"][span["start"]]
        inside = row["segment_ids"] == segment
        begin = int(np.flatnonzero(inside)[0])
        # Padded to one length, so that it compiles once; later tokens do not affect earlier ones.
        tokens = np.zeros_like(row["tokens"])
        tokens[: span["stop"] - begin] = row["tokens"][begin : span["stop"]]
        logprobs = logprobs_of(tokens)
        live = range(span["start"] - begin, span["stop"] - begin)
        expected = -sum(float(logprobs[i - 1, tokens[i]]) for i in live)
        np.testing.assert_allclose(turn["nll"], expected, rtol=1e-4)
        assert turn["tokens"] == len(live)


def test_perplexities_by_hand() -> None:
    from parrot_jax.train.perplexity import TURN_NLL_DTYPE

    two, four = np.log(2.0), np.log(4.0)
    turns = np.array(
        [
            # dialogue, turn, is_user, tokens, nll
            (0, 0, True, 5, 5 * four),  # the first question does not count for user_ppl
            (0, 1, False, 10, 10 * two),
            (0, 2, True, 4, 4 * two),
            (1, 2, True, 4, 4 * four),
        ],
        TURN_NLL_DTYPE,
    )
    summary = summarise(turns)
    assert summary["user_ppl"] == pytest.approx(np.sqrt(8.0))
    assert summary["assistant_ppl"] == pytest.approx(2.0)
    assert summary["user_ppl_by_turn"] == pytest.approx([4.0, np.sqrt(8.0)])
    assert summary["assistant_ppl_by_turn"] == pytest.approx([2.0])
    assert summarise(turns[:1])["assistant_ppl"] is None


def test_steps_of_a_run(config: TrainConfig) -> None:
    # 29 rows, 8 per step: 3.625 steps per epoch.
    plan = count_steps(replace(config, epochs=2.0, eval_every_epochs=0.5), 29)
    assert (plan.num_steps, plan.stop_step) == (7, 7)
    assert sorted(plan.eval_steps) == [2, 4, 5, 7]
    assert sorted(count_steps(replace(config, max_steps=5), 29).eval_steps) == [4, 5]


def test_rows_that_devices_cannot_share_are_refused(config: TrainConfig) -> None:
    with pytest.raises(UserError, match="batch_rows=12 does not divide into the 8 parts of mesh"):
        train(replace(config, batch_rows=12, mesh=EIGHT_PARTS))
