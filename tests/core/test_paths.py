"""A pattern matches each file once, and a folder that cannot be listed is an error."""

import os
from pathlib import Path

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import matching_files


def test_a_folder_that_links_to_itself_gives_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jsonl").touch()
    (tmp_path / "a" / "self").symlink_to(".")
    (tmp_path / "b").symlink_to("a")
    assert matching_files(tmp_path / "**" / "*.jsonl") == [str(tmp_path / "a" / "x.jsonl")]
    assert matching_files(tmp_path / "[ab]" / "*.jsonl") == [str(tmp_path / "a" / "x.jsonl")]


@pytest.mark.parametrize("pattern", ["**/*.jsonl", "*/*.jsonl", "b/*.jsonl"])
def test_a_folder_that_cannot_be_listed_is_named(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").touch()
    # Permissions would not stop root.
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path).name != "b" and access(path, mode)
    )
    with pytest.raises(UserError, match=f"cannot list the folder {tmp_path}/b/?, where files may"):
        matching_files(tmp_path / pattern)
    assert matching_files(tmp_path / "a" / "*.jsonl") == [str(tmp_path / "a" / "x.jsonl")]
