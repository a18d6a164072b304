"""The LLaMA tokenizer: built from SentencePiece's `tokenizer.model`, exact to the id.

transformers 5 converts a bare `tokenizer.model` wrongly (it orders merges by id and ignores the
scores), so we build `tokenizer.json` ourselves and write it into every folder we export. Training,
transformers and vLLM then read the same file.

Texts are encoded piece by piece, each behind a special token: there the encoder neither adds its
dummy prefix nor merges across the border, so the pieces' ids, joined, are the ids of the whole.
"""

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import (
    AnyPath,
    as_path,
    atomic_write,
    file_in,
    hash_json,
    open_input,
    read_json,
    write_json,
)
from parrot_jax.data.added_tokens import (
    ROLES,
    AddedToken,
    check_breakable,
    check_not_across,
    read_added_tokens,
)

_SPACE = "▁"  # SentencePiece's visible space, U+2581
_MAX_MODEL_BYTES = 64 * 2**20
"""Of a `tokenizer.model`: those of 256,000 pieces take 5 MB."""
_MAX_PIECES = 10**6
_MAX_PADDING = 1024
"""Rows of an embedding are at most rounded up to a multiple of this."""

_BYTE = re.compile("<0x[0-9A-F]{2}>")


class Tokenizer:
    """A SentencePiece BPE vocabulary behind the `tokenizers` library.

    Attributes:
      bos_token: The token that opens a rendering, `<s>` in LLaMA.
      eos_token: The token that ends a turn, `</s>` in LLaMA.
      bos_id: Its id.
      eos_id: Its id.
      roles: Further tokens with a role, such as `pad_token`, by its name.
      control_strings: The texts that would become special tokens; the template breaks them.
      vocab_size: One more than the largest id; every id is in [0, vocab_size).
      max_piece_chars: Characters of the longest token: a text has at least its length by this many.
      fingerprint: 64 hex digits of the content, equal for equal tokenizers.
      left_out: What of the folder it was read from could not be carried, each with its reason.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_token: str,
        eos_token: str,
        roles: Mapping[str, str] = MappingProxyType({}),
        left_out: Sequence[str] = (),
    ) -> None:
        """Wraps a backend; use `load_tokenizer` to read one from a file."""
        self._backend = backend
        self.bos_token, self.eos_token = bos_token, eos_token
        self.bos_id, self.eos_id = self.id_of(bos_token), self.id_of(eos_token)
        self.roles, self.left_out = dict(roles), tuple(left_out)
        added = backend.get_added_tokens_decoder()
        special = {index: str(token.content) for index, token in added.items() if token.special}
        self.control_strings = tuple(sorted(set(special.values())))
        self._special_ids = frozenset(special)
        vocab = backend.get_vocab(with_added_tokens=True)
        self._byte_ids = frozenset(i for token, i in vocab.items() if _BYTE.fullmatch(token))
        self.max_piece_chars = max(map(len, vocab))
        self.vocab_size = max(vocab.values()) + 1
        # Of what decides ids, and not of the library's way to write it, which may change.
        described = json.loads(backend.to_str())
        merges = [each if isinstance(each, list) else each.split(" ")
                  for each in described["model"]["merges"]]  # fmt: skip
        tokens = [[token["content"], token["id"], token["special"], token["lstrip"],
                   token["rstrip"], token["single_word"]]
                  for token in described["added_tokens"]]  # fmt: skip
        self.fingerprint = hash_json(
            [vocab, merges, tokens, bos_token, eos_token, sorted(self.roles.items())]
        )

    def encode_pieces(self, pieces: Sequence[str]) -> list[list[int]]:
        """Encodes each text as if it stood right behind a special token.

        Args:
          pieces: Texts without control strings; a content piece starts with its space.

        Returns:
          The ids of each piece, in order. Many pieces in one call use all cores.
        """
        texts = [self.eos_token + piece for piece in pieces]
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids[1:] for encoding in encodings]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids that transformers gives a text on its own, without BOS.

        SentencePiece puts a space before it; behind a special token it lacks that space.
        """
        return self.encode_pieces(
            [
                text if not text or text.startswith((" ", *self.control_strings)) else f" {text}"
                for text in texts
            ]
        )

    def num_ids_before(self, piece: str, place: int) -> int:
        """How many ids of a piece begin before a character of it.

        Args:
          piece: As `encode_pieces` takes it.
          place: The number of the character, from 0.
        """
        encoding = self._backend.encode(self.eos_token + piece, add_special_tokens=False)
        limit = len(self.eos_token) + place
        return sum(start < limit for start, _ in encoding.offsets[1:])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens and without the leading space."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def pieces(self) -> list[str]:
        """The piece of each id, e.g. `"▁word"`, or `"<0x0A>"` for a byte."""
        return [self._backend.id_to_token(index) or "" for index in range(self.vocab_size)]

    def show(self, ids: Sequence[int]) -> str:
        """The text of `ids` with special tokens and leading spaces, for people to look at."""
        # The decoder strips the text's first space; behind a special token nothing is lost.
        text = self._backend.decode([self.eos_id, *ids], skip_special_tokens=False)
        return text.removeprefix(self.eos_token)

    def text_inside(self, ids: Sequence[int], *, special: bool) -> str:
        """The text of `ids` as it stands inside a longer text, whose parts join without a seam.

        Args:
          ids: All that there are, or a part that ends where `num_settled` says.
          special: Whether special tokens are shown or left out.
        """
        if not special:
            ids = [index for index in ids if index not in self._special_ids]
        return self.show(ids)

    def num_settled(self, ids: Sequence[int], *, special: bool) -> int:
        """How many of the ids have a text that no further id changes.

        Not settled is a run of bytes at the end: the decoder reads a run as a whole, and where it
        is no UTF-8, each of its bytes becomes U+FFFD.

        Args:
          ids: Ids of a text so far.
          special: As in `text_inside`; left out, special tokens do not end a run.
        """
        count = len(ids)
        while count and (
            ids[count - 1] in self._byte_ids
            or (not special and ids[count - 1] in self._special_ids)
        ):
            count -= 1
        return count

    def save(
        self, folder: AnyPath | str, *, chat_template: str | None = None, max_tokens: int = 10**30
    ) -> None:
        """Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`.

        Args:
          folder: Made where it is missing; transformers' `AutoTokenizer` and vLLM load it.
          chat_template: The Jinja text, see `template.chat_template`; None = the model has none.
          max_tokens: What the model reads at most, of which transformers warns.
        """
        folder = as_path(folder)
        write_json(folder / "tokenizer.json", json.loads(self._backend.to_str()))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "unk_token": self._unk_token(),
            **self.roles,
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_tokens,
        }
        if chat_template is not None:
            # Once as a file of its own, which people read, and once here, for older readers.
            config["chat_template"] = chat_template
            with atomic_write(folder / "chat_template.jinja") as file:
                file.write(chat_template)
        write_json(folder / "tokenizer_config.json", config)

    def id_of(self, token: str) -> int:
        """The id of a token by its text.

        Raises:
          UserError: There is none.
        """
        index = self._backend.token_to_id(token)
        if index is None:
            raise UserError(f"the tokenizer has no token {token!r}.")
        return index

    def _unk_token(self) -> str:
        return self._backend.model.unk_token  # pyright: ignore[reportAttributeAccessIssue]


