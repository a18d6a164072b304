"""The model card (README) of an export: task, usage, training data and settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from parrot_jax.core import markdown
from parrot_jax.model.families import num_parameters
from parrot_jax.model.model_config import ModelConfig

_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.jinja"


class Training(NamedTuple):
    """Facts of a run for its model card."""

    task: Literal["ask", "chat"]
    base: str | None
    """The base model; None = random weights."""
    sources: Sequence[str]
    """Names of the dialogue files, without their local folders."""
    settings: Mapping[str, Any]
    """The settings that affect the result."""
    versions: Mapping[str, str | None]
    """The commit of parrot_jax, and package versions."""


def model_card(
    name: str,
    config: ModelConfig,
    training: Training | None,
    *,
    step: int,
    dtype: str,
    license: str | None,
    base: str | None = None,
) -> str:
    """Returns the text of `README.md`, with the hub's YAML header.

    Args:
      name: The model's name.
      config: Its config.
      training: The run; None = the weights were converted, not trained.
      step: The step of the checkpoint.
      dtype: The dtype of the weights.
      license: A license id of the hub, e.g. `llama2`; None = not stated.
      base: Of adapters: the folder or repository of their base. None = whole weights.
    """
    header = {
        "license": license or "other",
        **(
            {"library_name": "transformers"}
            if base is None
            else {"library_name": "peft", "base_model": base}
        ),
        "pipeline_tag": "text-generation",
        "tags": ["parrot", *([f"parrot-{training.task}"] if training else [])],
    }
    return markdown.render(
        _TEMPLATE,
        header=yaml.safe_dump(header, sort_keys=False).strip(),
        name=name,
        config=config,
        num_parameters=num_parameters(config),
        training=training,
        settings=yaml.safe_dump(dict(training.settings), sort_keys=False) if training else "",
        step=step,
        dtype=dtype,
        license=license,
        base=base,
    )
