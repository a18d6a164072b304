"""Every shipped YAML file is a valid config of its folder's verb."""

from pathlib import Path

import pytest
import yaml

from parrot_jax.api.prompts import load_prompt
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.prices import load_prices
from parrot_jax.commands.configs import KINDS
from parrot_jax.core.config import changed_keys, config_from_dict, load_config
from parrot_jax.core.config_help import config_help
from parrot_jax.model.families import num_parameters
from parrot_jax.train.train_config import TrainConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*/*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_shipped_configs_load(path: Path) -> None:
    config = load_config(KINDS[path.parent.name].type(), path)
    # `parrot VERB CONFIG --help` prints YAML that loads as the same config.
    shown = yaml.safe_load(config_help(type(config), config))
    assert config_from_dict(type(config), shown, where="help") == config


def test_every_speaker_of_a_shipped_collection_has_a_price_or_costs_nothing() -> None:
    prices = load_prices(str(CONFIGS / "prices.yaml"))
    for path in (CONFIGS / "collect").glob("*.yaml"):
        config = load_config(CollectConfig, path)
        assert config.prices == "configs/prices.yaml"
        for speaker in config.speakers().values():
            assert speaker.is_local or speaker.model in prices, path


PAPER = {
    # name: (GPUs or chips, rows per step, micro-batches)
    "ask_llama2_13b_a100x8": (8, 32, 4),
    "ask_llama2_13b_a100x8_8steps": (8, 32, 8),
    "ask_llama2_13b_a100x8_256": (8, 256, 8),
    "ask_llama2_13b_v5p": (16, 32, 1),
    "ask_llama2_13b_v5e": (32, 32, 1),
    "ask_llama2_13b_h200": (1, 32, 32),
    "chat_llama2_13b_a100x8": (8, 32, 4),
    "chat_llama2_13b_v5p": (16, 32, 1),
    "chat_llama2_13b_v5e": (32, 32, 1),
    "chat_llama2_13b_h200": (1, 32, 32),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_runs_are_the_papers(name: str) -> None:
    devices, rows, micro_batches = PAPER[name]
    config = load_config(TrainConfig, CONFIGS / "train" / f"parrot_{name}.yaml")
    assert num_parameters(config.model) == 13_015_864_320
    assert (config.epochs, config.batch_rows) == (3, rows)
    data, fsdp, _ = config.mesh.sizes(devices)
    assert config.accumulation_steps(data * fsdp) == micro_batches
    assert (config.optim.lr, config.optim.warmup_epochs) == (3e-5, 0.1)
    assert config.data.row_tokens == 4096
    assert not config.data.packing
    task = name.partition("_")[0]
    assert config.task == task
    assert config.data.mask.loss_roles == ({"ask": "user", "chat": "assistant"}[task],)
    assert config.data.mask.skip_first_turn == (task == "ask")


TABLE_4 = ("baize", "ultrachat", "sharegpt", "parrot_s", "parrot_u")


@pytest.mark.parametrize("name", TABLE_4)
def test_the_20k_runs_differ_from_the_papers_in_their_data_alone(name: str) -> None:
    paper, subset = (
        load_config(TrainConfig, CONFIGS / "train" / f"{run}_llama2_13b_a100x8.yaml")
        for run in ("parrot_chat", f"chat_20k_{name}")
    )
    assert {change.partition(":")[0] for change in changed_keys(paper, subset)} == {
        "out",
        "data.sources",
    }
    (source,) = subset.data.sources
    # Each part of Parrot-40K already has 20,000 dialogues.
    assert source.sample == (None if name.startswith("parrot") else 20_000)


def test_the_prompts_of_the_shipped_collections_can_be_filled_in() -> None:
    writer = load_config(CollectConfig, CONFIGS / "collect" / "self_chat.yaml").writer
    asker = load_config(CollectConfig, CONFIGS / "collect" / "iterative_self_chat.yaml").asker
    assert writer is not None
    assert asker is not None
    rendered = [
        load_prompt(
            str(CONFIGS.parent / str(speaker.prompt)), first_question="?", max_turns=1
        ).render(first_question="Why is it dark?", max_turns=7)
        for speaker in (writer, asker)
    ]
    assert "Why is it dark?" in rendered[0]
    assert "up to 7 questions" in rendered[0]
    assert "you are the user" in rendered[1]


@pytest.mark.parametrize("name", ["a100x8", "a100x8_packed", "v5p", "v5e", "h200"])
def test_the_chat_run_takes_the_memory_of_the_ask_run(name: str) -> None:
    ask, chat = (
        load_config(TrainConfig, CONFIGS / "train" / f"parrot_{task}_llama2_13b_{name}.yaml")
        for task in ("ask", "chat")
    )
    changes = {change.partition(":")[0] for change in changed_keys(ask, chat)}
    assert changes == {"task", "out", "data.sources", "data.mask.loss_roles",
                       "data.mask.skip_first_turn"}  # fmt: skip
