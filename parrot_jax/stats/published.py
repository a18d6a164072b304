"""Table 1 of the papers, for comparison."""

from typing import NamedTuple


class PublishedRow(NamedTuple):
    """The published values of a data set; None = not published."""

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
"""arXiv:2310.07301: turns, tokens, topics and RefCount from version 1, the last two from version 2.
Topics and RefCount were judged by GPT-4 with other prompts than ours, so compare their order, not
the digits."""