def load_tokenizer(path: AnyPath | str, *, num_rows: int | None = None) -> Tokenizer:
    """Reads a tokenizer.

    Args:
      path: A SentencePiece `tokenizer.model`, a folder that holds one with what it adds to it, or
        a folder that `Tokenizer.save` wrote. Other people's `tokenizer.json` files are not read:
        the layouts around do not all give SentencePiece's ids.
      num_rows: Rows of the model's embedding: added tokens beyond them are left out, and named in
        `Tokenizer.left_out`. None = not known.

    Raises:
      UserError: There is nothing to read, it is damaged, or its kind is not SentencePiece BPE as
        LLaMA uses it.
    """
    path = as_path(path)
    if path.is_dir():
        model = file_in(path, "tokenizer.model")
        if model.exists():
            return _from_sentencepiece(model, folder=path, num_rows=num_rows)
        return _from_saved(path)
    if not path.is_file():
        raise UserError(f"there is no tokenizer at {path}; give a tokenizer.model or its folder.")
    return _from_sentencepiece(path)


def check_rows(tokenizer: Tokenizer, num_rows: int, name: str) -> str | None:
    """Compares the ids of a tokenizer with the rows of an embedding.

    Args:
      tokenizer: The tokenizer.
      num_rows: Rows, `model.vocab_size`.
      name: What the tokenizer is called in errors.

    Returns:
      A note where rows are padding: some models round their number up. None = there are none.

    Raises:
      UserError: There are more ids than rows, or so many fewer that the two are of different
        models.
    """
    padding = num_rows - tokenizer.vocab_size
    if padding < 0:
        raise UserError(
            f"the tokenizer {name} has {tokenizer.vocab_size:,} ids, more than the {num_rows:,} "
            "rows of the model (model.vocab_size); they are of different models, or raise the "
            "latter."
        )
    if padding >= _MAX_PADDING:
        raise UserError(
            f"the tokenizer {name} has {tokenizer.vocab_size:,} ids, but the model "
            f"{num_rows:,} rows (model.vocab_size); they are of different models: give the "
            "tokenizer of the weights."
        )
    return (
        f"{padding:,} of the {num_rows:,} rows of the embedding are padding, beyond the "
        f"{tokenizer.vocab_size:,} ids of the tokenizer"
        if padding
        else None
    )


