"""Options override a file and switch optional keys off; a wrong option is rejected with a hint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest

from parrot_jax.core.arguments import parse_arguments
from parrot_jax.core.config import Named
from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1e-3
    """The rate."""


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


def test_options_override_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nsources: [{path: x}, {path: y}]\n")
    arguments = [str(path), "--optim.lr", "0.5", "--sources.1.limit", "7", "--roles", "b", "c"]
    config = parse_arguments(Root, arguments, prog="parrot test", description="")
    assert config.optim.lr == 0.5
    assert [source.limit for source in config.sources] == [None, 7]
    assert config.roles == ("b", "c")


@dataclass(frozen=True, kw_only=True)
class Optional:
    sources: tuple[Source, ...] = ()
    """The sources."""
    name: str | None = "a"
    """A name."""
    rates: tuple[float, ...] | None = (1.0,)
    """Rates."""
    block: Optim | None = None
    """A block."""
    steps: int = 5
    """Steps."""


@pytest.mark.parametrize(
    "options",
    [
        ("--sources.0.limit", "null"),
        ("--sources.0.limit", "None"),
        ("--sources.0.limit=null",),
        ("--sources.0.limit", "null", "--name", "null", "--rates", "null", "--block", "null"),
        ("--block=null", "--steps", "5", "--name=null"),
    ],
)
def test_null_switches_every_optional_key_off(options: tuple[str, ...], tmp_path: Path) -> None:
    path = write(tmp_path, "sources: [{path: x, limit: 3}]\nblock: {lr: 0.5}\n")
    config = parse_arguments(Optional, [str(path), *options], prog="parrot test", description="")
    given = " ".join(options)
    expected = Optional(
        sources=(Source(path="x", limit=None if "limit" in given else 3),),
        name=None if "--name" in given else "a",
        rates=None if "--rates" in given else (1.0,),
        block=None if "--block" in given else Optim(lr=0.5),
    )
    assert config == expected


def test_null_is_refused_where_a_key_is_not_optional(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "sources: [{path: x}]\nblock: {lr: 0.5}\n")
    for option in ("--steps", "--block.lr", "--sources.0"):
        with pytest.raises(SystemExit) as caught:
            parse_arguments(Optional, [str(path), option, "null"], prog="p", description="")
        assert caught.value.code == 2
        assert option in capsys.readouterr().err


def test_an_unknown_option_exits_with_2_and_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "name: a\n")
    with pytest.raises(SystemExit) as caught:
        parse_arguments(Root, [str(path), "--optim.lrr", "1"], prog="parrot test", description="")
    assert caught.value.code == 2
    assert "--optim.lr" in capsys.readouterr().err


@dataclass(frozen=True, kw_only=True)
class Run:
    optim: Annotated[Optim, Named({"slow": Optim(lr=0.01)})]
    """The optimizer."""


def test_an_option_overrides_a_key_of_a_named_value(tmp_path: Path) -> None:
    path = write(tmp_path, "optim: slow\n")
    arguments = [str(path), "--optim.lr", "0.5"]
    config = parse_arguments(Run, arguments, prog="parrot run", description="Runs.")
    assert config == Run(optim=Optim(lr=0.5))


def test_an_option_takes_the_name_of_a_named_value(tmp_path: Path) -> None:
    path = write(tmp_path, "optim: {lr: 0.2}\n")
    for options in (("--optim", "slow"), ("--optim=slow",), ("--optim", "slow", "--optim.lr", "9")):
        config = parse_arguments(Run, [str(path), *options], prog="p", description="")
        assert config == Run(optim=Optim(lr=9.0 if "9" in options else 0.01))
    with pytest.raises(
        UserError, match="`optim`: must be one of slow, or a block of keys, found '"
    ):
        parse_arguments(Run, [str(path), "--optim", "fast"], prog="p", description="")


@dataclass(frozen=True, kw_only=True)
class Extra:
    rank: int = 16
    alpha: float = 32.0


@dataclass(frozen=True, kw_only=True)
class WithExtra:
    steps: int = 1
    extra: Extra | None = None


def test_an_option_of_a_block_that_is_off_switches_it_on(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("steps: 2\n")

    def parsed(*options: str) -> WithExtra:
        return parse_arguments(WithExtra, [str(path), *options], prog="p", description="")

    assert parsed("--steps", "3") == WithExtra(steps=3)
    assert parsed("--extra.rank", "8") == WithExtra(steps=2, extra=Extra(rank=8))
    assert parsed("--extra.rank=8", "--extra.alpha", "4") == WithExtra(
        steps=2, extra=Extra(rank=8, alpha=4.0)
    )
