"""Every YAML file that the project ships is a config of the verb its folder is for."""

from pathlib import Path

import pytest
import yaml

from parrot_jax.collect.config import CollectConfig
from parrot_jax.commands.data_clean import DataCleanConfig
from parrot_jax.core.config import config_from_dict, load_config
from parrot_jax.core.config_help import config_help
from parrot_jax.train.config import TrainConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_shipped_configs_load(path: Path) -> None:
    config_types = {"collect": CollectConfig, "data": DataCleanConfig, "train": TrainConfig}
    config = load_config(config_types[path.parent.name], path)
    # And `parrot VERB CONFIG --help` shows that config, as YAML that gives it again.
    shown = yaml.safe_load(config_help(type(config), config))
    assert config_from_dict(type(config), shown, where="help") == config


def test_the_papers_runs_are_the_papers() -> None:
    for task, role in (("ask", "user"), ("chat", "assistant")):
        config = load_config(TrainConfig, CONFIGS / "train" / f"parrot_{task}_13b.yaml")
        assert config.model.num_parameters() == 13_015_864_320
        assert (config.epochs, config.batch_rows) == (3, 32)
        data, fsdp, _ = config.mesh.sizes(8)
        assert config.accumulation_steps(data * fsdp) == 8
        assert (config.optim.lr, config.optim.warmup_epochs) == (3e-5, 0.1)
        assert config.data.row_tokens == 4096
        assert not config.data.packing
        assert config.data.mask.loss_roles == (role,)
        assert config.data.mask.skip_first_turn == (task == "ask")
