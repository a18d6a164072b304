"""AlpacaEval's length-controlled win rate, computed by the package alpaca_eval.

A logistic regression explains the preferences by the difference in length, the difficulty of the
instruction and the model; the result is the win rate that it predicts for outputs of equal length.
The regression needs the file `df_gamed.csv` of AlpacaEval: the difficulties, and annotations of a
baseline that was told to be brief or wordy. The package would download it; here the user names it.

Source: alpaca_eval 0.6.6, `metrics/glm_winrate.py`; Y. Dubois et al., arXiv:2404.04475.
"""

import contextlib
import csv
import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input
from parrot_jax.core.paths import require_local
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.evaluate.rows import Rejected, read_rows, text_at
from parrot_jax.evaluate.winrate import LengthControlled, WinRates, parse_annotation

GAMED_FILE = "benchmarks/alpaca-eval/df_gamed.csv"
"""Where `parrot evaluate download alpaca-eval` writes it."""

_COLUMNS = (
    "model", "preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"
)  # fmt: skip
_MAX_LINES = 100_000


class _Annotated(NamedTuple):
    """What the regression needs of an annotation."""

    key: tuple[str, str, str]
    place: int | None
    """The instruction's place in AlpacaEval's set, from 0; None = its place in the file."""
    columns: dict[str, Any]


def control_length(found: WinRates, paths: Sequence[Path | str], gamed: str | None = None) -> None:
    """Adds the length-controlled win rate to each model's.

    Args:
      found: From `win_rates`.
      paths: What it was read from; the rows are read again, with their outputs.
      gamed: The file `df_gamed.csv`; None = `GAMED_FILE`.

    Raises:
      UserError: The package is not installed, the file is missing or another one, or a model's
        annotations are not one for each instruction.
    """
    glm = _package()
    file = gamed or GAMED_FILE
    num_instructions = check_gamed(file)
    by_key: dict[tuple[str, str, str], list[_Annotated]] = {}
    rejected = Rejected()
    for path in paths:
        for one in read_rows(path, _parse, rejected):
            by_key.setdefault(one.key, []).append(one)
    if rejected.reasons:
        raise UserError(
            f"{rejected.first()}; for --length-controlled all rows must be valid, and "
            f"{rejected.reasons.total():,} are not."
        )
    for key, rate in found.annotated.items():
        rate.length_controlled = _of_model(glm, key[0], by_key[key], file, num_instructions)


def _package() -> Any:
    """The module of the package that computes the win rate.

    Raises:
      UserError: It is not installed.
    """
    try:
        import alpaca_eval.metrics.glm_winrate as glm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"--length-controlled needs the package alpaca-eval ({error}): "
            "`pip install 'parrot-jax[alpaca]'`."
        ) from None
    return glm


def check_gamed(file: str) -> int:
    """Checks the file, and returns the number of instructions.

    Raises:
      UserError: It is missing, or another one.
    """
    require_local(file, "--gamed")
    if not Path(file).is_file():
        raise UserError(
            f"--length-controlled needs AlpacaEval's instruction difficulties, and there is no "
            f"{file}: `parrot evaluate download alpaca-eval` fetches it, or name your copy of "
            "df_gamed.csv by --gamed."
        )
    is_other = f"{file} is not AlpacaEval's df_gamed.csv"
    with open_input(file) as opened:
        reader = csv.DictReader(itertools.islice(opened, _MAX_LINES))
        try:
            rows = list(reader)
            if missing := set(_COLUMNS) - set(reader.fieldnames or ()):
                raise UserError(f"{is_other}: it lacks the columns {', '.join(sorted(missing))}.")
            places = [int(row["index"]) for row in rows]
            difficulties = [float(row["instruction_difficulty"]) for row in rows]
        except (ValueError, TypeError, csv.Error) as error:
            raise UserError(f"{is_other}: {error}.") from None
    count = len(set(places))
    # The package takes the difficulty of instruction i from row i.
    if places[:count] != list(range(count)) or not all(map(math.isfinite, difficulties)):
        raise UserError(
            f"{is_other}: its first {count} rows are not instructions 0 to {count - 1}, or a "
            "difficulty is not finite."
        )
    return count


def _parse(row: dict[str, Any]) -> _Annotated:
    one = parse_annotation(row)
    index = row.get("index")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int)):
        raise BrokenRowError("no integer in `index`", f"found {index!r:.40}")
    columns = {
        "preference": one.preference,
        "output_1": text_at(row, "output_1"),
        "output_2": text_at(row, "output_2"),
        "generator_1": one.baseline,
        "generator_2": one.model,
        "annotator": one.annotator,
    }
    return _Annotated((one.model, one.annotator, one.baseline), index, columns)


def _of_model(
    glm: Any, name: str, rows: Sequence[_Annotated], file: str, num_instructions: int
) -> LengthControlled:
    import pandas as pd

    places: list[int | None] = [one.place for one in rows]
    if all(place is None for place in places) and len(rows) == num_instructions:
        places = list(range(num_instructions))
    if not set(places) <= set(range(num_instructions)):
        raise UserError(
            f"{name} has {len(rows):,} annotations, and {file} has the difficulties of "
            f"{num_instructions:,} instructions: --length-controlled needs one annotation for "
            "each, in AlpacaEval's order, or the place of each in the key `index`, from 0."
        )
    if len(set(places)) < len(places):
        raise UserError(
            f"{name} has several annotations of an instruction; --length-controlled needs one."
        )
    if all(one.columns["preference"] is None for one in rows):
        raise UserError(f"{name} has no preference; there is no win rate to control.")
    lengths = {len(one.columns["output_1"]) - len(one.columns["output_2"]) for one in rows}
    if len(lengths) < 2:
        raise UserError(f"all outputs of {name} differ in length by the same; nothing to control.")
    table = pd.DataFrame([one.columns for one in rows]).assign(index=places)
    with _instead_of_a_download(glm, file), warnings.catch_warnings():
        # scikit-learn 1.9 deprecates arguments that the package passes.
        warnings.simplefilter("ignore", FutureWarning)
        figures = glm.get_length_controlled_winrate(
            table, save_weights_dir=None, is_warn_extreme_changes=False
        )
    rate = float(figures["length_controlled_winrate"])
    return LengthControlled(
        rate,
        float(figures["lc_standard_error"]),
        bool(glm.get_is_extreme_changes(float(figures["win_rate"]), rate)),
    )


@contextlib.contextmanager
def _instead_of_a_download(glm: Any, file: str) -> Iterator[None]:
    """Gives the package a local file where it would download one."""
    download = glm.hf_hub_download
    glm.hf_hub_download = lambda *_, **__: file
    try:
        yield
    finally:
        glm.hf_hub_download = download
