"""Extensions from outside the package: an objective, a chat template and a model family."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from parrot_jax.cli import main
from parrot_jax.core.config import load_config
from parrot_jax.core.errors import RunError, UserError
from parrot_jax.data.templates import FORMATS, make_template
from parrot_jax.data.templates.formats import Format, Part
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.model.blocks import Attention, DecoderLayer, linear, rms_norm, scale, weight
from parrot_jax.model.decoder import abstract_params
from parrot_jax.model.families import FAMILIES
from parrot_jax.model.families.family import Family
from parrot_jax.model.hf_config import from_hf
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.rotary import Rotation, rotate
from parrot_jax.train.forward import Batch, Forward, next_tokens
from parrot_jax.train.loop import train
from parrot_jax.train.objectives import Sums
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.weights.model_folder import load_params

# ---- an objective ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Smoothed:
    """Cross-entropy with label smoothing; also reports the entropy of the predictions."""

    amount: float

    def __call__(self, params: Any, batch: Batch, forward: Forward) -> Sums:
        targets, weights = next_tokens(batch)
        logits = forward.hidden(params, batch) @ forward.unembedding(params)
        logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
        picked = jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]
        smooth = (1 - self.amount) * picked + self.amount * logprobs.mean(axis=-1)
        entropy = -(jnp.exp(logprobs) * logprobs).sum(axis=-1)
        return -(weights * smooth).sum(), weights.sum(), {"entropy": (weights * entropy).sum()}


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        (lambda loss, weight: (loss, weight), r"returned tuple; it must return a tuple \(sum, wei"),
        (lambda loss, weight: (loss, weight, None), "it must return a tuple"),
        (lambda loss, weight: (loss, weight, {"step": loss}), "extra 'step' needs another name"),
        (lambda loss, weight: (loss, weight, {"loss": loss}), "extra 'loss' needs another name"),
        (lambda loss, weight: (loss, weight, {5: loss}), "extra 5 needs another name"),
        (
            lambda loss, weight: (loss, weight, {"a": jnp.ones(2)}),
            r"returned a with the shape \(2,\)",
        ),
        (
            lambda loss, weight: (loss, jnp.ones(2), {}),
            r"returned the weight with the shape \(2,\)",
        ),
    ],
)
def test_an_objective_that_returns_something_else_is_refused_before_a_step(
    sums: Any, message: str, tiny_run: Path
) -> None:
    def objective(params: Any, batch: Batch, forward: Forward) -> Any:
        return sums(jnp.sum(forward.unembedding(params)), jnp.float32(1))

    config = replace(load_config(TrainConfig, tiny_run), max_steps=2)
    with pytest.raises(UserError, match=message):
        train(config, objective=objective)


def test_what_is_no_objective_is_refused(tiny_run: Path) -> None:
    @dataclass
    class NotFrozen:
        def __call__(self, params: Any, batch: Batch, forward: Forward) -> Any: ...

    config = load_config(TrainConfig, tiny_run)
    train_unchecked = getattr(train, "__wrapped__", train)
    with pytest.raises(UserError, match="the objective is 'loss'; it must be a function"):
        train_unchecked(config, objective="loss")
    with pytest.raises(UserError, match="is not hashable; make it a frozen dataclass"):
        train(config, objective=NotFrozen())
    with pytest.raises(UserError, match="allow_changes is 'optim.lr'; give a list of keys"):
        train_unchecked(config, allow_changes="optim.lr")


@pytest.mark.parametrize(
    ("value", "weight", "extra"),
    [(1.0, 1.0, jnp.nan), (1.0, 1.0, jnp.inf), (1.0, -1.0, 0.0), (1.0, jnp.inf, 0.0)],
)
def test_a_metric_that_is_not_finite_names_the_step_and_changes_nothing(
    value: float, weight: float, extra: float, tiny_run: Path
) -> None:
    def objective(params: Any, batch: Batch, forward: Forward) -> Sums:
        loss = jnp.sum(forward.unembedding(params)) * 0 + value
        return loss, jnp.float32(weight), {"extra": jnp.float32(extra)}

    config = replace(load_config(TrainConfig, tiny_run), max_steps=2)
    with pytest.raises(RunError, match=r"step 1: loss .* extra .* must be finite; the weights are"):
        train(config, objective=objective)
    assert list(Path(config.out).glob("bad-batch-000001.npz"))


def test_a_step_without_weight_changes_nothing_and_has_loss_0(tiny_run: Path) -> None:
    def objective(params: Any, batch: Batch, forward: Forward) -> Sums:
        return jnp.sum(forward.unembedding(params)) * 0 + 5.0, jnp.float32(0), {"a": jnp.float32(5)}

    config = replace(load_config(TrainConfig, tiny_run), max_steps=1, epochs=1)
    train(config, objective=objective)
    (line,) = Path(config.out, "metrics.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert (found["loss"], found["grad_norm"], found["a"]) == (0.0, 0.0, 0.0)


def test_an_objective_of_ones_own_trains(tiny_run: Path) -> None:
    config = replace(load_config(TrainConfig, tiny_run), epochs=10, max_steps=12)
    train(config, objective=Smoothed(0.1))
    lines = Path(config.out, "metrics.jsonl").read_text().splitlines()
    first, *_, last = map(json.loads, lines)
    assert last["loss"] < first["loss"]
    # At first all 340 tokens are about equally likely: log(340) = 5.83 nats.
    assert 0 < last["entropy"] < first["entropy"] <= 5.83


# ---- a chat format -----------------------------------------------------------------------------


LINES = Format(
    begin="{bos}",
    system=Part("system>", " ", "{eos}"),
    user=Part("user>", " ", "{eos}"),
    assistant=Part("assistant>", " ", "{eos}"),
)
"""`user> hi</s>`: headers in lower case."""


@pytest.mark.slow
def test_a_format_of_ones_own_trains_and_is_exported(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    config = load_config(TrainConfig, tiny_run)
    config = replace(config, data=replace(config.data, template="lines"))
    with pytest.raises(UserError, match="data.template is 'lines'; the templates are parrot"):
        train(config)
    monkeypatch.setitem(FORMATS, "lines", LINES)
    train(replace(config, max_steps=1))
    folder = RunFolder(config.out)
    ours = folder.load_template()
    assert ours.tokenizer.show(ours.prompt("", [("user", "hi"), ("assistant", "yes")])) == (
        "<s>user> hi</s>assistant> yes</s>user>"
    )
    theirs = AutoTokenizer.from_pretrained(folder.tokenizer)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == ours.prompt("", [("user", "hi"), ("assistant", "yes")])


# ---- a model family ----------------------------------------------------------------------------


class ParallelLayer(DecoderLayer):
    """Attention and MLP read the same norm and are added together, as in GPT-J and Phi."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.norm = scale(config)
        self.attention = Attention(config, rngs)
        d, f = config.hidden_size, config.intermediate_size
        self.up = weight(rngs, config, (d, f), ("embed", "mlp"))
        self.down = weight(rngs, config, (f, d), ("mlp", "embed"))

    def project(self, x: Any, rotation: Rotation) -> tuple[Any, Any, Any]:
        normed = rms_norm(x, self.norm[...], self.config.rms_norm_eps)
        query = linear("BTD,DNH->BTNH", normed, self.attention.q)
        key = linear("BTD,DKH->BTKH", normed, self.attention.k)
        value = linear("BTD,DKH->BTKH", normed, self.attention.v)
        return rotate(query, rotation), rotate(key, rotation), value

    def combine(self, x: Any, attended: Any) -> Any:
        normed = rms_norm(x, self.norm[...], self.config.rms_norm_eps)
        mlp = jax.nn.gelu(linear("BTD,DF->BTF", normed, self.up))
        return (
            x
            + linear("BTNH,NHD->BTD", attended, self.attention.o)
            + linear("BTF,FD->BTD", mlp, self.down)
        )


