"""The configs in the package: `configs/` in a clone, a copy of it in a wheel."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "configs"


def shipped_file(path: str) -> Path | None:
    """Returns the shipped file for a path that begins with `configs/`, or None.

    >>> shipped_file("configs/train/ask_wildchat_cpu.yaml").name
    'ask_wildchat_cpu.yaml'
    >>> shipped_file("configs/../cli.py")
    """
    parts = Path(path).parts
    if parts[:1] != ("configs",) or ".." in parts:
        return None
    file = FOLDER.joinpath(*parts[1:])
    return file if file.is_file() else None


def shipped_configs() -> list[str]:
    """Returns all shipped configs as `configs/...` paths, sorted."""
    return sorted(f"configs/{file.relative_to(FOLDER)}" for file in FOLDER.glob("*/*.yaml"))


def shipped_chat_templates() -> list[str]:
    """Returns the chat templates of other models as `configs/...` paths, sorted."""
    return sorted(
        f"configs/{file.relative_to(FOLDER)}" for file in FOLDER.glob("chat_templates/*.jinja")
    )
