"""Generate the next question (`task: ask`) or answer (`task: chat`) for given histories."""

import json
import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input
from parrot_jax.core.logs import visible
from parrot_jax.core.paths import AnyPath, as_path
from parrot_jax.serve.messages import says_nothing, shown

# Keys of a row that would change the prompt and are not supported.
_CHANGE_THE_PROMPT = ("system", "tools", "functions", "documents")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What to generate, and how."""

    run: Annotated[str, tyro.conf.Positional]
    """The run folder; its newest checkpoint is used."""

    messages: str
    """A JSON file with a list of {role, content}, or an object with `messages`. `.jsonl`: one
    object per line."""

    max_tokens: int = 256
    """Limit on the tokens of a reply."""

    temperature: float = 0.0
    """0 = greedy decoding."""

    top_p: float = 1.0
    """Nucleus sampling, in (0, 1]; 1 = off."""

    seed: int = 0
    """The same seed gives the same reply."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"--max-tokens is {self.max_tokens}; it must be at least 1.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"--temperature is {self.temperature}; it must be finite and >= 0.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p is {self.top_p}; it must be in (0, 1].")


Config = GenerateConfig


def run(config: GenerateConfig) -> None:
    """Prints one reply per history: plain text for `.json`, JSON lines for `.jsonl`."""
    from parrot_jax.core.xla_flags import set_xla_flags
    from parrot_jax.loaded_run import load_run

    set_xla_flags()  # on a GPU, also the share of its memory
    histories = _read_histories(as_path(config.messages))
    run = load_run(config.run)
    for where, messages in histories:
        try:
            run.prompt(messages)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    replies = run.generate(
        [messages for _, messages in histories],
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
    )
    for reply in replies:
        if config.messages.endswith(".jsonl"):
            print(json.dumps(reply._asdict(), ensure_ascii=False))
        else:
            print(visible(reply.text) if sys.stdout.isatty() else reply.text)


def _read_histories(path: AnyPath) -> list[tuple[str, list[Any]]]:
    """Returns the position in the file (`FILE:LINE`) and the messages of each history.

    Raises:
      UserError: A history is not a list of messages; the error names file and line.
    """
    with open_input(path) as file:
        text = file.read()
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    histories = []
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}" if path.suffix == ".jsonl" else str(path)
        if path.suffix == ".jsonl" and not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not valid JSON: {error}") from None
        histories.append((where, _messages_of(value, where)))
    if not histories:
        raise UserError(f"{path} has no messages.")
    return histories


def _messages_of(value: Any, where: str) -> list[Any]:
    """Returns the messages of one JSON value of the file."""
    row = value if isinstance(value, dict) else {"messages": value}
    if not isinstance(row.get("messages"), list):
        raise UserError(f'{where}: expected a list of messages, or {{"messages": [...]}}.')
    for key in _CHANGE_THE_PROMPT:
        if not says_nothing(row.get(key)):
            raise UserError(
                f"{where}: `{key}` is {shown(row[key])}, which is not supported; put a system "
                "prompt into a message with role `system`, or remove the key."
            )
    return row["messages"]
