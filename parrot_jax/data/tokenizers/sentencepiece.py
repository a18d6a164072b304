"""LLaMA's tokenizer, built from SentencePiece's `tokenizer.model`, with identical ids.

transformers 5 converts a bare `tokenizer.model` wrongly (it orders merges by id and ignores the
scores), so we build `tokenizer.json` ourselves and write it to every export. Training, transformers
and vLLM then use the same file.

Texts are encoded piece by piece, each after a special token: there the encoder adds no dummy prefix
and does not merge across the border, so the joined ids of the pieces are the ids of the whole.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, processors

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input, read_json
from parrot_jax.core.paths import AnyPath, file_in
from parrot_jax.data.tokenizers.added_tokens import (
    ROLES,
    AddedToken,
    check_breakable,
    check_not_across,
    read_added_tokens,
)
from parrot_jax.data.tokenizers.base import Tokenizer

_SPACE = "▁"  # SentencePiece's visible space, U+2581
_MAX_MODEL_BYTES = 64 * 2**20
"""Of a `tokenizer.model`; one with 256,000 pieces has 5 MB."""
_MAX_PIECES = 10**6

_BYTE = re.compile("<0x[0-9A-F]{2}>")


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece BPE vocabulary with byte fallback."""

    def __init__(self, backend: tokenizers.Tokenizer, **settings: Any) -> None:
        """See `Tokenizer`."""
        super().__init__(backend, **settings)
        vocab = backend.get_vocab(with_added_tokens=True)
        self._byte_ids = frozenset(i for token, i in vocab.items() if _BYTE.fullmatch(token))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        # A separate text begins with a space; one after a special token does not.
        return self.encode_pieces(
            [
                text if not text or text.startswith((" ", *self.control_strings)) else f" {text}"
                for text in texts
            ]
        )

    def show(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        # The decoder strips the first space of a text, but not after a special token.
        text = self._backend.decode([self.eos_id, *ids], skip_special_tokens=False)
        return text.removeprefix(self.eos_token)

    def num_settled(self, ids: Sequence[int], *, special: bool) -> int:
        """See `Tokenizer`."""
        count = len(ids)
        while count and (
            ids[count - 1] in self._byte_ids
            or (not special and ids[count - 1] in self._special_ids)
        ):
            count -= 1
        return count

    def openings(self) -> NDArray[np.uint8]:
        """See `Tokenizer`."""
        pieces = [self._backend.id_to_token(index) or "" for index in range(self.vocab_size)]
        return np.array([_opening(piece) for piece in pieces], np.uint8)


def _opening(piece: str) -> int:
    if piece.startswith(_SPACE) or piece == "<0x0A>":
        return 2
    is_byte = _BYTE.fullmatch(piece) is not None
    return 0 if is_byte and 0x80 <= int(piece[3:5], 16) < 0xC0 else 1


def read_saved(folder: AnyPath) -> Tokenizer:
    """Reads a folder written by `Tokenizer.save`.

    Raises:
      UserError: It has no tokenizer, is damaged, or was written by another program.
    """
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if not file_in(folder, name).exists():
            raise UserError(f"{folder} has no tokenizer: {name} is missing.")
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
        return SentencePieceTokenizer(
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
            f"the tokenizer in {folder} cannot be read ({reason}); it is damaged: replace it "
            "by a copy."
        ) from None


def read_model(
    path: AnyPath, *, folder: AnyPath | None = None, num_rows: int | None = None
) -> Tokenizer:
    """Reads a `tokenizer.model`.

    Args:
      path: The file.
      folder: The folder with files of added tokens; None = no added tokens.
      num_rows: See `load_tokenizer`.

    Raises:
      UserError: It is damaged, or not SentencePiece BPE as in LLaMA.
    """
    proto = _read_proto(path)
    pieces = [piece.piece for piece in proto.pieces]
    kinds = [piece.Type.Name(piece.type) for piece in proto.pieces]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    if len(vocab) < len(pieces):
        raise UserError(f"{path} is damaged: it has a piece twice.")
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
        # Control pieces stay special, even if another file says otherwise.
        tokens |= {token.content: token for token in added.tokens if token.content not in tokens}
        roles |= added.roles
        left_out += added.left_out
    unk_token = pieces[kinds.index("UNKNOWN")]
    if roles.pop("unk_token", unk_token) != unk_token:
        left_out.append(f"unk_token (differs from {unk_token!r} in tokenizer.model)")
    bos, eos = roles.pop("bos_token"), roles.pop("eos_token")
    for role in {bos, eos, *roles.values()}:
        token = tokens.get(role, AddedToken(role, vocab.get(role, -1)))
        # Role tokens must not match white space, which belongs to the text beside them.
        tokens[role] = token._replace(special=True, lstrip=False, rstrip=False)
        if token.lstrip or token.rstrip:
            left_out.append(f"{role!r} matching white space beside it")
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
    return SentencePieceTokenizer(
        backend, bos_token=bos, eos_token=eos, roles=roles, left_out=left_out
    )


def _merges(
    pieces: Sequence[str], scores: Sequence[float], vocab: dict[str, int]
) -> list[tuple[str, str]]:
    """All pairs of pieces that form a piece, in SentencePiece's merge order."""
    ranked: list[tuple[float, int, int, str, str]] = []
    for piece, score in zip(pieces, scores, strict=True):
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                ranked.append((-score, vocab[left], vocab[right], left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _read_proto(path: AnyPath) -> Any:
    """Reads a SentencePiece model, and checks that our `tokenizer.json` supports its settings.

    Raises:
      UserError: It is not a supported SentencePiece model.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    content = bytearray()
    with open_input(path, "rb") as file:
        # In parts, since one large read would allocate the limit for any file.
        while len(content) <= _MAX_MODEL_BYTES and (part := file.read(2**16)):
            content += part
    proto = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        if len(content) > _MAX_MODEL_BYTES:
            raise DecodeError
        proto.ParseFromString(bytes(content))
        texts = [proto.trainer_spec.bos_piece, proto.trainer_spec.eos_piece]
        # Invalid UTF-8 is returned as bytes.
        if not all(isinstance(text, str) for text in [*texts, *(p.piece for p in proto.pieces)]):
            raise DecodeError
    except DecodeError:
        raise UserError(f"{path} is not a SentencePiece model.") from None
    trainer, normalizer, size = proto.trainer_spec, proto.normalizer_spec, len(proto.pieces)
    # A piece such as `:▁a` would merge a header with its text.
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
