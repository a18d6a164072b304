"""Preference training compared with TRL's `DPOTrainer`: live tokens per second and peak memory.

Both train the same model on the same pairs in each step, in float32, alternating in one process.
Pairs whose two sides do not fit in a row without a cut are left out, so both read the same tokens.
Ours is what `parrot train` runs: packed rows, the reference from its cache. TRL runs three times:

    default  the reference model in memory, gradient checkpointing
    best     `precompute_ref_log_probs`, no gradient checkpointing; the pairs of a round are
             regrouped by length, so there is less padding
    patched  as best, and the head scores only live tokens, as TRL does on a GPU but not on a CPU

Memory is the peak of a process for each, which trains a round. Needs the extra `trl`.

    python scripts/bench/preference.py --pairs PAIRS --tokenizer TOKENIZER [--rows 4] [--rounds 3]
"""

import argparse
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SYSTEMS = ("ours", "default", "best", "patched")
Round = list[list[int]]
"""The pairs of each step, by their number in the file."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", required=True, help="a file of `kind: preference`")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=4, help="rows of a step")
    parser.add_argument("--steps", type=int, default=2, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most-pairs", type=int, help="use only so many pairs")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def config_of(options: argparse.Namespace, **changes: Any) -> Any:
    """The run in `options.folder`."""
    from dataclasses import replace

    from parrot_jax.data.data_config import DataConfig, MaskConfig
    from parrot_jax.dialogue.sources import SourceConfig
    from parrot_jax.model.model_config import ModelConfig
    from parrot_jax.sharding import MeshConfig
    from parrot_jax.train.train_config import OptimConfig, TrainConfig

    config = TrainConfig(
        task="chat",
        objective="preference",
        out=str(options.folder / "start"),
        data=DataConfig(
            sources=(SourceConfig(kind="preference", path=str(options.folder / "pairs.jsonl")),),
            tokenizer=options.tokenizer,
            mask=MaskConfig(loss_roles=("assistant",)),
            row_tokens=options.tokens,
            cache_dir=str(options.folder / "cache"),
        ),
        model=ModelConfig(
            vocab_size=32000,
            hidden_size=options.width,
            intermediate_size=options.width * 43 // 16,
            num_hidden_layers=options.layers,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=4096,
        ),
        optim=OptimConfig(lr=1e-4, warmup_epochs=0, final_lr_fraction=1.0),
        mesh=MeshConfig(data=1, fsdp=1, tensor=1),
        epochs=1000,
        max_steps=0,
        batch_rows=options.rows,
        compute_dtype="float32",
    )
    return replace(config, **changes)


# ---- the pairs -----------------------------------------------------------------------------------


def write_pairs(options: argparse.Namespace) -> int:
    """Writes the pairs that fit, in TRL's form; returns how many there are in all."""
    from dataclasses import replace

    from parrot_jax.data.masks import mask_turns
    from parrot_jax.data.prepare import read_split
    from parrot_jax.data.templates import make_template
    from parrot_jax.data.tokenizers import load_tokenizer
    from parrot_jax.dialogue.sources import SourceConfig

    data = config_of(options).data
    data = replace(data, sources=(SourceConfig(kind="preference", path=options.pairs),))
    template = make_template(data.template, load_tokenizer(data.tokenizer))
    dialogues = list(read_split(data, "train"))
    kept = []
    for dialogue in dialogues:
        turns = mask_turns(dialogue, data.mask)
        before: Any = [(turn.role, turn.text, turn.context) for turn in turns]
        other = dialogue.rejected
        assert other is not None
        sides = [before, [*before[:-1], ("assistant", other.text, other.context)]]
        rendered = template.render([(dialogue.system, side) for side in sides])
        if sum(len(side.ids()) for side in rendered) > options.tokens:
            continue
        prompt = [{"role": "system", "content": dialogue.system}] if dialogue.system else []
        prompt += [{"role": turn.role, "content": turn.whole} for turn in dialogue.turns[:-1]]
        answers = {"chosen": dialogue.turns[-1], "rejected": other}
        kept.append(
            {"prompt": prompt}
            | {
                name: [{"role": "assistant", "content": turn.whole}]
                for name, turn in answers.items()
            }
        )
    text = "".join(json.dumps(pair) + "\n" for pair in kept[: options.most_pairs])
    (options.folder / "pairs.jsonl").write_text(text)
    return len(dialogues)


def pairs_of_steps(config: Any, num_steps: int) -> Round:
    """The pairs that each step of our run reads."""
    import numpy as np

    from parrot_jax.data.pipeline import Batches
    from parrot_jax.data.prepare import prepare

    prepared = prepare(config.data, "train", pairs=True)
    spans, num_rows = prepared.spans(), len(prepared.rows())
    members = [spans["dialogue"][spans["row"] == row][::2].tolist() for row in range(num_rows)]
    places: Any = [{"row": np.array(row)} for row in range(num_rows)]
    batches = Batches(places, batch_rows=config.batch_rows, seed=config.seed)
    return [
        [pair for row in batches[step]["row"] for pair in members[row]] for step in range(num_steps)
    ]


