"""A folder with weights that we can load: a run, or what was converted from Hugging Face.

config.yaml        its key `model` has the sizes
tokenizer/         tokenizer.json, its config and, in a run, the chat template
checkpoints/       one folder a checkpoint
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
from parrot_jax.weights.checkpoints import Checkpoints, DamagedCheckpointError

# What may differ between a model and the weights it starts from: nothing of the mathematics.
_FREE_SIZES = ("max_position_embeddings", "initializer_range")


@dataclass(frozen=True, kw_only=True)
class ConvertedConfig:
    """The `config.yaml` of a folder that was converted from Hugging Face."""

    converted_from: str
    """The folder or the name on the hub."""
    dtype: str
    """The type in which the weights are stored."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer that belongs to the weights, in `tokenizer/`; null = the source
    has none that can be read."""
    bos_token_id: int | None = None
    """What the source says opens a text."""
    eos_token_id: tuple[int, ...] = ()
    """What the source says ends a text."""
    model: ModelConfig
    """Sizes of the model."""


class ModelFolder:
    """Paths of one folder, and the weights in it."""

    def __init__(self, path: AnyPath | str) -> None:
        """Names the folder; nothing is made yet.

        Raises:
          UserError: It is in a bucket of a kind that checkpoints cannot be in.
        """
        self.path = as_path(path)
        # orbax would take any other scheme for the name of a local folder.
        if isinstance(self.path, RemotePath) and self.path.scheme != "gs":
            raise UserError(
                f"{path} cannot hold checkpoints; they are on a local disk or in gs://bucket/folder."
            )
        self.config_path = self.path / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.tokenizer = self.path / "tokenizer"

    def read_config(self) -> dict[str, Any]:
        """The values of `config.yaml`.

        Raises:
          UserError: There is no config.yaml, so this is not a run folder.
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
            raise UserError(f"{self.config_path} names no model.")
        return values

    def is_converted(self) -> bool:
        """Whether the weights were converted, and not trained here.

        Raises:
          UserError: This is not a run folder.
        """
        return "converted_from" in self.read_config()

    def source_ids(self) -> dict[str, Any]:
        """What a converted folder's source said opens and ends a text, as far as it said it."""
        values = self.read_config()
        bos, eos = values.get("bos_token_id"), values.get("eos_token_id") or []
        found = {} if bos is None else {"bos_token_id": bos}
        if eos:
            found["eos_token_id"] = eos[0] if len(eos) == 1 else eos
        return found

    def load_model(self) -> ModelConfig:
        """The sizes of the model.

        Raises:
          UserError: As in `read_config`, or the sizes are wrong.
        """
        values = self.read_config()["model"]
        return config_from_dict(ModelConfig, values, where=f"{self.config_path}: model")

    def has_checkpoint(self) -> bool:
        """Whether there are weights; a folder that does not exist has none."""
        return Checkpoints(self.checkpoints, read_only=True).latest_step() is not None

    def latest_step(self) -> int:
        """The newest whole checkpoint.

        Raises:
          UserError: There is no checkpoint.
        """
        step = Checkpoints(self.checkpoints, read_only=True).latest_step()
        if step is None:
            raise UserError(f"{self.path} has no checkpoint yet; train it first.")
        return step

    def open_checkpoint(self, step: int | None = None) -> tuple[Checkpoints, int]:
        """The checkpoints, for reading, and the step to read; `config.yaml` is of its weights.

        Args:
          step: Which checkpoint; None = the newest.

        Raises:
          UserError: There is no such checkpoint, it is damaged, or `config.yaml` describes another
            model than it was made with.
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
                    f"{self.config_path} is not of the weights in {where}: {'; '.join(wrong)}. "
                    "Correct it, or put the weights back that belong to it."
                )
        return checkpoints, step

    def tokenizer_fingerprint(self) -> str | None:
        """That of the tokenizer which the weights were made with; None = it is not known."""
        checkpoints = Checkpoints(self.checkpoints, read_only=True)
        while (step := checkpoints.latest_step()) is not None:
            with contextlib.suppress(DamagedCheckpointError):
                return checkpoints.made_of(step).get("tokenizer")
        return None


def load_params(
    folder: ModelFolder | AnyPath | str, like: Any = None, *, step: int | None = None
) -> Any:
    """The weights of a folder, also while a run trains there.

    Args:
      folder: The folder.
      like: Shapes and placements; None = those of the folder's model, on the first device.
      step: Which checkpoint; None = the newest.

    Raises:
      UserError: As in `open_checkpoint`, there is no model, or it is of another shape than `like`.
    """
    folder = folder if isinstance(folder, ModelFolder) else ModelFolder(folder)
    if like is None:
        mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
        like = abstract_params(folder.load_model(), mesh)
    checkpoints, step = folder.open_checkpoint(step)
    return checkpoints.restore(step, {"params": like})["params"]


def made_of(model: ModelConfig, tokenizer: str | None) -> dict[str, Any]:
    """What a checkpoint says belongs to it; `tokenizer` is a fingerprint, None = not known."""
    return {"model": config_to_dict(model), "tokenizer": tokenizer}


def abstract_params(config: ModelConfig, mesh: Mesh, dtype: DTypeLike = "float32") -> Any:
    """Shapes, types and placements of the weights; allocates nothing."""
    shapes = decoder.abstract_params(config)
    shardings = param_shardings(shapes, decoder.logical_axes(config), mesh)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding),
        shapes,
        shardings,
    )


def check_same_model(folder: AnyPath | str, config: ModelConfig) -> None:
    """Refuses weights that fit in shape but mean another model: another theta, another epsilon.

    Raises:
      UserError: The folder's model differs from `config`; the text lists how.
    """
    wrong = _differences(there=ModelFolder(folder).load_model(), here=config)
    if wrong:
        raise UserError(
            f"the weights in {folder} are of another model: {'; '.join(wrong)}. Put the `model` "
            f"block of {ModelFolder(folder).config_path} into the config."
        )


def _differences(*, there: ModelConfig, here: ModelConfig) -> list[str]:
    """In what two models differ that may not differ."""
    names = [field.name for field in fields(ModelConfig) if field.name not in _FREE_SIZES]
    pairs = {name: (_filled(there, name), _filled(here, name)) for name in names}
    return [f"model.{name} is {ours!r}, there {theirs!r}" for name, (theirs, ours) in pairs.items()
            if ours != theirs]  # fmt: skip


def _filled(config: ModelConfig, name: str) -> Any:
    """A size with its default filled in."""
    derived = {"num_key_value_heads": config.num_kv_heads, "head_dim": config.head_width}
    return derived.get(name, getattr(config, name))
