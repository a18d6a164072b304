"""The whole loop in one command on the synthetic world, with the real stages at small size.

people's dialogues → Parrot-Ask → collection with an answerer → Parrot-Chat, on all turns and on
first turns only → CaPO on wrong answers → an exam of eight turns → a report

Finished stages are skipped. An interrupted stage is resumed: training from its checkpoints, the
collection from its journal.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from parrot_jax.collect.run import collect
from parrot_jax.core.config import save_config
from parrot_jax.core.files import write_json
from parrot_jax.core.logs import console
from parrot_jax.core.memory import keep_freed_memory
from parrot_jax.data.prepare import prepare
from parrot_jax.dialogue.writers import DIALOGUES
from parrot_jax.loaded_run import load_run
from parrot_jax.serve.app import make_app
from parrot_jax.serve.background import BackgroundServer
from parrot_jax.train.loop import train
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.world.answerer import Answerer
from parrot_jax.world.capo import files_of_pairs, make_pairs
from parrot_jax.world.exam import HISTORIES, SERVED_ROWS, take_exam
from parrot_jax.world.facts import make_world
from parrot_jax.world.progress import Progress
from parrot_jax.world.recipes import ASKER, ask_config, capo_config, chat_config, collect_config
from parrot_jax.world.report import write_report
from parrot_jax.world.summary import summarise, write_kinds
from parrot_jax.world.world_engine import answerer_engine
from parrot_jax.world.world_files import Sizes, write_world


@dataclass(frozen=True, kw_only=True)
class QuickstartScale:
    """Sizes of the stages. The defaults take four to seven minutes on two CPU cores."""

    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    """Number of dialogues in each file of the world."""

    ask_epochs: float = 1.8
    """Epochs over the people's dialogues."""

    chat_epochs: float = 7.0
    """Epochs over the collected dialogues, or over their first turns."""

    capo_pairs: int = 150
    """Pairs of each kind of negatives, for CaPO."""

    mistake_rate: float = 0.01
    """Share of wrong answers in the collection."""


def quickstart(folder: Path, *, seed: int, scale: QuickstartScale | None = None) -> dict[str, Any]:
    """Runs all stages, or the remaining ones.

    Args:
      folder: The output folder.
      seed: Seed of the world, its people, the weights and the sampling, >= 0.
      scale: Sizes of the stages; None = the defaults.

    Returns:
      The content of `summary.json`.

    Raises:
      UserError: The folder cannot be written, is in use, or has another quickstart.
    """
    keep_freed_memory()
    scale = scale or QuickstartScale()
    with Progress(folder, {"seed": seed, "scale": dataclasses.asdict(scale)}) as progress:
        loop = Loop(folder, seed, scale)
        progress.stage("world", loop.make_world)
        progress.stage("ask", loop.train_ask)
        progress.stage("collect", loop.collect)
        progress.stage("chat", lambda: loop.train_chat("chat"))
        progress.stage("chat_first_turn", lambda: loop.train_chat("chat_first_turn", max_turns=1))
        progress.stage("capo", loop.train_capo)
        progress.stage("exam", loop.examine)

        def report() -> None:
            write_json(folder / "summary.json", loop.summary(progress.seconds, progress.wall_s))
            write_report(folder)

        progress.stage("report", report)
        # Again, with the time of the report itself.
        summary = loop.summary(progress.seconds, progress.wall_s)
        write_json(folder / "summary.json", summary)
    return summary