def grouped(steps: Round, lengths: Sequence[int]) -> Round:
    """The same pairs in as many steps, those of similar length together."""
    pairs = sorted(itertools.chain(*steps), key=lambda pair: lengths[pair])
    cuts = [round(len(pairs) * number / len(steps)) for number in range(len(steps) + 1)]
    return [pairs[first:stop] for first, stop in itertools.pairwise(cuts)]


# ---- the systems ---------------------------------------------------------------------------------

RunRound = Callable[[int, Round], tuple[list[float], list[float]]]
"""Runs the steps of a round, given its first step and its pairs: seconds and losses by step."""


def make_ours(options: argparse.Namespace) -> tuple[RunRound, float]:
    """Our steps, and the seconds of the reference pass."""
    import jax

    from parrot_jax.train.reference import load_reference
    from parrot_jax.train.setup import set_up
    from parrot_jax.train.state import new_state

    config = config_of(options)
    setup = set_up(config, is_new=True)
    state = new_state(config, setup.program.optimizer, setup.program.state)
    started = time.perf_counter()
    reference = load_reference(setup, state.params, options.folder / "cache")
    seconds = time.perf_counter() - started
    setup = setup.with_rows(reference.train, config.seed)
    # The step donates the state, so its holder is changed in place.
    held = {"state": state}

    def run(first: int, steps: Round) -> tuple[list[float], list[float]]:
        times, losses = [], []
        for step in range(first, first + len(steps)):
            batch = setup.batch(step)
            begun = time.perf_counter()
            after = setup.program.step(held["state"], batch, setup.learning_rate(step))
            held["state"], metrics = jax.block_until_ready(after)
            times.append(time.perf_counter() - begun)
            losses.append(float(metrics.loss))
        return times, losses

    return run, seconds


def make_theirs(options: argparse.Namespace, *, precomputed: bool) -> tuple[RunRound, float]:
    """TRL's steps, and the seconds in which it made its trainer and computed the reference."""
    import torch  # pyright: ignore[reportMissingImports] - an extra
    import transformers
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportMissingImports] - an extra

    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    export, optim = options.folder / "hf", config_of(options).optim

    class Timer(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.begun, self.times = 0.0, []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.times.append(time.perf_counter() - self.begun)

    class Trainer(DPOTrainer):
        """With given batches."""

        steps: Any = ()
        losses: Any = ()

        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(
                self.train_dataset, batch_sampler=self.steps, collate_fn=self.data_collator
            )

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            self.losses.append(float(loss.detach()))
            return loss

    timer, lines = Timer(), (options.folder / "pairs.jsonl").read_text().splitlines()
    dataset = Dataset.from_list([json.loads(line) for line in lines])
    started = time.perf_counter()
    trainer = Trainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32),
        processing_class=transformers.AutoTokenizer.from_pretrained(export),
        train_dataset=dataset,
        callbacks=[timer],
        args=DPOConfig(
            output_dir=str(options.folder / "trl"), use_cpu=True, bf16=False,
            precompute_ref_log_probs=precomputed, precompute_ref_batch_size=4,
            gradient_checkpointing=not precomputed, max_length=options.tokens,
            learning_rate=optim.lr, lr_scheduler_type="constant",
            adam_beta2=optim.beta2, weight_decay=0.0, max_grad_norm=optim.clip_norm,
            logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True,
        ),
    )  # fmt: skip
    seconds = time.perf_counter() - started
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)

    def run(first: int, steps: Round) -> tuple[list[float], list[float]]:
        trainer.steps, trainer.losses, timer.times = steps, [], []
        trainer.args.max_steps = len(steps)
        trainer.train()
        return timer.times, trainer.losses

    return run, seconds


def make_systems(
    options: argparse.Namespace, names: Sequence[str], lengths: Sequence[int]
) -> tuple[dict[str, RunRound], dict[str, float]]:
    """The systems by name, and the seconds that each needed before its first step."""
    runs: dict[str, RunRound] = {}
    seconds: dict[str, float] = {}
    if "ours" in names:
        runs["ours"], seconds["ours"] = make_ours(options)
    if "default" in names:
        runs["default"], seconds["default"] = make_theirs(options, precomputed=False)
    if "best" in names or "patched" in names:
        run, seconds["best"] = make_theirs(options, precomputed=True)
        runs["best"] = lambda first, steps: run(first, grouped(steps, lengths))
        runs["patched"] = lambda first, steps: with_live_head(runs["best"], first, steps)
        seconds["patched"] = seconds["best"]
    return {name: runs[name] for name in names}, seconds


def with_live_head(run: RunRound, first: int, steps: Round) -> tuple[list[float], list[float]]:
    """Runs a round while TRL believes that it is on a GPU where it chooses the head's tokens."""
    from unittest import mock

    with mock.patch("trl.trainer.utils._use_triton", return_value=True):
        return run(first, steps)


