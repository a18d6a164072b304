"""Reads the tokens that a folder adds to its `tokenizer.model`, from all usual files.

added_tokens.json         ids by text
tokenizer.json            `added_tokens`, with how each is matched
tokenizer_config.json     `added_tokens_decoder`, the same by id, and the roles of tokens
special_tokens_map.json   roles: bos, eos, padding, ...
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import tokenizers

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import read_json
from parrot_jax.core.paths import AnyPath, file_in

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")

_LISTS = ("additional_special_tokens", "extra_special_tokens")
MAX_ID = 10**7


class AddedToken(NamedTuple):
    """A token besides the pieces, or a piece that is matched before the text is split."""

    content: str
    id: int
    special: bool = False
    """A control token: skipped in decoding, and broken up inside of texts."""
    lstrip: bool = False
    """Also matches the white space before it."""
    rstrip: bool = False
    """Also matches the white space after it."""
    single_word: bool = False
    """Matches only as a separate word."""


class AddedTokens(NamedTuple):
    """The added tokens and roles of a folder."""

    tokens: list[AddedToken]
    roles: dict[str, str]
    """The text of each role's token, a key of `ROLES`."""
    left_out: list[str]
    """Features that cannot be converted, each with the reason."""


def read_added_tokens(
    folder: AnyPath, pieces: Mapping[str, int], *, num_rows: int | None
) -> AddedTokens:
    """Reads all files, which must agree.

    Args:
      folder: A folder with a `tokenizer.model`.
      pieces: Its pieces with their ids.
      num_rows: Rows of the model's embedding: tokens beyond them are left out. None = unknown.

    Raises:
      UserError: A file is damaged, or two of them disagree about a token.
    """
    config, roles_map, ids, library = (
        _read_object(folder, name)
        for name in (
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "tokenizer.json",
        )
    )
    _check_same_pieces(folder, library, pieces)
    roles, special = _roles(_merged(roles_map, config))
    found: dict[str, AddedToken] = {}
    # The first file with a token defines its matching; `added_tokens.json` has only ids.
    for where, content, token_id, entry in _entries(library, config, ids):
        token = _token(folder / where, content, token_id, entry, special)
        known = found.setdefault(token.content, token)
        if known.id != token.id:
            raise UserError(
                f"{folder / where} gives {token.content!r} the id {token.id}, another file there "
                f"{known.id}; one of them belongs to another model."
            )
    _check_ids(folder, found, pieces)
    beyond = [t for t in found.values() if num_rows is not None and t.id >= num_rows]
    left_out = [
        f"{token.content!r} has the id {token.id}, but the model has {num_rows:,} rows"
        for token in beyond
    ]
    tokens = [token for token in found.values() if token not in beyond]
    known = pieces.keys() | {token.content for token in tokens}
    missing = {name: text for name, text in roles.items() if text not in known}
    left_out += [f"{name} is {text!r}, which has no id" for name, text in missing.items()
                 if text not in {token.content for token in beyond}]  # fmt: skip
    left_out += [f"{text!r} is named a special token, but has no id"
                 for text in sorted(special - known - set(roles.values()))]  # fmt: skip
    if config.get("add_eos_token") is True:
        left_out.append("add_eos_token (texts ending with eos_token)")
    return AddedTokens(
        sorted(tokens, key=lambda token: token.id),
        {name: text for name, text in roles.items() if name not in missing},
        left_out,
    )


def roles_of(folder: AnyPath) -> tuple[dict[str, Any], dict[str, str], set[str]]:
    """Reads which tokens have roles.

    Returns:
      The values of `tokenizer_config.json`, the text of each role's token, and the texts of all
      tokens that are special because of a role.
    """
    config = _read_object(folder, "tokenizer_config.json")
    roles, special = _roles(_merged(_read_object(folder, "special_tokens_map.json"), config))
    return config, roles, special


def check_library_tokens(
    folder: AnyPath, backend: tokenizers.Tokenizer, config: Mapping[str, Any], special: set[str]
) -> list[str]:
    """Checks the added tokens of a `tokenizer.json`, and marks those with a role as special.

    Args:
      folder: Its folder.
      backend: The tokenizer; changed.
      config: The values of `tokenizer_config.json`.
      special: Tokens with a role.

    Returns:
      Features that are left out, each with the reason.

    Raises:
      UserError: The files disagree about a token.
    """
    decoder = config.get("added_tokens_decoder")
    marked: set[str] = set()
    for key, entry in (decoder if isinstance(decoder, dict) else {}).items():
        content = entry.get("content") if isinstance(entry, dict) else None
        if isinstance(content, str) and entry.get("special") is True:
            marked.add(content)
        held = backend.token_to_id(content) if isinstance(content, str) else None
        if held is None or str(held) != key:
            raise UserError(
                f"{folder}/tokenizer_config.json gives {content!r} the id {key}, tokenizer.json "
                f"{held}; one of them belongs to another model."
            )
    known = {str(t.content): t for t in backend.get_added_tokens_decoder().values()}
    left_out = [f"{text!r} is named a special token, but has no id"
                for text in sorted(special) if backend.token_to_id(text) is None]  # fmt: skip
    for text in sorted(special | marked):
        token = known.get(text)
        if backend.token_to_id(text) is not None and (token is None or not token.special):
            matched = {} if token is None else {
                name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word")
            }  # fmt: skip
            backend.add_special_tokens([tokenizers.AddedToken(text, normalized=False, **matched)])
    for token in backend.get_added_tokens_decoder().values():
        text = str(token.content)
        if token.special and not is_breakable(text):
            if text in special:
                check_breakable(AddedToken(text, 0), folder)
            left_out.append(f"breaking up {text!r} in texts: any text could fake it")
    if config.get("add_eos_token") is True:
        left_out.append("add_eos_token (texts ending with eos_token)")
    return left_out


