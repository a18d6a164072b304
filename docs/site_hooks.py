"""Hooks of the site that `make docs` builds; MkDocs loads this file, the package does not.

Some pages of the site are kept outside `docs/`, where people look for them in a checkout. Their
links, and the links to them, are written for the checkout; on the site they are rewritten.
"""

import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {"launch.md": "scripts/launch/README.md", "contributing.md": "CONTRIBUTING.md"}
"""Page of the site -> file of the checkout."""

log = logging.getLogger("mkdocs.hooks.parrot_jax")  # a warning fails a strict build


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are kept outside `docs/`."""
    for page, path in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrites links between `docs/` and the pages outside it."""
    uri = page.file.src_uri
    if uri in OUTSIDE:
        return re.sub(r"\]\((?:\.\./)*docs/", "](", markdown)
    up = "../" * uri.count("/")
    for name, path in OUTSIDE.items():
        markdown = markdown.replace(f"]({up}../{path}", f"]({up}{name}")
    return markdown


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Warns of everything that a page would load from another server."""
    outside = r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?https?://[^>]*>"
    for tag in re.findall(outside, output):
        log.warning("%s loads from another server: %s", page.file.src_uri, tag)
    return output
