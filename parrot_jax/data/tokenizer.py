"""The LLaMA tokenizer: built from SentencePiece's `tokenizer.model`, exact to the id.

transformers 5 converts a bare `tokenizer.model` wrongly (it orders merges by id and ignores the
scores), so we build `tokenizer.json` ourselves and write it into every folder we export. Training,
transformers and vLLM then read the same file.

Texts are encoded piece by piece, each behind a special token: there the encoder neither adds its
dummy prefix nor merges across the border, so the pieces' ids, joined, are the ids of the whole.
"""

import json
import re
from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import AnyPath, as_path, atomic_write, hash_json, write_json

_SPACE = "▁"  # SentencePiece's visible space, U+2581

_BYTE = re.compile("<0x[0-9A-F]{2}>")


class Tokenizer:
    """A SentencePiece BPE vocabulary behind the `tokenizers` library.

    Attributes:
      bos_token: The token that opens a rendering, `<s>` in LLaMA.
      eos_token: The token that ends a turn, `</s>` in LLaMA.
      bos_id: Its id.
      eos_id: Its id.
      control_strings: The texts that would become special tokens; the template breaks them.
      vocab_size: Number of ids; every id is in [0, vocab_size).
      max_piece_chars: Characters of the longest token: a text has at least its length by this many.
      fingerprint: 64 hex digits of the content, equal for equal tokenizers.
    """

    def __init__(self, backend: tokenizers.Tokenizer, *, bos_token: str, eos_token: str) -> None:
        """Wraps a backend; use `load` to read one from a file."""
        self._backend = backend
        self.bos_token, self.eos_token = bos_token, eos_token
        self.bos_id, self.eos_id = self._id_of(bos_token), self._id_of(eos_token)
        added = backend.get_added_tokens_decoder()
        self.control_strings = tuple(sorted({str(token.content) for token in added.values()}))
        self._special_ids = frozenset(added)
        vocab = backend.get_vocab(with_added_tokens=True)
        self._byte_ids = frozenset(i for token, i in vocab.items() if _BYTE.fullmatch(token))
        self.max_piece_chars = max(map(len, vocab))
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.fingerprint = hash_json([json.loads(backend.to_str()), bos_token, eos_token])

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
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_tokens,
        }
        if chat_template is not None:
            # Once as a file of its own, which people read, and once here, for older readers.
            config["chat_template"] = chat_template
            with atomic_write(folder / "chat_template.jinja") as file:
                file.write(chat_template)
        write_json(folder / "tokenizer_config.json", config)

    def _id_of(self, token: str) -> int:
        index = self._backend.token_to_id(token)
        if index is None:
            raise UserError(f"the tokenizer has no token {token!r}.")
        return index

    def _unk_token(self) -> str:
        return self._backend.model.unk_token  # pyright: ignore[reportAttributeAccessIssue]


def load_tokenizer(path: AnyPath | str) -> Tokenizer:
    """Reads a tokenizer.

    Args:
      path: A SentencePiece `tokenizer.model`, a folder that holds one, or a folder that
        `Tokenizer.save` wrote. Other people's `tokenizer.json` files are not read: the layouts
        around do not all give SentencePiece's ids.

    Raises:
      UserError: There is nothing to read, or its kind is not SentencePiece BPE as LLaMA uses it.
    """
    path = as_path(path)
    if path.is_dir():
        if (path / "tokenizer.model").exists():
            return _from_sentencepiece(path / "tokenizer.model")
        return _from_saved(path)
    if not path.is_file():
        raise UserError(f"there is no tokenizer at {path}; give a tokenizer.model or its folder.")
    return _from_sentencepiece(path)


def _from_saved(folder: AnyPath) -> Tokenizer:
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        backend = tokenizers.Tokenizer.from_str(
            (folder / "tokenizer.json").read_text(encoding="utf-8")
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no tokenizer: {as_path(error.filename).name} is missing."
        ) from None
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{folder}/tokenizer.json cannot be read: {error}.") from None
    settings = json.loads(backend.to_str())
    ours = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "first", "split": False}
    if settings["pre_tokenizer"] != ours or settings["normalizer"] is not None:
        raise UserError(
            f"{folder}/tokenizer.json was not written by this project and may give other ids than "
            "SentencePiece; give the tokenizer.model beside it."
        )
    return Tokenizer(backend, bos_token=config["bos_token"], eos_token=config["eos_token"])


def _from_sentencepiece(path: AnyPath) -> Tokenizer:
    import sentencepiece

    content = path.read_bytes()
    _check_settings(content, path)
    model = sentencepiece.SentencePieceProcessor()
    model.LoadFromSerializedProto(content)
    size = model.GetPieceSize()
    vocab = {model.IdToPiece(index): index for index in range(size)}
    plain = [
        index
        for index in range(size)
        if not (model.IsControl(index) or model.IsUnknown(index) or model.IsByte(index))
    ]
    unk_token = model.IdToPiece(model.unk_id())
    merges = _merges([model.IdToPiece(i) for i in plain], [model.GetScore(i) for i in plain], vocab)
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
    bos, eos = model.IdToPiece(model.bos_id()), model.IdToPiece(model.eos_id())
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, model.bos_id())]
    )
    special = [model.IdToPiece(i) for i in range(size) if model.IsControl(i) or model.IsUnknown(i)]
    backend.add_special_tokens([tokenizers.AddedToken(t, normalized=False) for t in special])
    return Tokenizer(backend, bos_token=bos, eos_token=eos)


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


def _check_settings(content: bytes, path: AnyPath) -> None:
    """Refuses a SentencePiece model whose settings our `tokenizer.json` would not honour."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        proto.ParseFromString(content)
    except DecodeError:
        raise UserError(f"{path} is not a SentencePiece model.") from None
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    # A piece such as `:▁a` would merge a header with the text behind it.
    spaced = [piece.piece for piece in proto.pieces if _SPACE in piece.piece.lstrip(_SPACE)]
    seen = {
        "model_type": (trainer.ModelType.Name(trainer.model_type), "BPE"),
        "byte_fallback": (trainer.byte_fallback, True),
        "normalization_rule_name": (normalizer.name, "identity"),
        "add_dummy_prefix": (normalizer.add_dummy_prefix, True),
        "remove_extra_whitespaces": (normalizer.remove_extra_whitespaces, False),
        "user_defined_symbols": (list(trainer.user_defined_symbols), []),
        "bos_id and eos_id": (trainer.bos_id >= 0 and trainer.eos_id >= 0, True),
        "pieces with a space inside": (spaced[:3], []),
    }
    wrong = [f"{k} is {got!r}, not {want!r}" for k, (got, want) in seen.items() if got != want]
    if wrong:
        raise UserError(f"{path} is not a LLaMA-style SentencePiece model: {'; '.join(wrong)}.")
