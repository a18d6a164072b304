"""Preference training computes what TRL's `DPOTrainer` does: tokens, loss, gradients, twenty steps.

Both read the same file of multi-turn pairs. TRL loads our export: weights, tokenizer and chat
template. A step of packed rows has as many pairs as its rows hold, so TRL is given the same pairs
in each step; everything else is TRL's.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from parrot_jax.cli import main
from parrot_jax.data.data_config import DataConfig, MaskConfig
from parrot_jax.data.pipeline import Batches
from parrot_jax.data.prepare import Prepared, prepare
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.model.decoder import init_params
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import MeshConfig, make_mesh
from parrot_jax.train.loop import train
from parrot_jax.train.preference import PairRows, PreferenceObjective
from parrot_jax.train.program import Program, make_program, put_rows
from parrot_jax.train.reference import answers_of_rows, compile_answer_logprobs
from parrot_jax.train.step import summed_gradients
from parrot_jax.train.train_config import OptimConfig, PreferenceConfig, TrainConfig
from parrot_jax.train.train_state import TrainState
from parrot_jax.weights.layers import names_of
from parrot_jax.weights.model_folder import load_params
from parrot_jax.weights.names import tensors

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

STEPS, PAIRS = 20, 16
WORDS = "question answer word what about the river of Velora and its hills be brief"
ONE = MeshConfig(data=1, fsdp=1, tensor=1)
EIGHT = MeshConfig(data=2, fsdp=2, tensor=2)
MODEL = ModelConfig(
    vocab_size=340, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1,
    max_position_embeddings=256,
)  # fmt: skip


def make_pairs() -> list[dict[str, Any]]:
    """Pairs of one to three rounds and of unequal lengths; every fifth has a system message."""
    rng = random.Random(0)

    def text(most: int) -> str:
        return " ".join(rng.choices(WORDS.split(), k=rng.randint(1, most)))

    def said(role: str, most: int) -> dict[str, str]:
        return {"role": role, "content": text(most)}

    pairs = []
    for number in range(PAIRS):
        prompt = [said("system", 4)] if number % 5 == 0 else []
        for _ in range(number % 3):
            prompt += [said("user", 3), said("assistant", 3)]
        answers = {
            name: [said("assistant", most)] for name, most in (("chosen", 12), ("rejected", 6))
        }
        pairs.append({"prompt": [*prompt, said("user", 3)], **answers})
    return pairs


class World(NamedTuple):
    """The pairs, and two models of seeds 0 and 1: the policy and another reference."""

    config: TrainConfig
    pairs: list[dict[str, Any]]
    exports: tuple[Path, Path]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The model is too small for several threads of torch, which only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> World:
    folder = tmp_path_factory.mktemp("trl")
    pairs = make_pairs()
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    config = TrainConfig(
        task="chat",
        objective="preference",
        out=str(folder / "run"),
        data=DataConfig(
            sources=(SourceConfig(kind="preference", path=str(path)),),
            tokenizer=str(tiny_tokenizer),
            mask=MaskConfig(loss_roles=("assistant",)),
            row_tokens=192,
            cache_dir=str(folder / "cache"),
        ),
        model=MODEL,
        optim=OptimConfig(lr=1e-3, warmup_epochs=0, final_lr_fraction=1.0, clip_norm=0.8),
        mesh=ONE,
        epochs=100,
        max_steps=STEPS,
        compute_dtype="float32",
        loss_tile=32,
    )
    exports = []
    for seed in (0, 1):
        run, export = folder / f"start{seed}", folder / f"hf{seed}"
        run_on_its_devices(replace(config, out=str(run), seed=seed, max_steps=0))
        assert main(["convert", "flax-to-hf", str(run), str(export)]) == 0
        exports.append(export)
    return World(config, pairs, (exports[0], exports[1]))


def run_on_its_devices(config: TrainConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parrot_jax.train.setup.make_mesh", mesh_of)
        train(config)


def mesh_of(config: MeshConfig) -> Any:
    return make_mesh(config, jax.devices()[: config.data * config.fsdp * config.tensor])


def make_trainer(
    world: World,
    folder: Path,
    *,
    batches: Sequence[Sequence[int]] = (),
    other_reference: bool = False,
    **settings: Any,
) -> Any:
    """TRL's trainer of the exported model.

    Args:
      world: The pairs and the models.
      folder: Where TRL may write.
      batches: The pairs of each step.
      other_reference: Use the model of seed 1 as reference, not the policy.
      settings: Fields of `DPOConfig`.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):
        """With given batches; it keeps what TRL's log would round."""

        losses: list[float]

        def get_train_dataloader(self) -> Any:
            given: Any = batches
            return torch.utils.data.DataLoader(
                self.train_dataset, batch_sampler=given, collate_fn=self.data_collator
            )

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            self.losses = [*getattr(self, "losses", []), float(loss.detach())]
            return loss

    def model(path: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager"
        )

    optim = world.config.optim
    policy, reference = world.exports
    return Trainer(
        model=model(policy),
        ref_model=model(reference) if other_reference else None,
        processing_class=AutoTokenizer.from_pretrained(policy),
        train_dataset=Dataset.from_list(world.pairs),
        args=DPOConfig(
            output_dir=str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False,
            max_length=None, learning_rate=optim.lr, lr_scheduler_type="constant",
            adam_beta1=optim.beta1, adam_beta2=optim.beta2, adam_epsilon=optim.eps,
            weight_decay=0.0, max_grad_norm=optim.clip_norm, optim="adamw_torch",
            max_steps=max(len(batches), 1), logging_steps=1, save_strategy="no", report_to="none",
            disable_tqdm=True, **{"beta": 0.1} | settings,
        ),
    )  # fmt: skip