PARALLEL = Family(
    name="parallel",
    architecture="ParallelForCausalLM",
    layer=lambda: ParallelLayer,
    layer_tensors=(
        ("norm", "ln.weight", "D", "D"),
        ("attention.q", "attn.q.weight", "NH D", "D N H"),
        ("attention.k", "attn.k.weight", "KH D", "D K H"),
        ("attention.v", "attn.v.weight", "KH D", "D K H"),
        ("attention.o", "attn.o.weight", "D NH", "N H D"),
        ("up", "mlp.up.weight", "F D", "D F"),
        ("down", "mlp.down.weight", "D F", "F D"),
    ),
    allowed={"parallel_residual": (True, None)},
)


@pytest.mark.slow
def test_a_family_of_ones_own_trains_and_is_exported(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(TrainConfig, tiny_run)
    sizes = replace(config.model, family="parallel", intermediate_size=4 * config.model.hidden_size)
    config = replace(config, model=sizes, max_steps=6)
    with pytest.raises(UserError, match="model.family is 'parallel'; it must be llama, "):
        train(config)
    monkeypatch.setitem(FAMILIES, "parallel", PARALLEL)
    train(config)
    first, *_, last = map(json.loads, Path(config.out, "metrics.jsonl").read_text().splitlines())
    assert last["loss"] < first["loss"]
    # Export to Hugging Face and import again are bit-identical.
    assert main(["convert", "flax-to-hf", config.out, str(tmp_path / "hf")]) == 0
    assert main(["convert", "hf-to-flax", str(tmp_path / "hf"), str(tmp_path / "back")]) == 0
    ours, back = load_params(config.out), load_params(tmp_path / "back")
    jax.tree.map(np.testing.assert_array_equal, back, ours)
    values = json.loads((tmp_path / "hf" / "config.json").read_text())
    with pytest.raises(UserError, match="parallel_residual is False, not True"):
        from_hf(values | {"parallel_residual": False})


def test_a_table_that_misses_a_tensor_of_its_layer_is_refused(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = replace(load_config(TrainConfig, tiny_run).model, family="parallel")
    table = [row for row in PARALLEL.layer_tensors if row[0] != "down"]
    table[0] = ("norm", "ln.weight", "F", "F")
    monkeypatch.setitem(FAMILIES, "parallel", replace(PARALLEL, layer_tensors=table))
    num, d, f = sizes.num_hidden_layers, sizes.hidden_size, sizes.intermediate_size
    with pytest.raises(UserError) as error:
        abstract_params(sizes)
    assert str(error.value) == (
        f"the family parallel is inconsistent: layers.down is ({num}, {f}, {d}) in the layer, "
        f"missing in the table; layers.norm is ({num}, {d}) in the layer, "
        f"({num}, {f}) in the table."
    )


def test_the_formats_that_there_are(tiny_tokenizer: Path) -> None:
    template = make_template("parrot", load_tokenizer(tiny_tokenizer))
    assert template.tokenizer.show(template.prompt("", [])) == "<s>USER:"
