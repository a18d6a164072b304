"""The configs that the package ships: in a clone the folder `configs/`, in a wheel a copy of it."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "configs"


def shipped_file(path: str) -> Path | None:
    """The shipped file of a path that begins with `configs/`; None if there is none.

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
    """Every shipped config as the path that commands take, sorted."""
    return sorted(f"configs/{file.relative_to(FOLDER)}" for file in FOLDER.glob("*/*.yaml"))
