"""Write the report card of askers: do they ask as people do?

At each turn of people's dialogues, each asker writes the next question; a table compares the
questions with people's. Run again to continue.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import require_local_folder

if TYPE_CHECKING:
    from parrot_jax.askers.asker_config import AskerEndpointConfig
    from parrot_jax.askers.asking import Questions
    from parrot_jax.askers.perplexity import Loss
    from parrot_jax.askers.reference import Reference
    from parrot_jax.loaded_run import Run


@dataclass(frozen=True, kw_only=True)
class EvaluateAskerConfig:
    """The askers, people's dialogues, and where the card goes.

    Raises:
      UserError: A value is outside its range.
    """

    askers: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ASKER...")]
    """Each is the run folder of an asker, or the YAML file of an endpoint, as in configs/askers.
    The others are put beside the first one."""

    reference: str
    """People's dialogues that no asker has seen: a file, a glob, or hf://owner/name. The format is
    detected; kind:PATH sets it."""

    out: str
    """Folder of card.json, card.html, the questions and the journals."""

    sample: int | None = 200
    """Dialogues to draw, >= 2, by seed and content; null = all."""

    max_turns: int = 10
    """Later questions of a dialogue are not compared; >= 2."""

    temperature: float = 1.0
    """Sampling temperature of run folders, >= 0. At 1 an asker shows all that it has learnt."""

    max_tokens: int = 256
    """Most tokens of a question by a run folder, >= 1."""

    seed: int = 0
    """Seed of the sample, the requests and the intervals; >= 0."""

    def __post_init__(self) -> None:
        require_local_folder(self.out, "--out")
        if not self.askers:
            raise UserError("no asker was given; name a run folder or the YAML of an endpoint.")
        for name, least in (("sample", 2), ("max_turns", 2), ("max_tokens", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} is {value}; it must be at least {least}.")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}; it must be finite and >= 0.")


Config = EvaluateAskerConfig

_IN_FLIGHT = 64
"""Requests to a served run at once: enough to fill batches of prompts of equal length."""


def run(config: EvaluateAskerConfig) -> None:
    """Asks, measures, prints and writes the card."""
    from parrot_jax.askers.card import make_card
    from parrot_jax.askers.reference import read_reference
    from parrot_jax.askers.writing import print_card, write_card
    from parrot_jax.core.signals import as_ctrl_c
    from parrot_jax.stats.inputs import source_of

    out = Path(config.out)
    names = _names(config.askers)
    endpoints = {
        name: _read_endpoint(asker) for name, asker in zip(names, config.askers, strict=True)
    }
    with as_ctrl_c():
        reference = read_reference(
            source_of(config.reference),
            sample=config.sample,
            max_turns=config.max_turns,
            seed=config.seed,
        )
        asked, losses = [], {}
        for name, asker in zip(names, config.askers, strict=True):
            questions, its_losses = _ask(
                config, name, asker, endpoints[name], reference, out / _folder(name)
            )
            asked.append(questions)
            if its_losses is not None:
                losses[name] = its_losses
        card = make_card(reference, asked, losses, seed=config.seed)
    print_card(card, write_card(card, out))
    for questions in asked:
        # Raised last, so that the card so far is written.
        if questions.problem is not None:
            raise questions.problem


def _names(askers: Sequence[str]) -> list[str]:
    from parrot_jax.askers.card import PEOPLE
    from parrot_jax.stats.inputs import labels_of

    names = labels_of([asker.removesuffix(".yaml") for asker in askers])
    folders: dict[str, str] = {}
    for name, asker in zip(names, askers, strict=True):
        if name == PEOPLE:
            raise UserError(f"{asker} would have the name of the column {PEOPLE}; rename it.")
        if (other := folders.setdefault(_folder(name), asker)) != asker:
            raise UserError(
                f"{other} and {asker} would share the folder {_folder(name)}; rename one of them."
            )
    return names


def _folder(name: str) -> str:
    """The folder of an asker; names may have slashes."""
    return name.strip("./").replace("/", "-") or "asker"


def _read_endpoint(asker: str) -> "AskerEndpointConfig | None":
    """The endpoint of a YAML file; None = it is a run folder."""
    from parrot_jax.askers.asker_config import AskerEndpointConfig
    from parrot_jax.core.config import load_config

    return load_config(AskerEndpointConfig, asker) if asker.endswith((".yaml", ".yml")) else None


def _ask(
    config: EvaluateAskerConfig,
    name: str,
    asker: str,
    endpoint: "AskerEndpointConfig | None",
    reference: "Reference",
    out: Path,
) -> "tuple[Questions, list[Loss] | None]":
    from parrot_jax.askers.asking import ask_questions

    if endpoint is not None:
        return ask_questions(name, endpoint, reference, out, seed=config.seed), None
    with _served(config, asker) as (served, trained):
        questions = ask_questions(name, served, reference, out, seed=config.seed)
    return questions, _losses(trained, reference, out)


@contextlib.contextmanager
def _served(config: EvaluateAskerConfig, asker: str) -> "Iterator[tuple[AskerEndpointConfig, Run]]":
    """Serves a run folder while the block runs."""
    from parrot_jax.askers.asker_config import AskerEndpointConfig
    from parrot_jax.core.xla_flags import set_xla_flags
    from parrot_jax.loaded_run import load_run
    from parrot_jax.serve.app import REQUEST_S, make_app
    from parrot_jax.serve.background import BackgroundServer

    set_xla_flags()  # on a GPU, also the share of its memory
    run = load_run(asker)
    if run.config.task != "ask":
        raise UserError(
            f"{asker} was trained to answer (task: {run.config.task}); give an asker. A chat model "
            "asks with a prompt: serve it, and give the YAML of its endpoint with `prompt`."
        )
    # The name decides whether a journal can be continued: other weights are another model.
    with contextlib.closing((opened := run.folder.open_checkpoint())[0]) as checkpoints:
        model = f"{run.folder.path.name}@{checkpoints.identity(opened[1])[:8]}"
    with BackgroundServer(make_app(run.engine(model))) as server:
        endpoint = AskerEndpointConfig(
            base_url=server.url,
            model=model,
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            concurrency=_IN_FLIGHT,
            timeout_s=REQUEST_S,
            first_turn=not run.config.data.mask.skip_first_turn,
        )
        yield endpoint, run


def _losses(run: "Run", reference: "Reference", out: Path) -> "list[Loss]":
    """The losses of people's questions, except those that the asker was not trained on."""
    from parrot_jax.askers.perplexity import Loss
    from parrot_jax.dialogue.sources import SourceConfig
    from parrot_jax.dialogue.writers import write_messages

    path = out / "reference.jsonl"
    write_messages(path, reference.dialogues)
    turns = run.turn_losses(SourceConfig(kind="messages", path=str(path)))
    skips_first = run.config.data.mask.skip_first_turn
    return [
        Loss(int(row["dialogue"]), int(row["turn"]) // 2 + 1, int(row["tokens"]), float(row["nll"]))
        for row in turns
        if row["is_user"] and skips_first <= row["turn"] // 2 < reference.max_turns
    ]
