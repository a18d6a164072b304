"""Reads the dialogues of a training config into an index, and shows which text is trained on."""

import os
from collections.abc import Iterator

from parrot_jax.core.config import config_from_dict
from parrot_jax.core.errors import UserError
from parrot_jax.core.files import hash_json
from parrot_jax.core.yaml_files import read_yaml
from parrot_jax.data.cache_key import row_settings
from parrot_jax.data.data_config import DataConfig
from parrot_jax.data.live_text import LiveText, live_text
from parrot_jax.data.prepare import read_split
from parrot_jax.data.templates import make_template
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.dialogue.sources import source_files
from parrot_jax.dialogue.types import Dialogue, Turn
from parrot_jax.view.files import stamp_of
from parrot_jax.view.shown import Shown
from parrot_jax.view.streams import RejectingReport, read_stream
from parrot_jax.view.writing import IndexWriter

_OBJECTIVES = ("sft", "preference")


class TrainingDialogues:
    """The training split of a config."""

    kind = "training config"

    def __init__(self, path: str) -> None:
        """Reads the config.

        Raises:
          UserError: It is no training config, or its tokenizer cannot be read.
        """
        values = read_yaml(path)
        if not isinstance(values, dict) or "data" not in values:
            raise UserError(f"{path} has no key `data`; name a training config, or a file.")
        objective = values.get("objective", "sft")
        if objective not in _OBJECTIVES:
            raise UserError(f"{path}: objective is {objective!r}; it must be sft or preference.")
        self._path, self._pairs = path, objective == "preference"
        self._config = config_from_dict(DataConfig, values["data"], where=f"{path}: data")
        self._template = make_template(
            self._config.template, load_tokenizer(self._config.tokenizer)
        )
        self._seen: str | None = None
        self._problem: UserError | None = None

    @property
    def key(self) -> str:
        """Identifies the config."""
        return f"config:{os.path.abspath(self._path)}"

    def progress(self) -> float | None:
        """Unknown: the held-out dialogues are read as well."""
        return None

    def update(self, index: IndexWriter) -> Iterator[None]:
        """Brings an index up to date; each step is saved.

        Raises:
          UserError: A source cannot be read.
        """
        stamp = stamp_of([f for source in self._config.sources for f in source_files(source)])
        if stamp == self._seen:
            if self._problem is not None:
                raise self._problem
            return
        self._problem = None
        report = RejectingReport()
        try:
            identity = hash_json(row_settings(self._config, "train", self._template))
            dialogues = read_split(self._config, "train", report=report)
            yield from read_stream(index, identity, dialogues, report)
        except UserError as error:
            self._problem = error
        self._seen = stamp
        if self._problem is not None:
            raise self._problem

    def live_text(self, shown: Shown) -> LiveText:
        """The windows of a dialogue, as `parrot data show` prints them."""
        turns = [
            Turn(turn.role, turn.text, weight=turn.weight, context=turn.context)
            for turn in shown.turns
        ]
        other = shown.turns[-1].other
        dialogue = Dialogue(
            turns=tuple(turns),
            system=shown.system,
            id=shown.id,
            rejected=None
            if other is None
            else Turn(other.role, other.text, weight=other.weight, context=other.context),
        )
        return live_text(dialogue, self._config, self._template, pairs=self._pairs)