# ---- measuring -----------------------------------------------------------------------------------


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_own_process(options: argparse.Namespace, *args: str) -> list[str]:
    """Runs this script for a part; returns the words of its last line."""
    command = [sys.executable, *sys.argv, "--folder", str(options.folder), *args]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1].split()


def make_files(options: argparse.Namespace) -> None:
    """The pairs, the model and its export."""
    from parrot_jax.cli import main as parrot
    from parrot_jax.train.loop import train

    num_pairs = write_pairs(options)
    config = config_of(options)
    train(config)
    parrot(["convert", "flax-to-hf", config.out, str(options.folder / "hf")])
    print(num_pairs)


def measure_memory(options: argparse.Namespace, name: str) -> None:
    """Prints the peak before and after a round."""
    steps = pairs_of_steps(config_of(options), options.steps)
    lengths = [longer for _, _, longer in count_tokens(options)]
    import torch  # noqa: F401 - so that all processes start with the same libraries  # pyright: ignore[reportMissingImports]
    import trl  # noqa: F401  # pyright: ignore[reportMissingImports]

    import parrot_jax.train.loop  # noqa: F401

    before = peak_mib()
    runs, _ = make_systems(options, [name], lengths)
    runs[name](0, steps)
    print(f"\n{before} {peak_mib()}")


def count_tokens(options: argparse.Namespace) -> list[tuple[int, int, int]]:
    """Tokens, live tokens, and tokens of the longer side of each pair."""
    import numpy as np

    from parrot_jax.data.prepare import prepare

    prepared = prepare(config_of(options).data, "train", pairs=True)
    assert not prepared.counts["cut_contexts"]
    rows, spans = prepared.rows(), prepared.spans()
    found = {}
    for row in range(len(rows)):
        segments, live = rows[row]["segment_ids"], rows[row]["loss_weights"] > 0
        for place, pair in enumerate(spans["dialogue"][spans["row"] == row][::2]):
            mine = np.isin(segments, (2 * place + 1, 2 * place + 2))
            longer = max(int((segments == 2 * place + side).sum()) for side in (1, 2))
            found[int(pair)] = (int(mine.sum()), int((mine & live).sum()), longer)
    return [found[pair] for pair in range(len(found))]


def measure(options: argparse.Namespace, num_pairs: int) -> None:
    config = config_of(options)
    all_steps = pairs_of_steps(config, options.steps * options.rounds + 1)
    counts = count_tokens(options)
    lengths = [longer for _, _, longer in counts]
    names = list(SYSTEMS)
    runs, before = make_systems(options, names, lengths)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    live_rates: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, list[float]] = {name: [] for name in names}
    for run in runs.values():
        run(0, all_steps[:1])  # compiles, and warms caches
    for number in range(options.rounds):
        first = 1 + number * options.steps
        steps = all_steps[first : first + options.steps]
        live = sum(counts[pair][1] for step in steps for pair in step)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times, found = runs[name](first, steps)
            losses[name] += found
            seconds[name] += times
            live_rates[name].append(live / sum(times))
    used = all_steps[1:]
    pairs = [len(step) for step in used]
    tokens, live = (sum(counts[p][at] for step in used for p in step) for at in (0, 1))
    print(
        f"{len(counts)} pairs that fit in {options.tokens} tokens, of {num_pairs} in the file; "
        f"{statistics.mean(pairs):.1f} pairs ({min(pairs)} to {max(pairs)}), "
        f"{tokens / len(used):,.0f} tokens and {live / len(used):,.0f} live tokens a step"
    )
    worst = max(abs(a - b) for a, b in zip(losses["ours"], losses["default"], strict=True))
    print(
        f"losses of ours and TRL's default differ by up to {worst:.1e} over "
        f"{len(losses['ours'])} steps; the last is {losses['ours'][-1]:.5f}"
    )
    for name in names:
        rate = statistics.median(live_rates[name])
        ratios = [a / b for a, b in zip(live_rates["ours"], live_rates[name], strict=True)]
        print(
            f"{name:8} {statistics.median(seconds[name]):6.2f} s a step ({min(seconds[name]):.2f} "
            f"to {max(seconds[name]):.2f})  {rate:7,.0f} live tok/s  {rate * tokens / live:7,.0f} "
            f"tok/s  ours is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to "
            f"{max(ratios):.2f})  start {before[name]:.0f} s"
        )


def main() -> None:
    options = parse()
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    if options.memory_of:
        measure_memory(options, options.memory_of)
    elif options.folder:
        make_files(options)
    else:
        options.folder = Path(tempfile.mkdtemp())
        try:
            (num_pairs,) = in_own_process(options)
            # Before this process loads anything, because a child starts with its parent's peak.
            for name in SYSTEMS:
                before, peak = map(float, in_own_process(options, "--memory-of", name))
                print(f"{name:8} peak {peak:6,.0f} MiB, libraries {before:,.0f}", flush=True)
            load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
            print(f"load {load}", flush=True)
            measure(options, int(num_pairs))
        finally:
            shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