# ---- tokens --------------------------------------------------------------------------------------


def test_trl_reads_our_tokens_and_trains_our_live_tokens(world: World, tmp_path: Path) -> None:
    prepared = prepare(replace(world.config.data, packing=False), "train", pairs=True)
    rows, trainer = prepared.rows(), make_trainer(world, tmp_path)
    assert len(rows) == len(trainer.train_dataset) == PAIRS
    assert not prepared.counts["cut_contexts"]
    lengths = set()
    for number, members in enumerate(pairs_of_rows(prepared)):
        (member,) = members
        row, theirs = rows[number], trainer.train_dataset[member]
        for segment, side in ((1, "chosen_ids"), (2, "rejected_ids")):
            mine = row["segment_ids"] == segment
            assert row["tokens"][mine].tolist() == theirs["prompt_ids"] + theirs[side]
            live = (row["loss_weights"][mine] > 0).tolist()
            assert live == [False] * len(theirs["prompt_ids"]) + [True] * len(theirs[side])
            lengths.add((len(theirs["prompt_ids"]), len(theirs[side])))
    assert len(lengths) > PAIRS


def pairs_of_rows(prepared: Prepared) -> list[list[int]]:
    """The pairs of each row, by their number in the file."""
    spans = prepared.spans()
    return [
        spans["dialogue"][spans["row"] == row][::2].tolist() for row in range(len(prepared.rows()))
    ]


# ---- loss and gradients of a batch ---------------------------------------------------------------


