"""Reads and writes adapters as peft does: `adapter_config.json` and `adapter_model.safetensors`."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import read_json
from parrot_jax.core.paths import file_in
from parrot_jax.model.lora_config import LoraConfig, Target, targets_of
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.weights.adapters import adapter_name
from parrot_jax.weights.hf_folder import read_tensors
from parrot_jax.weights.names import Tensor

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

_PREFIX = "base_model.model.model.layers"

_IGNORED = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "loftq_config",
    "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "revision", "runtime_config", "target_modules", "task_type",
    "use_rslora", "bias",
})  # fmt: skip
"""Keys that are read, or do not change what the adapters compute."""

_INITS = (True, False, None, "gaussian", "orthogonal", "eva", "mini_lora")
"""Values of `init_lora_weights` that leave the base as it is; others, such as PiSSA, change it."""


def is_peft_folder(folder: Path) -> bool:
    """Whether a folder has adapters."""
    return (folder / CONFIG).exists()


def adapter_tensors(model: ModelConfig, lora: LoraConfig) -> list[Tensor]:
    """Lists A and B of every target of every layer, with peft's names and dims.

    >>> first = adapter_tensors(ModelConfig(), LoraConfig(rank=8))[1]
    >>> first.ours, first.our_shape
    ('lora.layers.00.attention.q.b', (8, 32, 128))
    >>> first.theirs, first.their_shape
    ('base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight', (4096, 8))
    """
    return [
        tensor
        for layer in range(model.num_hidden_layers)
        for target in targets_of(model, lora)
        for tensor in _pair(model, lora, target, layer)
    ]


def _pair(
    model: ModelConfig, lora: LoraConfig, target: Target, layer: int
) -> tuple[Tensor, Tensor]:
    ins, outs = ([model.sizes[dim] for dim in dims] for dims in (target.in_dims, target.out_dims))
    rank, name = lora.rank, f"{_PREFIX}.{layer}.{target.module}"
    return (
        Tensor(
            ours=adapter_name(target, layer, "a"),
            theirs=f"{name}.lora_A.weight",
            our_shape=(*ins, rank),
            their_shape=(rank, math.prod(ins)),
            split_shape=(rank, *ins),
            order=(*range(1, len(ins) + 1), 0),
            whole_dim=None,
        ),
        Tensor(
            ours=adapter_name(target, layer, "b"),
            theirs=f"{name}.lora_B.weight",
            our_shape=(rank, *outs),
            their_shape=(math.prod(outs), rank),
            split_shape=(*outs, rank),
            order=(len(outs), *range(len(outs))),
            whole_dim=None,
        ),
    )


def config_text(model: ModelConfig, lora: LoraConfig, base: str) -> str:
    """Returns the text of `adapter_config.json`.

    Args:
      model: The sizes.
      lora: The adapters.
      base: A folder or a hub repository with the base; `org/name@revision` pins a revision.
    """
    pinned = re.fullmatch(r"([\w.-]+/[\w.-]+)@(.+)", base)
    base, revision = (pinned[1], pinned[2]) if pinned else (base, None)
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        **({"revision": revision} if revision else {}),
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "target_modules": [one.module.split(".")[-1] for one in targets_of(model, lora)],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


class PeftFolder:
    """Adapters in peft's format; reads only headers until `read` is called.

    Attributes:
      path: The folder.
      lora: The adapters.
      tensors: All their tensors.
    """

    def __init__(self, path: Path | str, model: ModelConfig, base_dtype: str) -> None:
        """Checks that the folder has adapters of this model, of a kind that we can use.

        Args:
          path: The folder.
          model: The model of the base.
          base_dtype: Dtype of the base.

        Raises:
          UserError: A setting is not supported, a file is missing, or tensors are missing, unknown
            or have another shape; the message names them.
        """
        self.path = Path(path)
        if not file_in(self.path, WEIGHTS).exists():
            if (self.path / PICKLED).exists():
                raise UserError(
                    f"{self.path} has adapters as a pickle ({PICKLED}), which can run any code "
                    "when loaded; save them again with peft: model.save_pretrained(NEW_FOLDER)."
                )
            raise UserError(f"{self.path} has no {WEIGHTS}; check the path.")
        self._stored = read_tensors(file_in(self.path, WEIGHTS))
        values = _settings(file_in(self.path, CONFIG))
        try:
            lora = LoraConfig(
                rank=values["r"],
                alpha=values["lora_alpha"],
                targets=self._targets(model) or None,
                dropout=values.get("lora_dropout") or 0.0,
                base_dtype=base_dtype,  # type: ignore[arg-type] # checked by the dataclass's user
            )
        except UserError as error:
            raise UserError(f"{self.path / CONFIG}: {error}") from None
        # peft divides alpha by the square root of the rank then.
        root = math.sqrt(lora.rank) if values.get("use_rslora") else 1.0
        self.lora = replace(lora, alpha=lora.alpha * root, dropout=float(lora.dropout))
        self.tensors = adapter_tensors(model, self.lora)
        self._check(model)

    def read(self, tensor: Tensor) -> Shaped[np.ndarray, "..."]:
        """Reads a tensor in our order of dims and its stored dtype."""
        return tensor.to_ours(self._stored[tensor.theirs].read())

    def _targets(self, model: ModelConfig) -> tuple[str, ...]:
        """The modules that have tensors."""
        everything = targets_of(model, LoraConfig())
        return tuple(
            target.module.split(".")[-1]
            for target in everything
            if any(f".{target.module}.lora_" in name for name in self._stored)
        )

    def _check(self, model: ModelConfig) -> None:
        wanted = {tensor.theirs: tensor.their_shape for tensor in self.tensors}
        problems = [f"{name} is missing" for name in wanted if name not in self._stored]
        problems += [f"{name} is unknown" for name in sorted(self._stored.keys() - wanted.keys())]
        problems += [
            f"{name} is {list(self._stored[name].shape)}, not {list(shape)}"
            for name, shape in wanted.items()
            if name in self._stored and self._stored[name].shape != shape
        ]
        if problems:
            more = f"; and {len(problems) - 5:,} more" if len(problems) > 5 else ""
            raise UserError(
                f"the tensors in {self.path / WEIGHTS} are not adapters of the layers of this base "
                f"({model.family}, {model.num_hidden_layers} layers): {'; '.join(problems[:5])}"
                f"{more}."
            )


def _settings(path: Path) -> Mapping[str, Any]:
    """Reads `adapter_config.json`.

    Raises:
      UserError: A key has a value that is not supported.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a JSON object, not {type(values).__name__}.")
    allowed = {
        "peft_type": ("LORA",),
        "task_type": ("CAUSAL_LM", None),
        "bias": ("none", None),
        "init_lora_weights": _INITS,
        "use_rslora": (False, True, None),
    }
    for key, several in allowed.items():
        value = values.get(key)
        if not any(value is one or (value == one and isinstance(value, str)) for one in several):
            raise UserError(
                f"{path}: {key} is {ascii(value)[:80]}; supported is "
                f"{', '.join(json.dumps(one) for one in several)}."
            )
    for key, value in values.items():
        # Whatever peft adds in later versions is off if it is null, false, empty or 0.
        if key not in _IGNORED and value:
            raise UserError(
                f"{path}: {key} is {ascii(value)[:80]}, which is not supported; merge the adapters "
                "with peft (model.merge_and_unload()) and convert the whole model."
            )
    numbers = {"r": int, "lora_alpha": int | float, "lora_dropout": int | float | None}
    for key, kind in numbers.items():
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, kind):
            raise UserError(f"{path}: {key} is {ascii(value)[:80]}; it must be a number.")
    return values