def is_breakable(text: str) -> bool:
    """Whether a special token can be broken up in texts.

    Inside of texts a space is inserted after its first character. This works only for two or more
    characters, without white space, that cannot overlap themselves.
    """
    overlaps = any(text[:size] == text[-size:] for size in range(1, len(text)))
    return len(text) >= 2 and not overlaps and not any(char.isspace() for char in text)


def check_breakable(token: AddedToken, path: AnyPath) -> None:
    """Rejects a special token that cannot be broken up in texts.

    Raises:
      UserError: It is such a token; see `is_breakable`.
    """
    if not is_breakable(token.content):
        raise UserError(
            f"{path}: the special token {token.content!r} is a single character, has white space "
            "or can overlap itself, so any text could fake it."
        )


def check_not_across(token: AddedToken, path: AnyPath) -> None:
    """Rejects a token that could begin in a template header and end in the text after it.

    Raises:
      UserError: It is such a token.
    """
    if ": " in token.content:
        raise UserError(
            f"{path}: the token {token.content!r} contains a colon and a space, which separate "
            "a header from its text; such tokens are not supported."
        )


def _read_object(folder: AnyPath, name: str) -> dict[str, Any]:
    path = file_in(folder, name)
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} has {type(value).__name__}, not an object.")
    return value


def _check_same_pieces(
    folder: AnyPath, library: Mapping[str, Any], pieces: Mapping[str, int]
) -> None:
    """Rejects a `tokenizer.json` whose vocabulary differs from `tokenizer.model`."""
    model = library.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict):
        return
    added = {
        entry.get("content") for entry in _list(library, "added_tokens") if isinstance(entry, dict)
    }
    differ = [text for text, token_id in vocab.items()
              if pieces.get(text) != token_id and text not in added]  # fmt: skip
    absent = [text for text in pieces if text not in vocab]
    if differ or absent:
        shown = (differ or absent)[0]
        raise UserError(
            f"{folder}/tokenizer.json and tokenizer.model have different vocabularies: "
            f"{len(differ) + len(absent):,} pieces differ, e.g. {shown!r}."
        )


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    found = values.get(key)
    return found if isinstance(found, list) else []


def _roles(values: Mapping[str, Any]) -> tuple[dict[str, str], set[str]]:
    """The token of each role, and all tokens that are special because of a role."""
    named = {name: _text(values.get(name)) for name in ROLES}
    roles = {name: text for name, text in named.items() if text}
    listed = (_text(item) for key in _LISTS for item in _list(values, key))
    return roles, {*roles.values(), *(text for text in listed if text)}


def _merged(roles_map: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of both files; a null in the second does not hide the first."""
    return {**roles_map, **{name: value for name, value in config.items() if value is not None}}


def _text(value: Any) -> str | None:
    """The text of a token, which may be in an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _entries(
    library: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any, Mapping[str, Any]]]:
    """Yields (file, text, id, matching settings) of each token in each file."""
    for entry in _list(library, "added_tokens"):
        entry = entry if isinstance(entry, dict) else {}
        yield "tokenizer.json", entry.get("content"), entry.get("id"), entry
    decoder = config.get("added_tokens_decoder")
    for key, entry in (decoder if isinstance(decoder, dict) else {}).items():
        entry = entry if isinstance(entry, dict) else {}
        token_id = int(key) if key.isdecimal() and len(key) < 10 else None
        yield "tokenizer_config.json", entry.get("content"), token_id, entry
    for content, token_id in ids.items():
        yield "added_tokens.json", content, token_id, {}


def _token(
    path: AnyPath, content: Any, token_id: Any, entry: Mapping[str, Any], special: set[str]
) -> AddedToken:
    is_id = type(token_id) is int and 0 <= token_id <= MAX_ID
    if not (isinstance(content, str) and content and is_id):
        raise UserError(
            f"{path}: an added token is {content!r} with the id {token_id!r}; it must be a text "
            f"with an id from 0 to {MAX_ID:,}."
        )
    try:
        content.encode()
    except UnicodeEncodeError:
        raise UserError(f"{path}: the token {content!r} is not valid Unicode.") from None
    return AddedToken(
        content,
        token_id,
        special=entry.get("special") is True or content in special,
        lstrip=entry.get("lstrip") is True,
        rstrip=entry.get("rstrip") is True,
        single_word=entry.get("single_word") is True,
    )


def _check_ids(folder: AnyPath, found: Mapping[str, AddedToken], pieces: Mapping[str, int]) -> None:
    """Checks that texts and ids map one to one, including the pieces."""
    texts = {token_id: text for text, token_id in pieces.items()}
    for token in found.values():
        held = texts.setdefault(token.id, token.content)
        if held != token.content or pieces.get(token.content, token.id) != token.id:
            raise UserError(
                f"{folder}: the added token {token.content!r} has the id {token.id}, but that is "
                f"{held!r}, or tokenizer.model has it with another id; the files belong to "
                "different models."
            )
