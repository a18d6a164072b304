"""The run folder: everything that a run writes, and all that is needed to use it.

config.yaml        the resolved config; loading it gives the same run
data.json          hashes of the prepared rows, and what they came from
changes.jsonl      changes of config and data with `--allow-changes`
reference.json     preference training only: the hash of the reference's weights
versions.json      git commit and package versions of the last start
metrics.jsonl      one JSON object per step
samples.jsonl      sample replies of each evaluation
results/           eval-<step>.json and eval-<step>.npy
tokenizer/         tokenizer.json, its config and the chat template
checkpoints/       one folder per checkpoint
base/              with `lora` only: frozen weights that were merged from another run's adapters
.lock, or owner.json in a bucket: which process trains here
"""

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from parrot_jax.core.config import changed_keys, config_to_dict, load_config, save_config
from parrot_jax.core.errors import RunError, UserError, disk_full_is_a_user_error
from parrot_jax.core.files import read_object, write_json
from parrot_jax.core.logs import MetricsFile, console
from parrot_jax.core.paths import AnyPath, as_path
from parrot_jax.core.remote import RemotePath
from parrot_jax.data.templates import make_template
from parrot_jax.data.templates.base import Template
from parrot_jax.data.tokenizers import Tokenizer, load_tokenizer
from parrot_jax.distributed import DistributedConfig, in_first_process
from parrot_jax.train.run_data import changed_data
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.version import __version__
from parrot_jax.weights.adapters import OWN_BASE, open_base, recorded
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.model_card import Training
from parrot_jax.weights.model_folder import ModelFolder

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")
# Keys that may differ at a resume: they do not affect the result.
_FREE_KEYS = ("out", "max_steps", "log_every_steps", "keep_checkpoints", "checkpoint_every_steps",
              "data.cache_dir", "step_timeout_s", "distributed", "trackers", "profile_steps",
              "xla_flags", "allow_other_mask")  # fmt: skip
# Keys that may differ too: they set only how devices share the work, so the rows stay the same
# and the losses differ by rounding only.
_LAYOUT_KEYS = ("mesh", "micro_rows", "remat", "unroll_layers", "offload_optimizer", "attention",
                "loss_tile")  # fmt: skip
# Keys that set the shapes of the adapters.
_ADAPTER_KEYS = ("lora.rank", "lora.targets")
# Keys for the model card: settings that affect the result, no paths.
_RESULT_KEYS = ("model", "lora", "optim", "epochs", "batch_rows", "seed",
                "compute_dtype")  # fmt: skip


