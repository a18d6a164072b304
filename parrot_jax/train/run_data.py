"""What data a run was made from, and in what the data of today differ.

`data.json` of a run folder has, for each split, the hash of its rows and what they came from. Rows
decide: other bytes in a source that give the same rows are no change.
"""

from typing import Any

from parrot_jax.data.data_config import DataConfig
from parrot_jax.data.prepare import Prepared


def describe_data(config: DataConfig, train: Prepared, held_out: Prepared | None) -> dict[str, Any]:
    """The content of `data.json`, as plain values.

    Args:
      config: Names the sources.
      train: The rows that are trained on.
      held_out: Those that are measured; None = none.
    """
    content = train.settings["tokenizer"]
    described: dict[str, Any] = {
        "tokenizer": {"path": config.tokenizer, "content": content},
        "train": _describe(config, train),
    }
    if held_out is not None:
        described["eval"] = _describe(config, held_out)
    return described


def _describe(config: DataConfig, prepared: Prepared) -> dict[str, Any]:
    settings = prepared.settings
    sources = (*(config.sources if settings["sources"] else ()),
               *(config.eval_sources if settings["eval_sources"] else ()))  # fmt: skip
    contents = [*settings["sources"], *settings["eval_sources"]]
    read = prepared.counts["read"]["sources"]
    return {
        "rows": prepared.counts["rows"],
        "rows_hash": prepared.rows_hash,
        "sources": [
            {"path": source.path, "read": counts["rows"],
             "content": content.get("files", content.get("data set"))}
            for source, content, counts in zip(sources, contents, read, strict=True)
        ],
    }  # fmt: skip


def changed_data(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Tells in what the rows differ, as `config.changed_keys` does; empty = they are the same.

    Args:
      old: What `describe_data` said when the run began.
      new: What it says now.

    Returns:
      For instance `data.rows: train 29 -> 33 (dialogues.jsonl: 40 -> 44 rows read)`.

    Raises:
      KeyError, TypeError, AttributeError: `old` is not what `describe_data` gives.
    """
    changes = []
    if old["tokenizer"]["content"] != new["tokenizer"]["content"]:
        # Also where the rows have the same ids: they stand for other texts.
        changes.append(f"data.tokenizer: other content in {new['tokenizer']['path']}")
    for split in ("train", "eval"):
        if split == "eval" and not (split in old and split in new):
            # That it comes or goes is a change of the config, which says so.
            continue
        before, after = old[split], new[split]
        if before["rows_hash"] != after["rows_hash"]:
            causes = "; ".join(_causes(before, after))
            numbers = f"{before['rows']:,} -> {after['rows']:,}"
            changes.append(f"data.rows: {split} {numbers} ({causes})")
    return changes


def _causes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    causes = []
    if len(before["sources"]) != len(after["sources"]):
        causes.append(f"{len(before['sources'])} -> {len(after['sources'])} sources")
    for was, now in zip(before["sources"], after["sources"], strict=False):
        if was["content"] != now["content"]:
            what = f"{was['read']:,} -> {now['read']:,} rows read"
            if was["read"] == now["read"]:
                what = f"other content, {now['read']:,} rows read as before"
            causes.append(f"{now['path']}: {what}")
    return causes or ["the same files, under other settings or another version of the program"]
