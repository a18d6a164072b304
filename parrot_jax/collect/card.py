"""The dataset card: the README that the hub shows, with its YAML header."""

from pathlib import Path

import yaml

from parrot_jax.collect.dataset_summary import DatasetSummary
from parrot_jax.core import markdown

_TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md.jinja"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(summary: DatasetSummary) -> str:
    """Returns the text of `README.md`.

    Args:
      summary: The numbers and settings for the card.
    """
    size = next((name for limit, name in _SIZES if summary.dialogues < limit), "n>1M")
    everything = [{"split": "train", "path": "data/*.parquet"}]
    header = {
        "license": summary.about.license or "other",
        "task_categories": ["text-generation"],
        "tags": ["parrot", "multi-turn", "synthetic"],
        "size_categories": [size],
        "configs": [
            {"config_name": "all", "default": True, "data_files": everything},
            *(
                {
                    "config_name": part,
                    "data_files": [{"split": "train", "path": f"data/{part}.parquet"}],
                }
                for part in summary.parts
            ),
        ],
    }
    return markdown.render(
        _TEMPLATE,
        header=yaml.safe_dump(header, sort_keys=False).strip(),
        summary=summary,
        about=summary.about,
        filters=yaml.safe_dump(dict(summary.about.filters), sort_keys=False),
    )