class RunFolder(ModelFolder):
    """Paths and small files of one run."""

    def __init__(self, path: AnyPath | str) -> None:
        """Sets the path; creates nothing yet.

        Raises:
          UserError: As in `ModelFolder`.
        """
        super().__init__(path)
        self.results = self.path / "results"
        self.metrics = MetricsFile(self.path / "metrics.jsonl")
        self.samples = MetricsFile(self.path / "samples.jsonl")
        self._data_path = self.path / "data.json"
        self._changes = MetricsFile(self.path / "changes.jsonl")
        self._owner_path = self.path / "owner.json"
        self._owner: dict[str, Any] | None = None
        self._last_flush = time.monotonic()

    @contextlib.contextmanager
    def open(
        self,
        config: TrainConfig,
        template: Template,
        data: dict[str, Any],
        *,
        allow_changes: Sequence[str] = (),
    ) -> Iterator[None]:
        """Starts or resumes a run here, for the duration of the block.

        On a disk, a second process gets an error. A bucket has no locks, and a killed process
        looks like a live one: there the last to start owns the folder, and the previous process
        stops at its next `flush`.

        Args:
          config: The run.
          template: Saved into the folder with its tokenizer.
          data: Description of its rows, from `run_data.describe_data`.
          allow_changes: Config keys, or groups of keys, that may differ from the resumed run;
            `data.rows` allows other rows under the same config.

        Raises:
          UserError: The folder has a run of another config or of other rows, cannot be written, or
            another process trains here.
          DiskFullError: The disk is full.
        """
        self._check_run_tokenizer(config, template.tokenizer, allow_changes)
        is_new = not self.has_checkpoint()
        with contextlib.ExitStack() as held:
            in_first_process(
                lambda: self._start(config, template, data, held, allow_changes, is_new=is_new),
                f"open {self.path}",
            )
            if not self.config_path.exists():
                raise UserError(
                    f"process {jax.process_index()} on {socket.gethostname()} does not see the run "
                    f"folder {self.path} that process 0 made; it must be in a bucket or on a disk "
                    "that all hosts share."
                )
            yield

    def check_continues(
        self,
        config: TrainConfig,
        template: Template,
        data: dict[str, Any],
        *,
        allow_changes: Sequence[str] = (),
    ) -> None:
        """Checks that `open` would start or resume a run here; same arguments.

        Raises:
          UserError: The folder has a run of another config or of other rows.
        """
        self._check_run_tokenizer(config, template.tokenizer, allow_changes)
        is_new = not self.has_checkpoint()
        in_first_process(
            lambda: self._changes_to(config, data, allow_changes, is_new=is_new),
            f"continue {self.path}",
        )

    def check_writable(self) -> None:
        """Creates the folder, so that a wrong path fails early.

        Raises:
          UserError: It cannot be created or written; the message says why.
        """
        if isinstance(self.path, RemotePath):
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
            if self.results.exists():
                self.results.mkdir(exist_ok=True)  # raises if it is a file
        except OSError as error:
            raise UserError(
                f"cannot write a run to {self.path}: {error.filename}: {error.strerror}; choose "
                "another --out, or free some space."
            ) from None

    def _start(
        self,
        config: TrainConfig,
        template: Template,
        data: dict[str, Any],
        held: contextlib.ExitStack,
        allow_changes: Sequence[str],
        *,
        is_new: bool,
    ) -> None:
        with disk_full_is_a_user_error(f"the run folder {self.path}"):
            self.check_writable()
            self.results.mkdir(parents=True, exist_ok=True)
            if isinstance(self.path, Path):
                self._take(self.path, held)
            if changes := self._changes_to(config, data, allow_changes, is_new=is_new):
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                self._changes.append(time=now, changes=changes)
                self._changes.flush()
            if isinstance(self.path, RemotePath):
                self._own()
            write_json(self._data_path, data)
            # Placement of the processes may differ at each start.
            save_config(replace(config, distributed=DistributedConfig()), self.config_path)
            write_json(self.path / "versions.json", versions())
            template.save(self.tokenizer, config.task)

    def keep_reference(self, weights: str, *, is_new: bool) -> None:
        """Records the reference of preference training; a resumed run must have the same.

        Args:
          weights: Hash of its weights.
          is_new: Whether the run starts now.

        Raises:
          UserError: The run has another reference.
        """
        path = self.path / "reference.json"
        if is_new or not path.exists():
            write_json(path, {"weights": weights})
        elif read_object(path).get("weights") != weights:
            raise UserError(
                f"{self.path} has a run with another reference: the weights in init_from have "
                "changed since it started; restore them, or choose another --out."
            )

    def flush(self, *, every_s: float = 0.0) -> None:
        """Uploads waiting lines to the bucket; on a disk, none wait.

        Call it before a checkpoint: a run resumed from that does not write them again.

        Args:
          every_s: Do nothing if the last upload is more recent than this, in seconds.

        Raises:
          RunError: Another process has started to train here.
          UserError: The bucket cannot be written.
        """
        if self._owner is None or time.monotonic() - self._last_flush < every_s:
            return
        owner = read_object(self._owner_path)
        if owner != self._owner:
            raise RunError(
                f"process {owner.get('pid')} on {owner.get('host')} has started to train in "
                f"{self.path}; this one stops."
            )
        self.metrics.flush()
        self.samples.flush()
        self._last_flush = time.monotonic()

    def load_config(self) -> TrainConfig:
        """The config of the run.

        Raises:
          UserError: The folder has no run.
        """
        if self.is_converted():
            raise UserError(
                f"{self.path} has converted weights, not a run; train from them with "
                f"`--init-from {self.path}`."
            )
        return load_config(TrainConfig, self.config_path)

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer of the folder, checked to be that of its weights.

        Raises:
          UserError: It is missing, damaged, or not the one that the weights were trained with.
        """
        tokenizer = load_tokenizer(self.tokenizer)
        self._check_tokenizer(tokenizer, str(self.tokenizer))
        return tokenizer

    def load_template(self) -> Template:
        """The chat format of the run, over its tokenizer.

        Raises:
          UserError: As in `load_tokenizer`.
        """
        return make_template(self.load_config().data.template, self.load_tokenizer())

    def _check_run_tokenizer(
        self, config: TrainConfig, tokenizer: Tokenizer, allow_changes: Sequence[str]
    ) -> None:
        """Call in every process: orbax waits for all when it lists checkpoints."""
        if not {"data", "data.tokenizer"} & set(allow_changes):
            self._check_tokenizer(tokenizer, f"data.tokenizer {config.data.tokenizer}")

    def _check_tokenizer(self, tokenizer: Tokenizer, name: str) -> None:
        made_with = self.tokenizer_fingerprint()
        if made_with not in (None, tokenizer.fingerprint):
            raise UserError(
                f"the weights in {self.path} were made with tokenizer {made_with[:12]}, but "
                f"{name} is {tokenizer.fingerprint[:12]}, with {tokenizer.vocab_size:,} ids; "
                "restore the original tokenizer."
            )

    def training(self) -> Training | None:
        """Facts for the model card; None for converted weights."""
        if self.is_converted():
            return None
        config = self.load_config()
        settings = {name: value for name, value in config_to_dict(config).items()
                    if name in _RESULT_KEYS}  # fmt: skip
        versions = read_object(self.path / "versions.json")
        return Training(
            task=config.task,
            base=self._base(config),
            sources=[as_path(source.path).name for source in config.data.sources],
            settings=settings | {"mask": config_to_dict(config.data.mask),
                                 "row_tokens": config.data.row_tokens},
            versions=versions,
        )  # fmt: skip

    def _base(self, config: TrainConfig) -> str | None:
        """The original source of the weights, as far as known."""
        if config.init_from is None:
            return None
        base = ModelFolder(config.init_from)
        if base.config_path.exists() and base.is_converted():
            source = str(base.read_config()["converted_from"])
            return Path(source).name if Path(source).is_absolute() else source
        return base.path.name

    def _take(self, path: Path, held: contextlib.ExitStack) -> None:
        lock = held.enter_context((path / ".lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process trains in {self.path}; wait for it or stop it."
            ) from None

    def _own(self) -> None:
        self._owner = {"host": socket.gethostname(), "pid": os.getpid(), "start": uuid.uuid4().hex}
        write_json(self._owner_path, self._owner)

    def _changes_to(
        self,
        config: TrainConfig,
        data: dict[str, Any],
        allow_changes: Sequence[str],
        *,
        is_new: bool,
    ) -> list[str]:
        """The allowed differences from the resumed run; `is_new` = it has no checkpoint."""
        if not self.config_path.exists():
            return []

        def is_one_of(change: str, keys: Sequence[str]) -> bool:
            key = change.partition(":")[0]
            return any(key == free or key.startswith(f"{free}.") for free in keys)

        changes = [change for change in changed_keys(self.load_config(), config)
                   if not is_one_of(change, _FREE_KEYS)]  # fmt: skip
        layout = [change for change in changes if is_one_of(change, _LAYOUT_KEYS)]
        changes = [change for change in changes if change not in layout]
        if self._data_path.exists():
            try:
                other_data = changed_data(read_object(self._data_path), data)
            except (KeyError, TypeError, AttributeError):
                raise UserError(
                    f"{self._data_path} is damaged: it does not describe the rows of the run; "
                    "restore a copy, or remove it to resume without this check."
                ) from None
        else:
            other_data = []
            console.print(
                f"{self.path} was started by a version that stored no hash of its rows; cannot "
                "check that the data are the same"
            )
        if layout and not changes:
            console.print(
                f"the layout has changed ({'; '.join(layout)}): the rows are the same, but losses "
                "agree only to about 1e-5"
            )
        # Before the config is stored: the checkpoints would no longer fit it.
        shapes = [change for change in changes if is_one_of(change, _ADAPTER_KEYS)
                  or change.startswith("lora: ")]  # fmt: skip
        if shapes and not is_new:
            raise UserError(
                f"{self.path} has a run that trains other weights ({'; '.join(shapes)}), which "
                "cannot be changed; restore the old values, or start a new run from it with "
                f"another --out and --init-from {self.path}."
            )
        changes += other_data
        refused = [change for change in changes if not is_one_of(change, allow_changes)]
        if refused:
            is_config = any(change not in other_data for change in refused)
            keys = " ".join(dict.fromkeys(change.partition(":")[0] for change in refused))
            raise UserError(
                f"{self.path} has a run with {'another config' if is_config else 'other data'} "
                f"({'; '.join(refused)}); choose another --out, restore the old values and files, "
                f"or allow the change with --allow-changes {keys}."
            )
        if not is_new and any(is_one_of(change, ["init_from"]) for change in changes):
            self._check_named_base(config)
        if changes:
            console.print(f"resuming with changes: {'; '.join(changes)}")
        return changes

    def _check_named_base(self, config: TrainConfig) -> None:
        """Raises a `UserError` if `init_from` names other weights than the adapters belong to."""
        adapter = recorded(*self.open_checkpoint())
        if config.lora is None or config.init_from is None or adapter is None:
            return
        found = str(open_base(config.model, adapter, self.path, config.init_from)[0].folder)
        named = ModelFolder(config.init_from).checkpoints
        own = self.path / OWN_BASE / "checkpoints"
        others = Checkpoints(named, read_only=True).latest_step() is not None
        if others and found not in (str(named.absolute()), str(own.absolute())):
            raise UserError(
                f"init_from is {config.init_from}, but the adapters in {self.path} belong to the "
                f"weights in {found.removesuffix('/checkpoints')}; name those, or start a new run."
            )


def versions() -> dict[str, str | None]:
    """The git commit, and the versions of packages that affect results."""
    root = Path(__file__).parents[2]
    commit = subprocess.run(
        ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True, text=True, check=False,
    ).stdout.strip() if (root / ".git").exists() else ""  # fmt: skip
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "parrot_jax": __version__,
        "commit": commit or None,
        "python": platform.python_version(),
        **versions,
    }
