"""YAML of plain values: anything else is a one-line error with its place in the file."""

from pathlib import Path

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.core.yaml_files import MAX_BYTES, MAX_VALUES, read_yaml


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", None),
        ("# nothing\n", None),
        ("a: 1\nb: [x, 2.5, null, true]\n", {"a": 1, "b": ["x", 2.5, None, True]}),
        ("\ufeffa: ä\n", {"a": "ä"}),
        ("a: [0, -0, 0.5, 00.5, 10, 0x10, 1_000]\nb: '0100'\nc: \"17:04\"\nd: a:b\n",
         {"a": [0, 0, 0.5, 0.5, 10, 16, 1000], "b": "0100", "c": "17:04", "d": "a:b"}),
        # A folder may be named after a date.
        ("out: 2024-01-31\n", {"out": "2024-01-31"}),
        ("base: &x {lr: 1}\na: *x\nb: {<<: *x, wd: 2}\n",
         {"base": {"lr": 1}, "a": {"lr": 1}, "b": {"lr": 1, "wd": 2}}),
    ],
)  # fmt: skip
def test_plain_values_are_read(text: str, values: object, tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, text)) == values


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "c.yaml, line 3: duplicate key `a`, first in line 1; keep one."),
        ("m:\n  - {x: 1,\n     x: 1}\n", "line 3: duplicate key `x`, first in line 2"),
        ("a: 1\n'a': 1\n", "line 2: duplicate key `a`"),
        ("? [a, b]\n: 1\n", "line 1: a key must be a word"),
        ("a: 1\nb: !!python/object/apply:os.system [true]\n",
         "line 2: the tag !!python/object/apply:os.system is not allowed"),
        ("b: !mine {x: 1}\n", "line 1: the tag !mine is not allowed"),
        ("b: !!binary aGk=\n", "line 1: the tag !!binary is not allowed"),
        ("b: !!int x\n", "is not valid YAML: .*'x'"),
        ("a: 1\nb: 0100\n", "line 2: versions of YAML read 0100 differently; write a number"),
        ("a: [1, -007]\n", "line 1: versions of YAML read -007 differently"),
        ("a: 1\nb:\n  c: 17:04\n", "line 3: .* read 17:04 differently; .*, or a string as '17:04'"),
        ("a: 1:30.5\n", "line 1: .* read 1:30.5 differently"),
        ("a: !!int 0100\n", "line 1: .* read 0100 differently"),
        ("a: &a [1, *a]\n", "line 1: a value contains itself"),
        (BOMB, f"expands to more than {MAX_VALUES:,} values"),
        ("a:\n\t- 1\n", "is not valid YAML: line 2: .*cannot start any token; indent with spaces"),
        ("a: [1\n", "is not valid YAML: line 2: "),
        ("a: *b\n", "is not valid YAML: line 1: found undefined alias"),
        ("a: 1\n---\nb: 1\n", "is not valid YAML: line 2: but found another document"),
        ("a: \0\n", "is not valid YAML: unacceptable character"),
        (b"a: \xff\xfe\n", "is not UTF-8 text"),
        ("[" * 5_000, "its values are nested too deeply"),
        ("#" * (MAX_BYTES + 1), f"is larger than {MAX_BYTES:,} bytes"),
    ],
)  # fmt: skip
def test_all_else_is_one_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_yaml(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_without_end_is_refused_after_its_first_part() -> None:
    with pytest.raises(UserError, match="/dev/zero is larger than"):
        read_yaml("/dev/zero")
