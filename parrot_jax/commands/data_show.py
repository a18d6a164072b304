"""Print a dialogue of a training config as the model sees it, or a dialogue of a file as read.

For a config (a YAML file): live text is green, other text grey; without colours, live text is
between `[[live]]` and `[[/live]]`. A preference pair is shown as its two sides. For a file of
dialogues: the messages, and what was rejected, repaired or ignored in the whole file.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import DataConfig
from parrot_jax.train.train_config import Objective

if TYPE_CHECKING:
    from parrot_jax.dialogue.types import Dialogue


@dataclass(frozen=True, kw_only=True)
class DataShowConfig:
    """A training config, whose other keys are ignored, and which of its dialogues to print."""

    data: DataConfig
    """The dialogues, and how they become rows."""

    objective: Objective = "sft"
    """`preference`: the rows hold preference pairs."""

    index: int = 0
    """Which dialogue of the training split, counted from 0."""

    ids: bool = False
    """Print token ids instead of text."""


@dataclass(frozen=True, kw_only=True)
class FileShowConfig:
    """A file of dialogues, and which of them to print."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A file, a glob, the folder of a collection, or hf://owner/name. The format is detected;
    kind:FILE sets it, e.g. sharegpt:a.json."""

    index: int = 0
    """Which dialogue, counted from 0."""


Config = DataShowConfig

_HUB_DIALOGUES = 1000
"""Dialogues read from a hub dataset, or more if `index` requires it."""
_MOST_CHARS_OF_METADATA = 300


def parse(
    config_type: type[DataShowConfig], arguments: Sequence[str], *, prog: str, description: str
) -> DataShowConfig | FileShowConfig:
    """Parses the command's arguments: a YAML file is a config, anything else is dialogues."""
    from parrot_jax.core.arguments import parse_arguments, parse_options
    from parrot_jax.core.config import field_types
    from parrot_jax.train.train_config import TrainConfig

    first = arguments[0] if arguments else ""
    if not first or first.startswith("-") or first.endswith((".yaml", ".yml")):
        return parse_arguments(
            config_type,
            arguments,
            prog=prog,
            description=description,
            passed_over=field_types(TrainConfig).keys() - {"data", "objective"},
        )
    return parse_options(FileShowConfig, arguments, prog=prog, description=description)


def run(config: DataShowConfig | FileShowConfig) -> None:
    """Prints one dialogue: its windows or the sides of a pair for a config, turns for a file."""
    if config.index < 0:
        raise UserError(f"--index is {config.index}; dialogues are counted from 0.")
    if isinstance(config, FileShowConfig):
        _show_file(config)
    else:
        _show_windows(config)


def _show_windows(config: DataShowConfig) -> None:
    from rich.text import Text

    from parrot_jax.core.logs import console, visible
    from parrot_jax.data.live_text import live_text
    from parrot_jax.data.prepare import read_split
    from parrot_jax.data.templates import make_template
    from parrot_jax.data.tokenizers import load_tokenizer
    from parrot_jax.dialogue.report import ReadReport

    tokenizer = load_tokenizer(config.data.tokenizer)
    report = ReadReport()
    stream = read_split(config.data, "train", report=report)
    dialogue = next(itertools.islice(stream, config.index, None), None)
    if dialogue is None:
        raise UserError(f"--index is {config.index}, but the training split ends before it.")
    template = make_template(config.data.template, tokenizer)
    shown = live_text(dialogue, config.data, template, pairs=config.objective == "preference")
    console.print(visible(f"dialogue {config.index}: {dialogue.id} from {dialogue.source}"))
    for reason in shown.dropped:
        console.print(reason, style="yellow")
    has_colours = console.is_terminal and bool(console.color_system) and not console.no_color
    for window in shown.windows:
        console.rule(f"{window.name}: {window.tokens:,} tokens, {window.live:,} live")
        text = Text()
        for run in window.runs:
            said = " ".join(map(str, run.ids)) + " " if config.ids else visible(run.text)
            if not has_colours:
                said = _marked(said, is_live=run.is_live)
            text.append(said, style="green" if run.is_live else "bright_black")
        console.print(text)
    for cut in shown.cuts:
        console.print(cut, style="yellow")
    console.print(visible(f"up to this dialogue: {report.summary()}"))


def _marked(text: str, *, is_live: bool) -> str:
    """Marks live text with brackets; escapes such marks in the text itself.

    >>> _marked("a [[live]]", is_live=True)
    '[[live]]a [ [live]][[/live]]'
    """
    text = re.sub(r"\[(?=\[/?live\]\])", "[ ", text)
    return f"[[live]]{text}[[/live]]" if is_live else text


def _show_file(config: FileShowConfig) -> None:
    from dataclasses import replace

    from parrot_jax.core.logs import console, counting, visible
    from parrot_jax.dialogue.report import ReadReport
    from parrot_jax.dialogue.sources import read_sources
    from parrot_jax.stats.inputs import source_of

    try:
        source = source_of(config.path)
    except UserError as error:
        raise UserError(
            f"{error} (`parrot data show` takes a file of dialogues, or a training config named "
            "*.yaml.)"
        ) from None
    if source.kind == "huggingface":
        source = replace(source, limit=max(_HUB_DIALOGUES, config.index + 1))
    report = ReadReport()
    wanted, number = None, 0
    with counting("dialogues read") as advance:
        for number, dialogue in enumerate(read_sources([source], seed=0, report=report), 1):
            wanted = dialogue if number == config.index + 1 else wanted
            advance()
    if wanted is None:
        raise UserError(f"--index is {config.index}, but {config.path} has {number} dialogues.")
    console.print(visible(f"{source.path}, read as kind: {source.kind}"), style="bold")
    for line in _lines(wanted, config.index):
        console.print(visible(line))
    console.rule("the whole file" if source.kind != "huggingface" else "the dialogues read")
    console.print(visible(report.summary()))
    for example in report.examples[1:]:
        console.print(visible(f"  another: {example}"))


def _lines(dialogue: "Dialogue", index: int) -> list[str]:
    import json

    lines = [f"dialogue {index}: {dialogue.id} from {dialogue.source}"]
    if dialogue.metadata:
        metadata = json.dumps(dict(dialogue.metadata), ensure_ascii=True)
        cut = metadata[:_MOST_CHARS_OF_METADATA]
        lines.append(f"metadata: {cut}{'...' if cut != metadata else ''}")
    lines.append("")
    if dialogue.system:
        lines.append(f"SYSTEM: {dialogue.system}")
    pair = dialogue.rejected
    for turn in (*dialogue.turns, *([pair] if pair else [])):
        speaker = "REJECTED" if turn is pair else turn.role.upper()
        if turn.context:
            lines.append(f"{speaker}, context only: {turn.context}")
        weight = ", context only" if turn.weight == 0 else f", weight {turn.weight:g}"
        lines.append(f"{speaker}{'' if turn.weight == 1 else weight}: {turn.text}")
    return lines