class Loop:
    """The stages of the loop in one folder. Each can be repeated; finished work is kept."""

    def __init__(self, folder: Path, seed: int, scale: QuickstartScale) -> None:
        """Runs nothing.

        Args:
          folder: The output folder.
          seed: Seed of the world, the weights and the sampling, >= 0.
          scale: Sizes of the stages.
        """
        self.folder, self.seed, self.scale = folder, seed, scale
        self.world = make_world("easy", seed)
        self.files = folder / "world"
        self.ask = ask_config(self.files, folder / "ask", seed=seed, epochs=scale.ask_epochs)
        # Shared by all quickstarts, so that a second one need not compile.
        cache = Path(self.ask.data.cache_dir) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))

    def make_world(self) -> None:
        """Writes the files of the world."""
        write_world(self.files, self.world, self.scale.sizes)
        (place, attribute), value = next(iter(self.world.facts.items()))
        console.print(
            f"{len(self.world.facts)} facts, e.g. the {attribute} of {place} is {value}; "
            f"{self.scale.sizes.people:,} dialogues of people"
        )

    def train_ask(self) -> None:
        """Trains Parrot-Ask; evaluates it before and after training."""
        if not (self.folder / "ask" / "results" / "eval-000000.json").exists():
            train(dataclasses.replace(self.ask, max_steps=0))
        self._train(self.ask)

    def collect(self) -> None:
        """Collects dialogues between Parrot-Ask and the world's answerer."""
        self.talk(self.ask, self.folder / "collect")

    def talk(self, asker: TrainConfig, out: Path, *, max_turns: int = 10) -> None:
        """Serves a trained asker and the answerer, and collects dialogues between them.

        Args:
          asker: The config of its run.
          out: Folder of the collection.
          max_turns: Largest number of questions in a dialogue.
        """
        answerer = Answerer(self.world, mistake_rate=self.scale.mistake_rate)
        with (
            BackgroundServer(
                make_app(load_run(asker.out).engine(ASKER, batch_rows=SERVED_ROWS))
            ) as asker_server,
            BackgroundServer(make_app(answerer_engine(answerer))) as answerer_server,
        ):
            config = collect_config(
                self.files,
                out,
                asker_url=asker_server.url,
                answerer_url=answerer_server.url,
                seed=self.seed,
                max_turns=max_turns,
            )
            self._say("collect", config)
            collect(config)

    def train_chat(
        self, name: str, *, max_turns: int | None = None, equal_steps: bool = False
    ) -> None:
        """Trains Parrot-Chat on the collected dialogues.

        Args:
          name: Folder of the run.
          max_turns: Turns of each dialogue to train on; None = all. Fewer turns fill fewer rows, so
            the run has fewer steps.
          equal_steps: Train for as many steps as on all turns, in more epochs.
        """
        epochs = self.scale.chat_epochs
        if equal_steps:
            whole = prepare(self._chat_config(name, epochs, None).data, "train")
            part = prepare(self._chat_config(name, epochs, max_turns).data, "train")
            epochs *= len(whole.rows()) / len(part.rows())
        self._train(self._chat_config(name, epochs, max_turns))

    def train_capo(self) -> None:
        """Makes negatives for the collected answers, and trains Parrot-Chat with CaPO."""
        pairs = self.folder / "negatives"
        make_pairs(
            self.world,
            self.folder / "collect" / DIALOGUES,
            pairs,
            seed=self.seed,
            per_kind=self.scale.capo_pairs,
            announce=lambda config: self._say("negatives build", config),
        )
        self._train(
            capo_config(
                self.files,
                files_of_pairs(pairs),
                self.folder / "capo",
                init_from=self.folder / "chat",
                seed=self.seed,
                epochs=1,
            )
        )

    def examine(self) -> None:
        """Runs the exam on the chat models, and compares the asker's questions with people's."""
        write_kinds(self.folder, self.world)
        for name in ("chat", "chat_first_turn", "capo"):
            self.take_exam(name)

    def take_exam(self, name: str) -> Path:
        """Runs the exam on a trained model unless it is done; returns the file of its answers."""
        out = self.folder / "exam" / name
        answers = out.with_name(f"{name}.jsonl")
        if not answers.exists():
            # The report compares histories for the model that was trained on all turns.
            histories = HISTORIES if name == "chat" else ("own",)
            take_exam(self.folder / name, self.files / "exam.jsonl", out, histories=histories)
        return answers

    def summary(self, stages: Mapping[str, float], wall_s: float) -> dict[str, Any]:
        """Returns the content of `summary.json`."""
        return summarise(self.folder, self.world, stages, wall_s)

    def _chat_config(self, name: str, epochs: float, max_turns: int | None) -> TrainConfig:
        dialogues = self.folder / "collect" / DIALOGUES
        return chat_config(
            self.files,
            dialogues,
            self.folder / name,
            seed=self.seed,
            epochs=epochs,
            max_turns=max_turns,
        )

    def _train(self, config: TrainConfig) -> None:
        self._say("train", config)
        train(config)

    def _say(self, verb: str, config: Any) -> None:
        """Saves the config, and prints the equivalent command."""
        path = self.folder / "configs" / f"{Path(config.out).name}.yaml"
        save_config(config, path)
        console.print(f"$ parrot {verb} {path}")
