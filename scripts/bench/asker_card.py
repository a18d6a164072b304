"""Report cards on dialogues that no asker has seen: WildChat's askers, and the quickstart's.

    python scripts/bench/asker_card.py --data wildchat.jsonl --tokenizer tokenizer.model

WildChat: trains configs/train/ask_wildchat_cpu.yaml, and a chat model of the same size that is
prompted to play the user. World: trains the quickstart's asker, the same with `train_end`, and the
quickstart's Parrot-Chat as the prompted one. Finished parts are not repeated. Prints both cards.
"""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from parrot_jax.core.config import load_config
from parrot_jax.data.prepare import read_split
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.dialogue.writers import write_messages
from parrot_jax.loaded_run import load_run
from parrot_jax.serve.app import make_app
from parrot_jax.serve.background import BackgroundServer
from parrot_jax.train.loop import train
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.world.quickstart import Loop, QuickstartScale
from parrot_jax.world.recipes import ask_config

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "train" / "ask_wildchat_cpu.yaml"
PROMPT = ROOT / "configs" / "collect" / "prompts" / "user.jinja"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="WildChat's dialogues as messages JSONL")
    parser.add_argument("--tokenizer", required=True, help="a SentencePiece tokenizer.model")
    parser.add_argument("--out", default="runs/asker_card", help="folder of the runs")
    options = parser.parse_args()
    out = Path(options.out)
    print("# WildChat", flush=True)
    wildchat(out / "wildchat", options.data, options.tokenizer)
    print("# The world of the quickstart", flush=True)
    world(out / "world")


def wildchat(out: Path, data: str, tokenizer: str) -> None:
    """Trains an asker and a chat model on four fifths, and compares them on the rest."""
    base = load_config(TrainConfig, CONFIG)
    source = SourceConfig(kind="messages", path=data)
    split = replace(base.data, sources=(source,), tokenizer=tokenizer)
    asker = replace(base, out=str(out / "asker"), data=split)
    answers = replace(split.mask, loss_roles=("assistant",), skip_first_turn=False)
    chat = replace(base, task="chat", out=str(out / "chat"), data=replace(split, mask=answers))
    for config in (asker, chat):
        train(config)
    reference = out / "held_out.jsonl"
    write_messages(reference, read_split(split, "eval"))
    with prompted(out / "chat", out / "prompted.yaml") as endpoint:
        card(out, reference, [out / "asker", endpoint])


def world(out: Path) -> None:
    """The first stages of the quickstart, seed 0, and an asker that learns to end."""
    loop = Loop(out, 0, QuickstartScale())
    loop.make_world()
    loop.train_ask()
    loop.collect()
    loop.train_chat("chat")
    train(ask_config(loop.files, out / "ask_train_end", seed=0, epochs=loop.scale.ask_epochs,
                     train_end=True))  # fmt: skip
    with prompted(out / "chat", out / "prompted.yaml") as endpoint:
        card(out, loop.files / "held_out.jsonl", [out / "ask", out / "ask_train_end", endpoint])


@contextlib.contextmanager
def prompted(run: Path, path: Path) -> Iterator[Path]:
    """Serves a chat model with the prompt of iterative self-chat while the block runs."""
    with BackgroundServer(make_app(load_run(run).engine("chat"))) as server:
        values = {"base_url": server.url, "model": "chat", "temperature": 1.0, "max_tokens": 128,
                  "concurrency": 64, "timeout_s": 3600, "prompt": str(PROMPT)}  # fmt: skip
        path.write_text(yaml.safe_dump(values))
        yield path


def card(out: Path, reference: Path, askers: list[Path]) -> None:
    """Runs `parrot evaluate asker`."""
    subprocess.run(
        [
            sys.executable, "-m", "parrot_jax.cli", "evaluate", "asker", *map(str, askers),
            "--reference", str(reference), "--out", str(out / "card"), "--max-tokens", "128",
        ],
        check=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