def _from_saved(folder: AnyPath) -> Tokenizer:
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if not file_in(folder, name).exists():
            raise UserError(f"{folder} holds no tokenizer: {name} is missing.")
    config = read_json(folder / "tokenizer_config.json")
    values = read_json(folder / "tokenizer.json")
    ours = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "first", "split": False}
    if (
        not isinstance(values, dict)
        or values.get("pre_tokenizer") != ours
        or values.get("normalizer") is not None
    ):
        raise UserError(
            f"{folder}/tokenizer.json was not written by this project and may give other ids than "
            "SentencePiece; give the tokenizer.model beside it."
        )
    roles: dict[str, Any] = {}
    if isinstance(config, dict):
        roles = {name: config.get(name) for name in ROLES}
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(values))
        bos, eos = roles.pop("bos_token"), roles.pop("eos_token")
        del roles["unk_token"]
        return Tokenizer(
            backend,
            bos_token=bos,
            eos_token=eos,
            roles={name: text for name, text in roles.items() if isinstance(text, str)},
        )
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the tokenizer in {folder} cannot be read ({reason}); it is damaged: put a copy in "
            "its place."
        ) from None


def _from_sentencepiece(
    path: AnyPath, *, folder: AnyPath | None = None, num_rows: int | None = None
) -> Tokenizer:
    """The pieces of a model, and what `folder` adds to them; None = nothing."""
    proto = _read_model(path)
    pieces = [piece.piece for piece in proto.pieces]
    kinds = [piece.Type.Name(piece.type) for piece in proto.pieces]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    if len(vocab) < len(pieces):
        raise UserError(f"{path} is damaged: a piece is there twice.")
    controls = [
        AddedToken(piece, index, special=True)
        for index, (piece, kind) in enumerate(zip(pieces, kinds, strict=True))
        if kind in ("CONTROL", "UNKNOWN")
    ]
    symbols = [AddedToken(piece, index) for index, piece in enumerate(pieces)
               if kinds[index] == "USER_DEFINED"]  # fmt: skip
    tokens = {token.content: token for token in (*controls, *symbols)}
    trainer = proto.trainer_spec
    roles = {"bos_token": trainer.bos_piece, "eos_token": trainer.eos_piece}
    left_out: list[str] = []
    if folder is not None:
        added = read_added_tokens(folder, vocab, num_rows=num_rows)
        # What a model controls texts with stays special, whatever a file beside it says.
        tokens |= {token.content: token for token in added.tokens if token.content not in tokens}
        roles |= added.roles
        left_out += added.left_out
    unk_token = pieces[kinds.index("UNKNOWN")]
    if roles.pop("unk_token", unk_token) != unk_token:
        left_out.append(f"unk_token is another than {unk_token!r}, that of tokenizer.model")
    bos, eos = roles.pop("bos_token"), roles.pop("eos_token")
    for role in {bos, eos, *roles.values()}:
        token = tokens.get(role, AddedToken(role, vocab.get(role, -1)))
        # Behind an end comes the next speaker: white space around it is the speaker's.
        tokens[role] = token._replace(special=True, lstrip=False, rstrip=False)
        if token.lstrip or token.rstrip:
            left_out.append(f"that {role!r} takes the white space beside it")
    for token in tokens.values():
        (check_breakable if token.special else check_not_across)(token, path)
    plain = [index for index, kind in enumerate(kinds) if kind == "NORMAL"]
    merges = _merges([pieces[i] for i in plain], [proto.pieces[i].score for i in plain], vocab)
    vocab |= {token.content: token.id for token in tokens.values()}
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocab, merges=merges, unk_token=unk_token, fuse_unk=True, byte_fallback=True
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first", split=False)  # type: ignore[assignment]
    backend.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokens[bos].id)]
    )
    for token in sorted(tokens.values(), key=lambda token: token.id):
        add = backend.add_special_tokens if token.special else backend.add_tokens
        add(
            [
                tokenizers.AddedToken(
                    token.content,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    single_word=token.single_word,
                    normalized=False,
                )
            ]
        )
    return Tokenizer(backend, bos_token=bos, eos_token=eos, roles=roles, left_out=left_out)


