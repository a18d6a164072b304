"""The README of an export: what the model does, how to ask it, what it was trained on."""

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
    """What the run started from; None = random weights."""
    sources: Sequence[str]
    """Names of the files of dialogues, without their folders: these say nothing to others."""
    settings: Mapping[str, Any]
    """The settings that decide the result."""
    versions: Mapping[str, str | None]
    """The commit of this program, and its packages."""


def model_card(
    name: str,
    config: ModelConfig,
    training: Training | None,
    *,
    step: int,
    dtype: str,
    license: str | None,
) -> str:
    """The text of `README.md`, with the header that the hub reads.

    Args:
      name: What the model is called.
      config: Its sizes.
      training: What the run was; None = the weights were converted and not trained.
      step: The step of the checkpoint.
      dtype: The type of the weights.
      license: A name of the hub's list, such as `llama2`; None = not stated.
    """
    header = {
        "license": license or "other",
        "library_name": "transformers",
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
    )
