"""Prices of speakers: from the config, from a file, or free on this machine; never guessed."""

from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.endpoint_config import Price
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.prices import FREE, load_prices, with_prices
from parrot_jax.core.config import config_from_dict
from parrot_jax.core.errors import UserError


def config(tmp_path: Path, *, answerer: dict[str, Any], **changes: Any) -> CollectConfig:
    values = {
        "out": str(tmp_path / "out"),
        "asker": {"base_url": "http://127.0.0.1:8000/v1", "model": "asker"},
        "answerer": {"base_url": "https://api.example.com/v1", "model": "large"} | answerer,
        "beginnings": [{"kind": "messages", "path": "x"}],
    }
    return config_from_dict(CollectConfig, values | changes, where="test")


@pytest.fixture
def prices(tmp_path: Path) -> str:
    path = tmp_path / "prices.yaml"
    path.write_text("large: {prompt: 2.0, completion: 8}\n")
    return str(path)


LIMITED = {"max_tokens": 100, "budget_usd": 5.0}


def test_the_config_goes_before_the_file_and_this_machine_is_free(
    tmp_path: Path, prices: str
) -> None:
    def found(**answerer: Any) -> list[Price | None]:
        priced = with_prices(config(tmp_path, answerer=LIMITED | answerer, prices=prices))
        return [speaker.price for speaker in priced.speakers().values()]

    assert found() == [FREE, Price(prompt=2.0, completion=8.0)]
    own = {"prompt": 1.0, "completion": 1.0}
    assert found(price=own) == [FREE, Price(**own)]


def test_an_unknown_price_is_refused_or_stays_unknown(tmp_path: Path, prices: str) -> None:
    unknown = {"model": "small", "max_tokens": 100}
    with pytest.raises(UserError, match="the price of 'small' is unknown: set answerer.price"):
        with_prices(config(tmp_path, answerer=unknown | LIMITED, prices=prices))
    free = with_prices(config(tmp_path, answerer=unknown, prices=prices, budget=False))
    assert free.answerer is not None
    assert free.answerer.price is None
    # A limit in USD needs a price.
    with pytest.raises(UserError, match="is unknown"):
        with_prices(config(tmp_path, answerer=unknown | LIMITED, budget=False))


def test_what_costs_something_has_a_limit(tmp_path: Path, prices: str) -> None:
    with pytest.raises(UserError, match="'large' is paid and has no limit"):
        with_prices(config(tmp_path, answerer={}, prices=prices))
    with_prices(config(tmp_path, answerer={}, prices=prices, budget=False))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {prompt: -1, completion: 1}", "both must be finite and >= 0"),
        ("a: {prompt: 1}", "prices.yaml: a: `completion` is missing"),
        ("a: 3", "expected `key: value` lines"),
        ("- a", "expected `model: {prompt: USD, completion: USD}` lines"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_files_that_are_no_prices(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message.replace("{", r"\{")):
        load_prices(str(path))
