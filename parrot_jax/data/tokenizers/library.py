"""Reads a folder with a `tokenizer.json`, which is used as it is."""

import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input, read_json
from parrot_jax.core.paths import AnyPath, file_in
from parrot_jax.data.tokenizers.added_tokens import (
    MAX_ID,
    ROLES,
    check_library_tokens,
    roles_of,
)
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
    _check_complete(folder, values)
    config, roles, special = roles_of(folder)
    for entry in _added(values):
        # Otherwise a text that the normalizer turns into a special token could fake a boundary.
        entry["normalized"] = bool(entry.get("normalized")) and entry.get("special") is not True
    backend = _backend(folder, values)
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


def _added(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = values.get("added_tokens")
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def _check_complete(folder: AnyPath, values: Mapping[str, Any]) -> None:
    """Rejects a tokenizer that drops characters which its vocabulary lacks.

    Raises:
      UserError: It is one.
    """
    model, splitting = values["model"], json.dumps(values.get("pre_tokenizer"))
    has_unknown = model.get("unk_token") is not None or model.get("byte_fallback") is True
    if not has_unknown and '"ByteLevel"' not in splitting:
        raise UserError(
            f"{folder}/tokenizer.json has neither bytes nor an unk_token, so it would silently "
            "drop the characters that its vocabulary lacks; such tokenizers are not supported."
        )


def _backend(folder: AnyPath, values: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Builds the tokenizer, and checks that each text has one id, and some id.

    Raises:
      UserError: The file is damaged.
    """
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(values))
        backend.encode("a \U0010fffd")  # neither of them fails until a text is encoded
    except BaseException as error:  # the library raises bare Exception, or a panic
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the tokenizer in {folder} cannot be read ({reason}); it is damaged: replace it "
            "by a copy."
        ) from None
    vocab = backend.get_vocab(with_added_tokens=True)
    for entry in _added(values):
        # The library numbers tokens itself if there is a gap before them.
        if vocab.get(text := str(entry.get("content"))) != entry.get("id"):
            raise UserError(
                f"{folder}/tokenizer.json gives {text!r} the id {entry.get('id')}, but it is read "
                f"as {vocab.get(text)}; give added tokens in order, without gaps between ids."
            )
    if len(set(vocab.values())) < len(vocab):
        raise UserError(f"{folder}/tokenizer.json is damaged: two tokens have the same id.")
    if max(vocab.values(), default=0) > MAX_ID:
        raise UserError(
            f"{folder}/tokenizer.json has the id {max(vocab.values()):,}; at most {MAX_ID:,} is "
            "supported."
        )
    return backend


def read_chat_template(folder: AnyPath, config: Mapping[str, Any] | None = None) -> str | None:
    """The Jinja template of a folder, from `chat_template.jinja` or `tokenizer_config.json`.

    Of several named templates, the one named `default`. None if there is none, or it is larger than
    any real one.

    Raises:
      UserError: The file is not UTF-8.
    """
    path = file_in(folder, "chat_template.jinja")
    if path.exists():
        try:
            with open_input(path) as file:
                text: Any = file.read(_MOST_TEMPLATE_CHARS + 1)
        except UnicodeDecodeError:
            raise UserError(
                f"{path} is not a text in UTF-8; replace it by a copy, or remove it."
            ) from None
    else:
        if config is None:
            path = file_in(folder, "tokenizer_config.json")
            config = read_json(path) if path.exists() else {}
        text = config.get("chat_template") if isinstance(config, Mapping) else None
        if isinstance(text, list):
            named = [each.get("template") for each in text
                     if isinstance(each, dict) and each.get("name") == "default"]  # fmt: skip
            text = named[-1] if named else None
    return text if isinstance(text, str) and len(text) <= _MOST_TEMPLATE_CHARS else None