def our_loss_and_gradients(
    world: World, *, rows: int | None = None, preference: PreferenceConfig, **changes: Any
) -> tuple[float, dict[str, np.ndarray]]:
    """Of all pairs, or of those in the first rows, in one step; gradients by name on disk."""
    config = replace(world.config, **{"preference": preference, **changes})
    prepared = prepare(config.data, "train", pairs=True)
    found = prepared.rows()
    used = range(rows or len(found))
    # Empty rows, so that 8 rows divide over any mesh; they have no pair.
    config = replace(config, batch_rows=rows or -(-len(found) // 8) * 8)
    objective = PreferenceObjective(preference)
    program = make_program(config, mesh_of(config.mesh), objective=objective)
    logprobs = compile_answer_logprobs(program.forward, program.rows_sharding, None)
    reference = answers_of_rows(
        logprobs, params_of(1, program), found, list(used),
        batch_rows=program.micro_shape[1], sharding=program.rows_sharding,
    )  # fmt: skip
    known = PairRows(found, reference)
    batch_rows = [known[row] for row in used]
    empty = {name: np.zeros_like(array) for name, array in batch_rows[0].items()}
    batch_rows += [empty] * (config.batch_rows - len(batch_rows))
    like = program.batch["tokens"]
    batch = put_rows(
        lambda places: {n: np.stack([batch_rows[p][n] for p in places]) for n in empty},
        like.shape, like.sharding,
    )  # fmt: skip

    @jax.jit
    def run(params: Any, batch: Any) -> Any:
        (loss, weight, _), grads = summed_gradients(
            TrainState(params, None, 0), batch, forward=program.forward, objective=objective,
            accumulator_dtype="float32", key=jax.random.key(0),
        )  # fmt: skip
        return loss / weight, jax.tree.map(lambda grad: grad / weight, grads)

    loss, grads = run(params_of(0, program), batch)
    return float(loss), arrays_of(grads)


def params_of(seed: int, program: Program) -> Any:
    return init_params(MODEL, seed, jax.tree.map(lambda x: x.sharding, program.state.params))


def arrays_of(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by their names on disk, one per layer."""
    return {
        name: leaf if layer is None else leaf[layer]
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
        for name, layer in names_of(path, leaf)
    }


def their_arrays(model: Any, value: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    """`value` of each parameter of a transformers model, by our names and with our dims."""
    named = dict(model.named_parameters())
    return {
        tensor.ours: tensor.to_ours(value(named[tensor.theirs]).detach().numpy())
        for tensor in tensors(MODEL)
    }


def their_loss_and_gradients(
    world: World, folder: Path, members: Sequence[int], **settings: Any
) -> tuple[float, dict[str, np.ndarray]]:
    trainer = make_trainer(world, folder, other_reference=True, **settings)
    batch = trainer.data_collator([trainer.train_dataset[member] for member in members])
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return float(loss.detach()), their_arrays(trainer.model, lambda parameter: parameter.grad)


def assert_same(
    ours: tuple[float, dict[str, np.ndarray]], theirs: tuple[float, dict[str, np.ndarray]]
) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1].keys() == theirs[1].keys()
    for name, expected in theirs[1].items():
        distance = np.linalg.norm(ours[1][name] - expected) / np.linalg.norm(expected)
        assert distance < 1e-5, f"{name}: {distance:.1e}"


@pytest.fixture(scope="module")
def their_dpo(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> tuple[float, dict[str, np.ndarray]]:
    return their_loss_and_gradients(world, tmp_path_factory.mktemp("dpo"), range(PAIRS))


@pytest.mark.parametrize(
    ("packing", "changes"),
    [
        pytest.param(True, {}, id="packed"),
        pytest.param(False, {}, id="unpacked"),
        pytest.param(True, {"loss_tile": 8192}, id="dense"),
        pytest.param(True, {"micro_rows": 2}, id="accumulated"),
        pytest.param(False, {"mesh": EIGHT, "micro_rows": 1}, id="8 devices, accumulated"),
    ],
)
def test_loss_and_gradients(
    world: World, their_dpo: tuple[float, Any], packing: bool, changes: dict[str, Any]
) -> None:
    data = replace(world.config.data, packing=packing)
    ours = our_loss_and_gradients(world, preference=PreferenceConfig(), data=data, **changes)
    assert_same(ours, their_dpo)
    assert abs(ours[0] - np.log(2)) > 1e-3  # the reference is another model


@pytest.mark.parametrize(
    ("preference", "settings"),
    [
        (PreferenceConfig(loss="ipo", beta=0.2, length_normalized=True),
         {"loss_type": ["ipo"], "beta": 0.2}),
        (PreferenceConfig(length_normalized=True), {"loss_type": ["sigmoid_norm"]}),
    ],
    ids=["ipo", "sigmoid_norm"],
)  # fmt: skip
def test_other_losses(
    world: World, tmp_path: Path, preference: PreferenceConfig, settings: dict[str, Any]
) -> None:
    theirs = their_loss_and_gradients(world, tmp_path, range(PAIRS), **settings)
    assert_same(our_loss_and_gradients(world, preference=preference), theirs)


def test_the_added_loss_of_the_chosen_answer(world: World, tmp_path: Path) -> None:
    """For one pair: TRL's mean is over the tokens of a batch, ours over those of each answer."""
    data = replace(world.config.data, packing=False)
    ((member,), *_) = pairs_of_rows(prepare(data, "train", pairs=True))
    ours = our_loss_and_gradients(
        world, rows=1, preference=PreferenceConfig(sft_weight=0.3), data=data
    )
    settings = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]}
    assert_same(ours, their_loss_and_gradients(world, tmp_path, [member], **settings))


# ---- twenty steps --------------------------------------------------------------------------------


def steps_of(config: TrainConfig) -> list[list[int]]:
    """The pairs that each step of a run reads."""
    members = pairs_of_rows(prepare(config.data, "train", pairs=True))
    places: Any = [{"row": np.array(row)} for row in range(len(members))]
    batches = Batches(places, batch_rows=config.batch_rows, seed=config.seed)
    return [
        [pair for row in batches[step]["row"] for pair in members[row]] for step in range(STEPS)
    ]


class Steps(NamedTuple):
    """What twenty steps gave."""

    losses: list[float]
    metrics: list[dict[str, float]]
    weights: dict[str, np.ndarray]


def config_of_run(world: World, *, packing: bool) -> TrainConfig:
    data = replace(world.config.data, packing=packing)
    return replace(world.config, data=data, batch_rows=4 if packing else 8)


@pytest.fixture(scope="module")
def their_steps(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Steps]:
    known: dict[bool, Steps] = {}

    def of(packing: bool) -> Steps:
        if packing not in known:
            batches = steps_of(config_of_run(world, packing=packing))
            folder = tmp_path_factory.mktemp("steps")
            # The default of TRL, a resident reference; and its other way.
            trainer = make_trainer(
                world, folder, batches=batches, precompute_ref_log_probs=not packing
            )
            trainer.train()
            weights = their_arrays(trainer.model, lambda parameter: parameter)
            known[packing] = Steps(trainer.losses, trainer.state.log_history[:STEPS], weights)
        return known[packing]

    return of


METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
           "logps/chosen", "logps/rejected", "grad_norm")  # fmt: skip
