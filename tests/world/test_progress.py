"""Stages run once; a folder belongs to one quickstart and one process at a time."""

from pathlib import Path

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.world.exam import accuracy_by_turn
from parrot_jax.world.progress import Progress


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    done = []
    for _ in range(2):
        with Progress(tmp_path / "q", {"seed": 0}) as progress:
            progress.stage("ask", lambda: done.append("ask"))
            progress.stage("chat", lambda: done.append("chat"))
    assert done == ["ask", "chat"]


def test_a_stage_that_failed_is_done_again_and_wall_time_adds_up(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("killed")

    with Progress(tmp_path, {"seed": 0}) as progress:
        progress.stage("ask", lambda: None)
        with pytest.raises(RuntimeError):
            progress.stage("chat", fail)
    before = progress.wall_s
    done = []
    with Progress(tmp_path, {"seed": 0}) as progress:
        assert list(progress.seconds) == ["ask"]
        progress.stage("ask", fail)
        progress.stage("chat", lambda: done.append("chat"))
        assert progress.wall_s > before > 0
    assert done == ["chat"]


def test_another_seed_needs_another_folder(tmp_path: Path) -> None:
    with Progress(tmp_path, {"seed": 0}):
        pass
    with (
        pytest.raises(UserError, match="quickstart with {'seed': 0}, not {'seed': 1}; choose"),
        Progress(tmp_path, {"seed": 1}),
    ):
        pass


def test_a_second_process_is_sent_away(tmp_path: Path) -> None:
    with (
        Progress(tmp_path, {"seed": 0}),
        pytest.raises(UserError, match="another quickstart runs in"),
        Progress(tmp_path, {"seed": 0}),
    ):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to .*file/q: .*; choose another --out"):
        Progress(tmp_path / "file" / "q", {"seed": 0})


@pytest.mark.parametrize("content", ['{"settings": ', "[]", '{"settings": {"seed": 0}}', "\xff"])
def test_a_damaged_file_is_one_line_and_frees_the_folder(content: str, tmp_path: Path) -> None:
    (tmp_path / "quickstart.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match="quickstart.json is damaged: "), Progress(tmp_path, {}):
        pass
    (tmp_path / "quickstart.json").unlink()
    with Progress(tmp_path, {"seed": 0}):
        pass


@pytest.mark.parametrize("content", ["{}", '{"right": [tru', "[]"])
def test_a_damaged_exam_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "chat.jsonl").write_text(f'{{"right": [true, false]}}\n{content}\n')
    with pytest.raises(UserError, match="chat.jsonl:2 is not a JSON object with right; "):
        accuracy_by_turn(tmp_path / "chat.jsonl")
