"""Table 1 as the papers print it, to stand beside what was measured."""

from typing import NamedTuple


class PublishedRow(NamedTuple):
    """What the papers say of a data set; None = they do not."""

    name: str
    turns: float
    tokens: float
    topics: float
    ref_count: float
    context_dependent: float
    self_rouge: float | None = None


PUBLISHED = (
    PublishedRow("Baize", 4.54, 269, 3.1, 5.0, 1.75),
    PublishedRow("UltraChat", 3.85, 1455, 2.3, 9.9, 1.45),
    PublishedRow("ShareGPT", 6.67, 3166, 3.3, 11.1, 4.62),
    PublishedRow("Parrot-40K", 8.71, 3551, 5.5, 11.6, 3.42, 12.5),
)
"""arXiv:2310.07301: turns, tokens, topics and RefCount of version 1, the last two of version 2.
Topics and RefCount were asked of GPT-4 with prompts that are not ours, so they compare in their
order and not to the digit."""