"""Under the names that TRL has for them."""


@pytest.mark.parametrize(
    ("packing", "changes"),
    [
        pytest.param(True, {}, id="packed"),
        pytest.param(False, {}, id="unpacked", marks=pytest.mark.nightly),
        pytest.param(
            True, {"loss_tile": 8192, "micro_rows": 2}, id="dense, accumulated",
            marks=pytest.mark.nightly,
        ),
        pytest.param(True, {"mesh": EIGHT}, id="8 devices"),
    ],
)  # fmt: skip
def test_twenty_steps(
    world: World, their_steps: Callable[[bool], Steps], tmp_path: Path,
    packing: bool, changes: dict[str, Any],
) -> None:  # fmt: skip
    config = replace(config_of_run(world, packing=packing), out=str(tmp_path / "run"), **changes)
    run_on_its_devices(config)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ours, theirs = [json.loads(line) for line in lines], their_steps(packing)
    assert len(ours) == len(theirs.losses) == len(theirs.metrics) == STEPS
    losses = [line["loss"] for line in ours]
    np.testing.assert_allclose(losses, theirs.losses, rtol=1e-5)
    assert losses[0] - min(losses) > 0.1
    for name in METRICS:
        # In step 1 the margin is 0, and its sign is that of a rounding error.
        some = slice(name == "rewards/accuracies", None)
        np.testing.assert_allclose(
            [line[name] for line in ours[some]], [line[name] for line in theirs.metrics[some]],
            rtol=1e-4, atol=1e-4, err_msg=name,
        )  # fmt: skip
    # Some steps are clipped and some are not.
    norms = [line["grad_norm"] for line in ours]
    assert min(norms) < config.optim.clip_norm < max(norms)
    weights = arrays_of(load_params(config.out))
    for name, expected in theirs.weights.items():
        distance = np.linalg.norm(weights[name] - expected) / np.linalg.norm(expected)
        assert distance < 1e-4, f"{name}: {distance:.1e}"
