"""Configs are strict, report all errors at once with their keys, and survive save and load."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest

from parrot_jax.core.config import Named, changed_keys, config_from_dict, load_config, save_config
from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1e-3
    """The rate."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UserError(f"optim.lr is {self.lr}; it must be above 0.")


@dataclass(frozen=True, kw_only=True)
class Source:
    path: str
    """A file."""
    limit: int | None = None
    """How many."""


@dataclass(frozen=True, kw_only=True)
class Root:
    name: str
    """The name."""
    optim: Optim = field(default_factory=Optim)
    """The optimizer."""
    sources: tuple[Source, ...] = ()
    """The sources."""
    roles: tuple[str, ...] = ("user",)
    """The roles."""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_yaml_becomes_typed_values(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\noptim: {lr: 2e-5}\nsources: [{path: x, limit: 3}]\n")
    expected = Root(name="a", optim=Optim(lr=2e-5), sources=(Source(path="x", limit=3),))
    assert load_config(Root, path) == expected


def test_saved_and_loaded_is_equal(tmp_path: Path) -> None:
    config = Root(name="ä: b", sources=(Source(path="x"), Source(path="y", limit=2)), roles=())
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(Root, tmp_path / "saved.yaml") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a", "optim": {"lrr": 1}}, r"unknown key `optim.lrr`; did you mean `optim.lr`\?"),
        ({"nam": "a"}, r"`name` is missing; unknown key `nam`; did you mean `name`\?"),
        ({"name": "a", "zzz": 1}, "unknown key `zzz`; the keys are name, optim, roles, sources"),
        (
            {"name": "a", "sources": [{"path": "x", "limitt": 1}]},
            r"did you mean `sources.\*.limit`",
        ),
        ({"name": "a", "optim": {"lr": "fast"}}, "`optim.lr`: .*number.*, found 'fast'"),
        ({"name": "a", "optim": {"lr": -1}}, "optim.lr is -1.0; it must be above 0"),
        ([1], "expected `key: value` lines, found list"),
    ],
)
def test_wrong_values_name_their_key(values: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_from_dict(Root, values, where="here.yaml")


def test_all_errors_of_a_file_are_reported_at_once() -> None:
    with pytest.raises(UserError) as caught:
        config_from_dict(Root, {"optim": {"lr": "x"}, "foo": 1}, where="here.yaml")
    text = str(caught.value)
    assert text.startswith("here.yaml: ")
    assert all(part in text for part in ("`name` is missing", "`optim.lr`", "`foo`"))


def test_files_that_are_missing_or_no_yaml_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read .*none.yaml: No such file"):
        load_config(Root, tmp_path / "none.yaml")
    with pytest.raises(UserError, match="not valid YAML") as caught:
        load_config(Root, write(tmp_path, "name: [a\nb: }"))
    assert "\n" not in str(caught.value)


def test_changed_keys_are_named() -> None:
    old = Root(name="a", optim=Optim(lr=0.1))
    new = Root(name="a", optim=Optim(lr=0.2), roles=("x",))
    assert changed_keys(old, new) == ["optim.lr: 0.1 -> 0.2", "roles: ['user'] -> ['x']"]


# ---- values by name -----------------------------------------------------------------------------

FAST, SLOW = Optim(lr=1.0), Optim(lr=0.01)


@dataclass(frozen=True, kw_only=True)
class Run:
    optim: Annotated[Optim, Named({"fast": FAST, "slow": SLOW})]
    """The optimizer."""


def test_a_name_is_read_as_its_value_and_saved_as_a_block(tmp_path: Path) -> None:
    config = load_config(Run, write(tmp_path, "optim: slow\n"))
    assert config == Run(optim=SLOW)
    save_config(config, tmp_path / "saved.yaml")
    assert (tmp_path / "saved.yaml").read_text() == "optim:\n  lr: 0.01\n"
    assert load_config(Run, tmp_path / "saved.yaml") == config
    assert load_config(Run, write(tmp_path, "optim: {lr: 3.0}\n")) == Run(optim=Optim(lr=3.0))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Slow", r"`optim`: must be one of fast, slow, or a block of keys, found 'Slow'"),
        ("7", r"`optim`: must be one of fast, slow, or a block of keys, found 7"),
        ("[a]", r"`optim`: must be one of fast, slow, or a block of keys, found \['a'\]"),
        ("null", r"`optim` has no value: must be one of fast, slow, or a block of keys"),
        ("{rate: 1.0}", r"unknown key `optim.rate`; did you mean `optim.lr`"),
        ("{lr: -1.0}", r"optim.lr is -1.0; it must be above 0"),
    ],
)
def test_what_is_no_name_and_no_block_is_refused(tmp_path: Path, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(Run, write(tmp_path, f"optim: {value}\n"))
