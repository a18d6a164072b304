"""Clean raw dialogue files into one `messages` file, with a report of what was dropped and why.

Cheap steps run first, and the order matters: HTML first, since all other steps read text; language
and exact duplicates early, to save work; decontamination on whole dialogues and before near
duplicates, because there a contaminated dialogue could replace its clean twin and then be dropped
itself; splitting late, so that whole dialogues are compared; the limit on rounds last, because
splitting makes short ones.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.files import write_json
from parrot_jax.core.logs import counting
from parrot_jax.core.paths import as_path
from parrot_jax.dialogue.clean import Step, StepCounts, keep_unless, require, run_step
from parrot_jax.dialogue.contamination import DecontaminateConfig, Decontamination
from parrot_jax.dialogue.dedup import (
    ExactDuplicates,
    ExactDuplicatesConfig,
    NearDuplicates,
    NearDuplicatesConfig,
)
from parrot_jax.dialogue.language import LanguageConfig, language_filter
from parrot_jax.dialogue.markdown import HtmlConfig, convert_html
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources, source_files
from parrot_jax.dialogue.splitting import RoundsConfig, SplitConfig, rounds_filter, split_dialogue
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.writers import write_messages


@dataclass(frozen=True, kw_only=True)
class DataCleanConfig:
    """Input, steps and output. A step that is null is off."""

    sources: tuple[SourceConfig, ...]
    """The dialogues to clean; weights above 1 are for training and are rejected here."""
    out: str
    """The `messages` JSON-lines file to write; the report goes to `<out>.report.json`."""
    seed: int = 0
    """Seed for fractional weights and for near-duplicate hashing; in [0, 2**32)."""
    html: HtmlConfig | None = None
    """HTML to Markdown."""
    language: LanguageConfig | None = None
    """Keep dialogues in some languages."""
    exact_duplicates: ExactDuplicatesConfig | None = None
    """Keep one of each group of equal dialogues."""
    decontaminate: DecontaminateConfig | None = None
    """Drop or report dialogues with benchmark questions."""
    near_duplicates: NearDuplicatesConfig | None = None
    """Keep one of each group of nearly equal dialogues."""
    split: SplitConfig | None = None
    """Split long dialogues into pieces with a limited number of tokens."""
    rounds: RoundsConfig | None = None
    """Keep dialogues by their number of questions."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "in [0, 2**32)")


Config = DataCleanConfig


def run(config: DataCleanConfig) -> None:
    """Cleans the sources of `config`; writes the result atomically, and a report.

    Dialogues are streamed; memory holds the indexes of the duplicate steps only. The same input and
    config give the same bytes.

    Args:
      config: Sources, steps and output.

    Raises:
      UserError: A path, value or row is invalid, or the output would overwrite an input: nothing is
        written. Or no dialogue is left: only the report is written.
    """
    _check(config)
    steps = _build_steps(config)
    read_report = ReadReport()
    counts = [StepCounts(name) for name in steps]
    dialogues = read_sources(config.sources, seed=config.seed, report=read_report)
    written = 0
    with (
        counting("dialogues read") as advance,
        disk_full_is_a_user_error(f"the clean dialogues {config.out}"),
        contextlib.suppress(_NothingLeftError),
    ):
        stream: Iterable[Dialogue] = _counted(dialogues, advance)
        for step, step_counts in zip(steps.values(), counts, strict=True):
            stream = run_step(stream, step, step_counts)
        written = write_messages(config.out, _not_empty(stream))
    report: dict[str, Any] = {
        "written": written,
        "read": read_report.to_json(),
        "steps": [step_counts.to_json() for step_counts in counts],
    }
    decontamination = steps.get("decontaminate")
    if isinstance(decontamination, Decontamination):
        report["contamination"] = decontamination.to_json()
    report["config"] = asdict(config)
    write_json(f"{config.out}.report.json", report)
    _print_summary(config, read_report, counts, written)
    if not written:
        dropped = ", ".join(
            f"{step.name} dropped {step.dropped.total():,}" for step in counts if step.dropped
        )
        raise UserError(
            f"no dialogue is left after cleaning: {dropped or 'the weights kept none'}; "
            f"{config.out} is not written; see {config.out}.report.json."
        )


class _NothingLeftError(Exception):
    """Aborts the atomic write, so that no empty file is written."""


def _check(config: DataCleanConfig) -> None:
    out = as_path(config.out).resolve()
    for source in config.sources:
        if source.weight > 1:
            raise UserError(
                f"source {source.path}: weight is {source.weight}; cleaning writes each dialogue "
                "at most once. Put weights above 1 into the training config."
            )
        if any(as_path(file).resolve() == out for file in source_files(source)):
            raise UserError(
                f"out is {config.out}, which the source path {source.path} also matches, so the "
                "input would be overwritten; choose another file."
            )


def _build_steps(config: DataCleanConfig) -> dict[str, Step]:
    """Returns the enabled steps by name, in the order in which they run."""
    steps: dict[str, Step] = {}
    if config.html is not None:
        steps["html"] = partial(convert_html, config=config.html)
    if config.language is not None:
        steps["language"] = keep_unless(language_filter(config.language))
    if config.exact_duplicates is not None:
        steps["exact_duplicates"] = keep_unless(ExactDuplicates(config.exact_duplicates))
    if config.decontaminate is not None:
        steps["decontaminate"] = Decontamination(config.decontaminate)
    if config.near_duplicates is not None:
        near_duplicates = NearDuplicates(config.near_duplicates, seed=config.seed)
        steps["near_duplicates"] = keep_unless(near_duplicates)
    if config.split is not None:
        steps["split"] = _split_step(config.split)
    if config.rounds is not None:
        steps["rounds"] = keep_unless(rounds_filter(config.rounds))
    return steps


def _split_step(config: SplitConfig) -> Step:
    if config.tokenizer is None:
        raise UserError(
            "split needs a tokenizer to count tokens; set split.tokenizer to the tokenizer of the "
            "model."
        )
    from parrot_jax.data.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(config.tokenizer)
    return lambda dialogue: split_dialogue(
        dialogue,
        max_tokens=config.max_tokens,
        count=lambda text: len(tokenizer.encode([text])[0]),
        tokens_per_turn=config.tokens_per_turn,
    )


def _not_empty(stream: Iterable[Dialogue]) -> Iterator[Dialogue]:
    number = 0
    for number, dialogue in enumerate(stream, 1):  # noqa: B007  # used after the loop
        yield dialogue
    if number == 0:
        raise _NothingLeftError


def _counted(dialogues: Iterable[Dialogue], advance: Callable[[], None]) -> Iterator[Dialogue]:
    for dialogue in dialogues:
        yield dialogue
        advance()


def _print_summary(
    config: DataCleanConfig, read_report: ReadReport, counts: list[StepCounts], written: int
) -> None:
    console = Console(highlight=False)
    console.print(read_report.summary(), markup=False, soft_wrap=True)
    table = Table("step", "seen", "changed", "dropped", "kept", "reasons")
    for column in table.columns[1:5]:
        column.justify = "right"
    for step in counts:
        reasons = ", ".join(
            f"{reason} {number:,}" for reason, number in step.dropped.most_common(4)
        )
        numbers = (step.seen, step.changed, step.dropped.total(), step.kept)
        # `Text`, since rich would parse brackets in a reason as markup.
        table.add_row(step.name, *(f"{number:,}" for number in numbers), Text(reasons))
    if counts:
        console.print(table)
    if written:
        console.print(
            f"wrote {written:,} dialogues to {config.out} and the report to "
            f"{config.out}.report.json",
            markup=False,
            soft_wrap=True,
        )
