"""Records which data a run uses, and compares it when the run is resumed.

`data.json` of a run folder has, for each split, the hash of its rows and their sources. Only the
rows are compared: a source file may change if it still gives the same rows.
"""

from typing import Any

from parrot_jax.data.data_config import DataConfig
from parrot_jax.data.prepare import Prepared


def describe_data(config: DataConfig, train: Prepared, held_out: Prepared | None) -> dict[str, Any]:
    """The content of `data.json`, as JSON values.

    Args:
      config: Names the sources.
      train: The training rows.
      held_out: The evaluation rows, or None.
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
    """Lists how the rows differ, in the form of `config.changed_keys`; empty = they are the same.

    Args:
      old: From `describe_data` when the run started.
      new: From `describe_data` now.

    Returns:
      For instance `data.rows: train 29 -> 33 (dialogues.jsonl: 40 -> 44 rows read)`.

    Raises:
      KeyError, TypeError, AttributeError: `old` does not have the form of `describe_data`.
    """
    changes = []
    if old["tokenizer"]["content"] != new["tokenizer"]["content"]:
        # Also if the rows have the same ids: they now mean other texts.
        changes.append(f"data.tokenizer: {new['tokenizer']['path']} has changed")
    for split in ("train", "eval"):
        if split == "eval" and not (split in old and split in new):
            # If a split was added or removed, the config differs and is reported.
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
                what = f"content changed, still {now['read']:,} rows read"
            causes.append(f"{now['path']}: {what}")
    return causes or ["same files, but other settings or another version of parrot-jax"]
