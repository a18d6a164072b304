"""Prices of a collection's speakers: from the config, from a price file, or free."""

from dataclasses import replace
from pathlib import Path

from parrot_jax.api.endpoint_config import Price
from parrot_jax.collect.collect_config import CollectConfig, SpeakerConfig
from parrot_jax.core.config import config_from_dict
from parrot_jax.core.errors import UserError

FREE = Price(prompt=0.0, completion=0.0)


def with_prices(config: CollectConfig) -> CollectConfig:
    """Adds the price of each speaker's model to the config.

    An unknown price stays null with `budget: false`.

    Raises:
      UserError: The file cannot be read; or, unless `budget` is false, a model has no price, or a
        paid speaker has no limit.
    """
    table = load_prices(config.prices) if config.prices else {}
    priced = {}
    for name, speaker in config.speakers().items():
        price = speaker.price or table.get(speaker.model) or (FREE if speaker.is_local else None)
        if price is None and (config.budget or speaker.budget_usd is not None):
            raise UserError(
                f"{name}: the price of {speaker.model!r} is unknown: set {name}.price, or add "
                f"the model to {config.prices or 'a file named by `prices`'}; --no-budget runs "
                "without prices and limits."
            )
        if config.budget and price != FREE and not _is_limited(speaker):
            raise UserError(
                f"{name}: {speaker.model!r} is paid and has no limit; set "
                f"{name}.budget_usd or {name}.budget_tokens, or --no-budget."
            )
        priced[name] = replace(speaker, price=price)
    return replace(config, **priced)


def load_prices(path: str) -> dict[str, Price]:
    """Reads a price file: for each model, `prompt` and `completion`.

    Raises:
      UserError: The file cannot be read, or a price is invalid.
    """
    from parrot_jax.core.yaml_files import read_yaml  # loads a library

    values = read_yaml(path) or {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `model: {{prompt: USD, completion: USD}}` lines.")
    return {
        str(model): config_from_dict(Price, price, where=f"{Path(path).name}: {model}")
        for model, price in values.items()
    }


def _is_limited(speaker: SpeakerConfig) -> bool:
    return speaker.budget_usd is not None or speaker.budget_tokens is not None
