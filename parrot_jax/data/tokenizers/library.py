"""Reads a folder with a `tokenizer.json`, which is used as it is."""

import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input, read_json
from parrot_jax.core.paths import AnyPath, file_in
from parrot_jax.data.tokenizers.added_tokens import ROLES, check_library_tokens, roles_of
from parrot_jax.data.tokenizers.base import Tokenizer

_MOST_TEMPLATE_CHARS = 10**6


def read_library(folder: AnyPath, *, left_out: tuple[str, ...] = ()) -> Tokenizer:
    """Reads a `tokenizer.json` with byte-level BPE, or BPE with Metaspace.

    Args:
      folder: Its folder, with `tokenizer_config.json`.
      left_out: See `Tokenizer`.

    Raises:
      UserError: A file is missing or damaged, the model is not BPE, or the files disagree.
    """
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if not file_in(folder, name).exists():
            raise UserError(f"{folder} has no tokenizer: {name} is missing.")
    values = read_json(folder / "tokenizer.json")
    model = values.get("model") if isinstance(values, dict) else None
    kind = model.get("type") if isinstance(model, dict) else None
    # Early files do not name the type; those with merges are BPE.
    if kind is None and isinstance(model, dict) and "merges" in model:
        kind = "BPE"
    if kind != "BPE" or not isinstance(model, dict):
        raise UserError(
            f"{folder}/tokenizer.json has a model of the type {kind!r}; only BPE is supported, as "
            "in LLaMA, Mistral, Qwen, SmolLM, Yi and OLMo."
        )
    # These would shorten, pad or change texts at random.
    values |= {"truncation": None, "padding": None}
    model["dropout"] = None
    config, roles, special = roles_of(folder)
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(values))
    except Exception as error:  # the library raises bare Exception
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the tokenizer in {folder} cannot be read ({reason}); it is damaged: replace it "
            "by a copy."
        ) from None
    if (eos := roles.pop("eos_token", None)) is None:
        raise UserError(
            f"{folder}/tokenizer_config.json has no eos_token; name the token that ends a text."
        )
    left_out = (*left_out, *check_library_tokens(folder, backend, config, {*special, eos}))
    bos = roles.pop("bos_token", None)
    roles.pop("unk_token", None)
    return Tokenizer(
        backend,
        bos_token=bos,
        eos_token=eos,
        roles={name: text for name, text in roles.items() if name in ROLES},
        left_out=left_out,
        chat_template=read_chat_template(folder, config),
    )


def read_chat_template(folder: AnyPath, config: Mapping[str, Any] | None = None) -> str | None:
    """The Jinja template of a folder, from `chat_template.jinja` or `tokenizer_config.json`.

    Of several named templates, the one named `default`. None if there is none, or it is larger than
    any real one.
    """
    path = file_in(folder, "chat_template.jinja")
    if path.exists():
        with open_input(path) as file:
            text: Any = file.read(_MOST_TEMPLATE_CHARS + 1)
    else:
        if config is None:
            path = file_in(folder, "tokenizer_config.json")
            config = read_json(path) if path.exists() else {}
        text = config.get("chat_template") if isinstance(config, Mapping) else None
        if isinstance(text, list):
            named = {each.get("name"): each.get("template") for each in text
                     if isinstance(each, dict)}  # fmt: skip
            text = named.get("default")
    return text if isinstance(text, str) and len(text) <= _MOST_TEMPLATE_CHARS else None
