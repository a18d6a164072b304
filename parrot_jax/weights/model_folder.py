"""A folder with weights: a run, or a model converted from Hugging Face.

config.yaml        its key `model` is the model config
tokenizer/         tokenizer.json, its config and, in a run, the chat template
checkpoints/       one folder per checkpoint
"""

import contextlib
from dataclasses import dataclass, fields
from typing import Any

import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from parrot_jax.core.config import config_from_dict, config_to_dict
from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import AnyPath, as_path
from parrot_jax.core.remote import RemotePath
from parrot_jax.core.yaml_files import read_yaml
from parrot_jax.model import decoder
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import MeshConfig, make_mesh, param_shardings
from parrot_jax.weights import adapters
from parrot_jax.weights.checkpoints import Checkpoints, DamagedCheckpointError

# May differ from the weights that training starts from: they do not change the forward pass.
_FREE_SIZES = ("max_position_embeddings", "initializer_range")


@dataclass(frozen=True, kw_only=True)
class ConvertedConfig:
    """The `config.yaml` of a folder that was converted from Hugging Face."""

    converted_from: str
    """Source folder or hub repository."""
    dtype: str
    """Dtype of the stored weights."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer in `tokenizer/`; null = the source has no supported
    tokenizer."""
    bos_token_id: int | None = None
    """BOS id from the source's config."""
    eos_token_id: tuple[int, ...] = ()
    """EOS ids from the source's config."""
    init_from: str | None = None
    """Of adapters: the folder of their base."""
    model: ModelConfig
    """Architecture and sizes."""


