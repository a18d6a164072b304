"""What tells runs apart on a page: names and colours."""

from collections.abc import Sequence

from parrot_jax.report.page import Hue

HUES: Sequence[Hue] = ("accent", "contrast", "plain")
"""Of the lines or bars of a chart; more runs need another chart."""


def short_names(folders: Sequence[str]) -> list[str]:
    """Returns the last parts of paths, as many as tell them apart.

    >>> short_names(["runs/a/chat", "runs/b/chat"])
    ['a/chat', 'b/chat']
    """
    parts = [folder.rstrip("/").split("/") for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(path)} ({number})" for number, path in enumerate(parts, 1)]
