"""Exports a collection: filters its finished dialogues and writes the dataset folder."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from parrot_jax.api.endpoint_config import EndpointConfig
from parrot_jax.collect.collect_config import BeginningsConfig
from parrot_jax.collect.dataset import About, DatasetSummary, write_dataset
from parrot_jax.collect.export import (
    collected_dialogue,
    finished_dialogues,
    num_collected_turns,
)
from parrot_jax.collect.filters import (
    DialogueFilter,
    RepeatedElsewhere,
    RepeatsConfig,
    apply_filters,
    leaves_out,
)
from parrot_jax.collect.folder import Collection, JournaledDialogue
from parrot_jax.collect.moderation import Moderation, moderate
from parrot_jax.collect.stops import check_filters
from parrot_jax.core.config import config_to_dict
from parrot_jax.core.published_names import name_to_publish, without_folders
from parrot_jax.version import __version__


def export_dataset(
    folder: Path | str,
    out: Path | str,
    *,
    license: str | None = None,
    repeats: RepeatsConfig | None = None,
    moderator: EndpointConfig | None = None,
    filters: Sequence[DialogueFilter] = (),
) -> DatasetSummary:
    """Filters the finished dialogues of a collection and writes them as a dataset.

    Args:
      folder: Folder of the collection. It may still be running; the dialogues that have ended are
        exported.
      out: The folder to write.
      license: Licence id for the card.
      repeats: Settings of the filter for repeated questions; None = the defaults.
      moderator: Judges every text before anything is written; None = no moderation.
      filters: Custom filters, called with each dialogue as collected.

    Raises:
      UserError: See `write_dataset`.
      RunError: The moderator failed.

    >>> from parrot_jax import BeginningsConfig, CollectConfig, SpeakerConfig, collect_dialogues
    >>> from parrot_jax.api.scripted_server import ScriptedServer
    >>> folder = getfixture("tmp_path")
    >>> first = folder / "first.jsonl"
    >>> _ = first.write_text('{"messages": [{"role": "user", "content": "Why?"}]}')
    >>> begin = BeginningsConfig(kind="messages", path=str(first))
    >>> with ScriptedServer() as server:  # doctest: +ELLIPSIS
    ...     speaker = SpeakerConfig(base_url=server.url, model="m")
    ...     config = CollectConfig(out=str(folder / "out"), asker=speaker, answerer=speaker,
    ...                            beginnings=(begin,), max_turns=2)
    ...     _ = collect_dialogues(config)
    read 1 rows: ...
    >>> export_dataset(config.out, folder / "dataset", filters=[lambda dialogue: None]).dialogues
    1
    """
    check_filters(filters)
    out, repeats = Path(out), repeats or RepeatsConfig()
    chain = [leaves_out(own) for own in filters]
    with contextlib.ExitStack() as stack:
        collection = stack.enter_context(contextlib.closing(Collection(folder)))
        if moderator is not None:
            asked_about = ((j.number, collected_dialogue(j)) for j in _exportable(collection))
            moderate(collection, asked_about, moderator)
            moderation = Moderation(collection.folder)
            stack.callback(moderation.close)
            # First, because it expects the dialogues as they were sent to the moderator.
            chain.insert(0, moderation)
        if repeats.threshold is not None:
            chain.append(RepeatedElsewhere(repeats, repeats.threshold, seed=0))
        kept = apply_filters(_exportable(collection), chain)
        about = About(
            name=out.name,
            license=license,
            speakers=_speakers(collection),
            beginnings=tuple(map(_beginning, collection.config.beginnings)),
            filters={
                "max_turns": collection.config.max_turns,
                "reasoning": collection.config.reasoning,
                "stops": config_to_dict(collection.config.stops),
                "repeats": config_to_dict(repeats),
                "moderation": moderator and name_to_publish(moderator.model),
            },
            begun=len(collection),
            version=__version__,
        )
        return write_dataset(out, kept, about)


def _exportable(collection: Collection) -> Iterator[JournaledDialogue]:
    return filter(num_collected_turns, finished_dialogues(collection))


def _speakers(collection: Collection) -> dict[str, dict[str, Any]]:
    reported, prompts = collection.journal.models(), collection.journal.last_start().prompts
    return {
        name: {
            "model": name_to_publish(speaker.model),
            "reported": [name_to_publish(model) for model in reported.get(name, [])],
            "sampling": ", ".join(
                f"{key} {value}"
                for key in ("temperature", "top_p", "max_tokens")
                if (value := getattr(speaker, key)) is not None
            )
            or "the server's",
            "prompt": (prompt := prompts.get(name))
            and {"path": without_folders(prompt["path"]), "sha256": prompt["sha256"]},
        }
        for name, speaker in collection.config.speakers().items()
    }


def _beginning(source: BeginningsConfig) -> dict[str, Any]:
    """A source without its local folder."""
    path = without_folders(source.path)
    return {"kind": source.kind, "path": path, "take": source.take,
            "max_rounds": source.max_rounds, "sample": source.sample}  # fmt: skip
