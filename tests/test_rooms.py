"""The docstring of each package lists all of its files, in reading order."""

import ast
import re
from pathlib import Path

import pytest

import parrot_jax

PACKAGE = Path(parrot_jax.__file__).parent
ROOMS = sorted(
    path.parent.name
    for path in PACKAGE.glob("*/__init__.py")
    if path.parent.name != "commands"  # `parrot --help` lists these
)


@pytest.mark.parametrize("room", ROOMS)
def test_the_docstring_of_a_room_lists_its_files(room: str) -> None:
    folder = PACKAGE / room
    files = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    folders = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    listed = re.findall(r"^(\w+(?:\.py|/)) ", text or "", re.MULTILINE)
    assert sorted(listed) == sorted(files | folders)