class ModelFolder:
    """Paths of one folder, and the weights in it."""

    def __init__(self, path: AnyPath | str) -> None:
        """Creates nothing on disk.

        Raises:
          UserError: Checkpoints cannot be stored at such an address.
        """
        self.path = as_path(path)
        # orbax treats an address with another scheme as a local path.
        if isinstance(self.path, RemotePath) and self.path.scheme != "gs":
            raise UserError(
                f"{path} cannot hold checkpoints; use a local folder or gs://bucket/folder."
            )
        self.config_path = self.path / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.tokenizer = self.path / "tokenizer"

    def read_config(self) -> dict[str, Any]:
        """Reads `config.yaml`.

        Raises:
          UserError: There is no `config.yaml`, or it has no key `model`.
        """
        if not self.config_path.exists():
            advice = ""
            if (self.path / "config.json").exists():
                advice = (
                    " It looks like a Hugging Face folder: import it with `parrot convert "
                    f"hf-to-flax {self.path} OUT`."
                )
            raise UserError(f"{self.path} is not a run folder: it has no config.yaml.{advice}")
        values = read_yaml(self.config_path)
        if not isinstance(values, dict) or "model" not in values:
            raise UserError(f"{self.config_path} has no key `model`.")
        return values

    def is_converted(self) -> bool:
        """Whether the weights were converted from Hugging Face rather than trained.

        Raises:
          UserError: See `read_config`.
        """
        return "converted_from" in self.read_config()

    def source_ids(self) -> dict[str, Any]:
        """Returns `bos_token_id` and `eos_token_id` of a converted folder's source, if known."""
        values = self.read_config()
        bos, eos = values.get("bos_token_id"), values.get("eos_token_id") or []
        found = {} if bos is None else {"bos_token_id": bos}
        if eos:
            found["eos_token_id"] = eos[0] if len(eos) == 1 else eos
        return found

    def load_model(self) -> ModelConfig:
        """Reads the model config.

        Raises:
          UserError: See `read_config`, or the model config is invalid.
        """
        values = self.read_config()["model"]
        return config_from_dict(ModelConfig, values, where=f"{self.config_path}: model")

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint; False if the folder does not exist."""
        return Checkpoints(self.checkpoints, read_only=True).latest_step() is not None

    def latest_step(self) -> int:
        """Returns the step of the newest checkpoint.

        Raises:
          UserError: There is no checkpoint.
        """
        step = Checkpoints(self.checkpoints, read_only=True).latest_step()
        if step is None:
            raise UserError(f"{self.path} has no checkpoint yet; train it first.")
        return step

    def open_checkpoint(self, step: int | None = None) -> tuple[Checkpoints, int]:
        """Opens the checkpoints for reading and checks that `config.yaml` matches the weights.

        Args:
          step: Which checkpoint; None = the newest.

        Returns:
          The checkpoints, and the step to read.

        Raises:
          UserError: There is no such checkpoint, it is damaged, or `config.yaml` describes another
            model.
        """
        step = self.latest_step() if step is None else step
        checkpoints = Checkpoints(self.checkpoints, read_only=True)
        made = checkpoints.made_of(step).get("model")
        if made is not None:
            where = f"{self.checkpoints}/{step}"
            stored = config_from_dict(ModelConfig, made, where=where)
            wrong = _differences(there=stored, here=self.load_model())
            if wrong:
                raise UserError(
                    f"{self.config_path} does not match the weights in {where}: "
                    f"{'; '.join(wrong)}. Correct the file, or restore the matching checkpoint."
                )
        return checkpoints, step

    def open_weights(
        self, step: int | None = None
    ) -> tuple[Checkpoints | adapters.MergedCheckpoint, int]:
        """Opens a checkpoint to read whole weights; adapters are merged with their base.

        Args:
          step: Which checkpoint; None = the newest.

        Raises:
          UserError: As in `open_checkpoint`, or the base of the adapters has moved or changed.
        """
        checkpoints, step = self.open_checkpoint(step)
        adapter = adapters.recorded(checkpoints, step)
        if adapter is None:
            return checkpoints, step
        model = self.load_model()
        merged = adapters.MergedCheckpoint(
            model, adapter, (checkpoints, step), self.open_base(adapter)
        )
        return merged, step

    def open_base(self, adapter: adapters.Adapter) -> tuple[Checkpoints, int]:
        """Opens the base of the adapters in this folder; see `adapters.open_base`."""
        init_from = self.read_config().get("init_from")
        return adapters.open_base(self.load_model(), adapter, self.path, init_from)

    def tokenizer_fingerprint(self) -> str | None:
        """Returns the fingerprint of the tokenizer stored with the weights; None = unknown."""
        checkpoints = Checkpoints(self.checkpoints, read_only=True)
        while (step := checkpoints.latest_step()) is not None:
            with contextlib.suppress(DamagedCheckpointError):
                return checkpoints.made_of(step).get("tokenizer")
        return None


def load_params(
    folder: ModelFolder | AnyPath | str, like: Any = None, *, step: int | None = None
) -> Any:
    """Loads the weights of a folder, merged if they are adapters; safe while a run trains there.

    Args:
      folder: The folder.
      like: Shapes, dtypes and shardings; None = the folder's model in float32 on the first device.
      step: Which checkpoint; None = the newest.

    Raises:
      UserError: See `open_weights`; or there is no model, or its shapes differ from `like`.
    """
    folder = folder if isinstance(folder, ModelFolder) else ModelFolder(folder)
    if like is None:
        mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
        like = abstract_params(folder.load_model(), mesh)
    checkpoints, step = folder.open_checkpoint(step)
    adapter = adapters.recorded(checkpoints, step)
    if adapter is None:
        return checkpoints.restore(step, {"params": like})["params"]
    return adapters.restore_merged(
        folder.load_model(), adapter, (checkpoints, step), folder.open_base(adapter), like
    )


def made_of(model: ModelConfig, tokenizer: str | None) -> dict[str, Any]:
    """Returns the metadata to store with a checkpoint.

    Args:
      model: The model config.
      tokenizer: The tokenizer's fingerprint; None = unknown.
    """
    return {"model": config_to_dict(model), "tokenizer": tokenizer}


def abstract_params(config: ModelConfig, mesh: Mesh, dtype: DTypeLike = "float32") -> Any:
    """Returns shapes, dtypes and shardings of the weights; allocates nothing."""
    shapes = decoder.abstract_params(config)
    shardings = param_shardings(shapes, decoder.logical_axes(config), mesh)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding),
        shapes,
        shardings,
    )


def check_same_model(folder: AnyPath | str, config: ModelConfig) -> None:
    """Rejects weights of another model, even if all shapes match (e.g. another `rope_theta`).

    Raises:
      UserError: The folder's model differs from `config`; the message lists the differences.
    """
    wrong = _differences(there=ModelFolder(folder).load_model(), here=config)
    if wrong:
        raise UserError(
            f"the weights in {folder} are of another model: {'; '.join(wrong)}. Copy the `model` "
            f"block of {ModelFolder(folder).config_path} into your config."
        )


def _differences(*, there: ModelConfig, here: ModelConfig) -> list[str]:
    """Returns the differences between two models that matter, as text."""
    names = [field.name for field in fields(ModelConfig) if field.name not in _FREE_SIZES]
    pairs = {name: (_filled(there, name), _filled(here, name)) for name in names}
    return [f"model.{name} is {ours!r}, there {theirs!r}" for name, (theirs, ours) in pairs.items()
            if ours != theirs]  # fmt: skip


def _filled(config: ModelConfig, name: str) -> Any:
    """Returns a field of the model config with its default filled in."""
    derived = {"num_key_value_heads": config.num_kv_heads, "head_dim": config.head_width}
    return derived.get(name, getattr(config, name))
