"""Contradictory configs are rejected before anything is read or trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from parrot_jax.cli import main
from parrot_jax.core.config import field_types, load_config
from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import MaskConfig
from parrot_jax.model.attention import backends
from parrot_jax.model.decoder import REMAT_POLICIES
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.train_config import TrainConfig


@pytest.fixture
def config(tiny_run: Path) -> TrainConfig:
    return load_config(TrainConfig, tiny_run)


def with_mask(config: TrainConfig, task: Any, **mask: Any) -> TrainConfig:
    return replace(config, task=task, data=replace(config.data, mask=MaskConfig(**mask)))


USER, ASSISTANT, BOTH = ("user",), ("assistant",), ("user", "assistant")


@pytest.mark.parametrize(
    ("task", "mask"),
    [
        ("ask", {"loss_roles": USER, "skip_first_turn": True}),
        # Such an asker can open a dialogue.
        ("ask", {"loss_roles": USER}),
        ("ask", {"loss_roles": USER, "max_turns": 1}),
        ("ask", {"loss_roles": USER, "skip_first_turn": True, "max_turns": 1, "train_end": True}),
        ("chat", {"loss_roles": ASSISTANT}),
        ("chat", {"loss_roles": ASSISTANT, "max_turns": 1}),
    ],
)
def test_masks_of_a_task(config: TrainConfig, task: str, mask: dict[str, Any]) -> None:
    with_mask(config, task, **mask).check_mask()


@pytest.mark.parametrize(
    ("task", "mask", "problem"),
    [
        ("chat", {"loss_roles": USER}, r"task: chat makes .* set it to \[assistant\]"),
        ("chat", {"loss_roles": BOTH}, r"set it to \[assistant\], or allow_other_mask"),
        ("ask", {"loss_roles": ASSISTANT}, r"task: ask makes .* set it to \[user\]"),
        ("ask", {"loss_roles": BOTH, "train_end": True}, r"set it to \[user\]"),
    ],
)
def test_a_mask_of_another_task_is_refused_unless_it_is_meant(
    config: TrainConfig, task: str, mask: dict[str, Any], problem: str
) -> None:
    contradicting = with_mask(config, task, **mask)
    with pytest.raises(UserError, match=problem):
        contradicting.check_mask()
    replace(contradicting, allow_other_mask=True).check_mask()


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize(
    ("task", "mask", "problem"),
    [
        ("chat", {"loss_roles": ASSISTANT, "skip_first_turn": True}, "trains no questions"),
        ("ask", {"loss_roles": USER, "skip_first_turn": True, "max_turns": 1}, "raise max_turns"),
    ],
)
def test_keys_without_effect_are_refused_in_any_case(
    config: TrainConfig, task: str, mask: dict[str, Any], problem: str, allowed: bool
) -> None:
    with pytest.raises(UserError, match=problem):
        replace(with_mask(config, task, **mask), allow_other_mask=allowed).check_mask()


@pytest.mark.parametrize(
    "verb", [["train"], ["train", "--preflight"], ["data", "prepare"], ["plan"]]
)
def test_every_verb_that_trains_or_prepares_refuses_it(
    tiny_run: Path, verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in verb if not word.startswith("-")]
    options = [word for word in verb if word.startswith("-")]
    assert main([*words, str(tiny_run), "--task", "chat", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("parrot: task: chat makes a chat model")


def test_a_run_of_an_earlier_version_with_such_a_mask_can_be_read(
    config: TrainConfig, tmp_path: Path
) -> None:
    from parrot_jax.core.config import save_config

    save_config(with_mask(config, "chat", loss_roles=USER), tmp_path / "old" / "config.yaml")
    assert RunFolder(tmp_path / "old").load_config().task == "chat"


def test_the_choices_are_those_that_the_model_has() -> None:
    hints = field_types(TrainConfig)
    assert sorted(get_args(hints["attention"])) == sorted(
        ["auto", *(backend.name for backend in backends())]
    )
    assert get_args(hints["remat"]) == tuple(REMAT_POLICIES)
