"""The run folder: everything a run leaves, and all that anyone needs to use it.

config.yaml        the resolved config; loading it gives the same run
versions.json      git commit and package versions of the last start
metrics.jsonl      one JSON object a step
samples.jsonl      what the model said at each evaluation
results/           eval-<step>.json and eval-<step>.npy
tokenizer/         tokenizer.json, its config and the chat template
checkpoints/       one folder a checkpoint
"""

import fcntl
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import IO

import parrot_jax
from parrot_jax.core.config import changed_keys, config_to_dict, load_config, save_config
from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.files import open_input, write_json
from parrot_jax.core.logs import MetricsFile
from parrot_jax.data.template import chat_template
from parrot_jax.data.tokenizer import Tokenizer
from parrot_jax.train.config import TrainConfig
from parrot_jax.weights.model_card import Training
from parrot_jax.weights.model_folder import ModelFolder

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")
# What may differ when a run goes on: nothing that decides its result.
_FREE_KEYS = ("out", "max_steps", "log_every_steps", "keep_checkpoints", "checkpoint_every_steps",
              "data.cache_dir")  # fmt: skip
# What of a config a model card tells: what decides the result, and no paths.
_RESULT_KEYS = ("model", "optim", "epochs", "batch_rows", "accumulation_steps", "seed",
                "compute_dtype")  # fmt: skip


class RunFolder(ModelFolder):
    """Paths and small files of one run."""

    def __init__(self, path: Path | str) -> None:
        """Names the folder; nothing is made yet."""
        super().__init__(path)
        self.results = self.path / "results"
        self.metrics = MetricsFile(self.path / "metrics.jsonl")
        self.samples = MetricsFile(self.path / "samples.jsonl")

    def open(self, config: TrainConfig, tokenizer: Tokenizer) -> IO[str]:
        """Starts or continues a run here.

        Args:
          config: What the caller wants to run.
          tokenizer: Saved into the folder with the task's chat template.

        Returns:
          The open lock file: while it is open, no other process trains here.

        Raises:
          UserError: The folder holds a run with another config, or another process trains here.
          DiskFullError: There is no room.
        """
        with disk_full_is_a_user_error(f"the run folder {self.path}"):
            self.results.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "w")  # noqa: SIM115 - held as long as the run lasts
            try:
                self._take(lock)
                if self.config_path.exists():
                    self._check_same(config)
                save_config(config, self.config_path)
                write_json(self.path / "versions.json", versions())
                tokenizer.save(self.tokenizer, chat_template=chat_template(config.task, tokenizer))
            except BaseException:
                lock.close()
                raise
        return lock

    def load_config(self) -> TrainConfig:
        """The config of the run.

        Raises:
          UserError: There is no run here.
        """
        if self.is_converted():
            raise UserError(
                f"{self.path} holds converted weights and no run; train one from them with "
                f"`--init-from {self.path}`."
            )
        return load_config(TrainConfig, self.config_path)

    def training(self) -> Training | None:
        """What a model card says of the run; None where the weights were converted."""
        if self.is_converted():
            return None
        config = self.load_config()
        settings = {name: value for name, value in config_to_dict(config).items()
                    if name in _RESULT_KEYS}  # fmt: skip
        with open_input(self.path / "versions.json") as file:
            versions = json.load(file)
        return Training(
            task=config.task,
            base=self._base(config),
            sources=[Path(source.path).name for source in config.data.sources],
            settings=settings | {"mask": config_to_dict(config.data.mask),
                                 "row_tokens": config.data.row_tokens},
            versions=versions,
        )  # fmt: skip

    def _base(self, config: TrainConfig) -> str | None:
        """Where the weights came from at first, as far as it is known."""
        if config.init_from is None:
            return None
        base = ModelFolder(config.init_from)
        if base.config_path.exists() and base.is_converted():
            return str(base.read_config()["converted_from"])
        return base.path.name

    def _take(self, lock: IO[str]) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process trains in {self.path}; wait for it or stop it."
            ) from None

    def _check_same(self, config: TrainConfig) -> None:
        changes = [
            change
            for change in changed_keys(self.load_config(), config)
            if change.partition(":")[0] not in _FREE_KEYS
        ]
        if changes:
            raise UserError(
                f"{self.path} holds a run with another config ({'; '.join(changes)}); "
                "choose another --out, or the old values to continue it."
            )


def versions() -> dict[str, str | None]:
    """The git commit of this program, and the packages that decide what it computes."""
    root = Path(parrot_jax.__file__).parents[1]
    commit = subprocess.run(
        ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True, text=True, check=False,
    ).stdout.strip() if (root / ".git").exists() else ""  # fmt: skip
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "parrot_jax": parrot_jax.__version__,
        "commit": commit or None,
        "python": platform.python_version(),
        **versions,
    }
