"""Tables as Markdown."""

from parrot_jax.core import markdown
from parrot_jax.report.page import Table


def markdown_lines(table: Table) -> str:
    """A table as Markdown; all texts are escaped."""
    rules = ["---" if n < table.text_columns else "---:" for n in range(len(table.columns))]
    rows = [table.columns, *table.rows]
    lines = ["| " + " | ".join(map(markdown.escape, row)) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join(rules) + " |")
    return "\n".join(lines)
