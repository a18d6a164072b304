"""Tokenize and pack the dialogues of a training config into cached rows; print the counts."""

from typing import Any

from parrot_jax.train.train_config import TrainConfig

Config = TrainConfig


def run(config: TrainConfig) -> None:
    """Prepares the splits of `config.data`, or reuses cached ones, and prints their counts."""
    from parrot_jax.core.logs import console, visible
    from parrot_jax.data.prepare import note_shared_files, prepare

    config.check_mask()
    splits = {"train": prepare(config.data, "train", pairs=config.trains_pairs)}
    if config.data.eval_sources or config.data.eval_fraction:
        splits["eval"] = prepare(config.data, "eval", pairs=config.trains_pairs)
        note_shared_files(splits["train"], splits["eval"])
    for split, prepared in splits.items():
        console.print(f"{split}  {prepared.folder}", style="bold")
        for name, value in _lines(prepared.counts, config.batch_rows if split == "train" else None):
            console.print(visible(f"  {name:<34} {value}"))


def _lines(counts: dict[str, Any], batch_rows: int | None) -> list[tuple[str, str]]:
    read = counts["read"]
    lines = [
        ("rows read", f"{read['rows']:,}"),
        *((f"  rejected: {reason}", f"{n:,}") for reason, n in read["broken"].items()),
        *((f"  repaired: {reason}", f"{n:,}") for reason, n in read["repairs"].items()),
        *((f"  key ignored: {key}", f"{n:,}") for key, n in read["passed_over"].items()),
        ("dialogues", f"{counts['dialogues']:,}"),
        *((f"  dropped: {reason}", f"{n:,}") for reason, n in counts["dropped"].items()),
        ("pairs" if "kinds" in counts else "sessions", f"{counts['sessions']:,}"),
        *((f"  of kind {kind}", f"{n:,}") for kind, n in counts.get("kinds", {}).items() if kind),
        *((f"  at turn {turn}", f"{n:,}") for turn, n in counts.get("turns", {}).items()),
        *((f"  dropped, too long for a row: {id}", "1") for id in counts.get("too_long", ())),
        *([("  with a cut context", f"{counts['cut_contexts']:,}")] if "kinds" in counts else []),
        *([("  not a pair", f"{counts['no_pair']:,}")] if counts.get("no_pair") else []),
        ("windows", f"{counts['windows']:,}"),
        ("truncated turns", f"{counts['cut_turns']:,}"),
        ("live turns dropped, too long", f"{counts['dropped_live_turns']:,}"),
        ("rows", f"{counts['rows']:,}"),
        ("tokens", f"{counts['tokens']:,}"),
        (
            "live tokens",
            f"{counts['live_tokens']:,} ({counts['live_tokens'] / counts['tokens']:.1%})",
        ),
        ("share of padding", f"{counts['padding_share']:.1%}"),
    ]
    if batch_rows:
        share = batch_rows / counts["rows"]
        lines += [
            (f"sessions per step of {batch_rows} rows", f"{share * counts['sessions']:.1f}"),
            ("live tokens per step", f"{share * counts['live_tokens']:,.0f}"),
        ]
    return lines + [("rejected row", example) for example in read["examples"]]