def _merges(
    pieces: Sequence[str], scores: Sequence[float], vocab: dict[str, int]
) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, in the order in which SentencePiece merges."""
    ranked: list[tuple[float, int, int, str, str]] = []
    for piece, score in zip(pieces, scores, strict=True):
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                ranked.append((-score, vocab[left], vocab[right], left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _read_model(path: AnyPath) -> Any:
    """A SentencePiece model whose settings our `tokenizer.json` honours.

    Raises:
      UserError: It is none.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    content = bytearray()
    with open_input(path, "rb") as file:
        # Asked for all that is allowed at once, it would take that much memory for any file.
        while len(content) <= _MAX_MODEL_BYTES and (part := file.read(2**16)):
            content += part
    proto = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        if len(content) > _MAX_MODEL_BYTES:
            raise DecodeError
        proto.ParseFromString(bytes(content))
        texts = [proto.trainer_spec.bos_piece, proto.trainer_spec.eos_piece]
        # What is no UTF-8 is given as bytes.
        if not all(isinstance(text, str) for text in [*texts, *(p.piece for p in proto.pieces)]):
            raise DecodeError
    except DecodeError:
        raise UserError(f"{path} is not a SentencePiece model.") from None
    trainer, normalizer, size = proto.trainer_spec, proto.normalizer_spec, len(proto.pieces)
    # A piece such as `:▁a` would merge a header with the text behind it.
    spaced = [piece.piece for piece in proto.pieces if _SPACE in piece.piece.lstrip(_SPACE)]
    kinds = [piece.Type.Name(piece.type) for piece in proto.pieces]
    symbols = [piece.piece for piece, kind in zip(proto.pieces, kinds, strict=True)
               if kind == "USER_DEFINED"]  # fmt: skip
    controls = {piece.piece for piece, kind in zip(proto.pieces, kinds, strict=True)
                if kind == "CONTROL"}  # fmt: skip
    seen = {
        "model_type": (trainer.ModelType.Name(trainer.model_type), "BPE"),
        "byte_fallback": (trainer.byte_fallback, True),
        "normalization_rule_name": (normalizer.name, "identity"),
        "add_dummy_prefix": (normalizer.add_dummy_prefix, True),
        "remove_extra_whitespaces": (normalizer.remove_extra_whitespaces, False),
        "user-defined symbols with a space": ([s for s in symbols if _SPACE in s][:3], []),
        "unused pieces": (kinds.count("UNUSED"), 0),
        "unknown pieces": (kinds.count("UNKNOWN"), 1),
        "bos and eos pieces": ({trainer.bos_piece, trainer.eos_piece} <= controls, True),
        "pieces with a space inside": (spaced[:3], []),
        f"at most {_MAX_PIECES:,} pieces": (size <= _MAX_PIECES, True),
    }
    wrong = [f"{k} is {got!r}, not {want!r}" for k, (got, want) in seen.items() if got != want]
    if wrong:
        raise UserError(f"{path} is not a LLaMA-style SentencePiece model: {'; '.join(wrong)}.")
    return proto
