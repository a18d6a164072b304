"""LLaMA's tokenizer, built from SentencePiece's `tokenizer.model`, with identical ids.

transformers 5 converts a bare `tokenizer.model` wrongly (it orders merges by id and ignores the
scores), so we build `tokenizer.json` ourselves and write it to every export. Training, transformers
and vLLM then use the same file.

Behind a special token the encoder adds no dummy prefix, and no piece has a space inside, so a
header and its text are never merged.
"""

import re
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input
from parrot_jax.core.paths import AnyPath
from parrot_jax.data.tokenizers.added_tokens import (
    AddedToken,
    check_breakable,
    check_not_across,
    read_added_tokens,
)
from parrot_jax.data.tokenizers.base import Tokenizer
from parrot_jax.data.tokenizers.library import read_chat_template

_SPACE = "▁"  # SentencePiece's visible space, U+2581
_MAX_MODEL_BYTES = 64 * 2**20
"""Of a `tokenizer.model`; one with 256,000 pieces has 5 MB."""
_MAX_PIECES = 10**6


_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")
"""The first line of a file of tiktoken, which some folders name `tokenizer.model`."""


class NotLlamaError(UserError):
    """A model that is whole, but of another kind than LLaMA's."""


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
    return Tokenizer(
        backend,
        bos_token=bos,
        eos_token=eos,
        roles=roles,
        left_out=left_out,
        chat_template=None if folder is None else read_chat_template(folder),
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
    if _TIKTOKEN.match(content):
        raise NotLlamaError(
            f"{path} is a file of tiktoken, not a SentencePiece model; use a folder with the "
            "model's tokenizer.json."
        )
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
        raise NotLlamaError(f"{path} is not a LLaMA-style SentencePiece model: {'; '.join(wrong)}.")
    return proto
