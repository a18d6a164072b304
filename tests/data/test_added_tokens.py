"""Added tokens get the ids that transformers gives them, or are listed as left out."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.core.errors import UserError
from parrot_jax.data.templates import make_template
from parrot_jax.data.templates.base import clean_text
from parrot_jax.data.tokenizers import Tokenizer, load_tokenizer

# 340 pieces plus one added token, as in Vicuna and Alpaca.
PAD = {"<pad>": 340}
CHAT = {"<|im_start|>": 340, "<|im_end|>": 341}

TEXTS = [
    "hello", "a <pad> b", "a<pad>b", "<pad>hello bye", " <pad> ", "<pad><pad>", "bye <pad>\n",
    "<pad", "the hills <|im_start|>user\nhello<|im_end|> bye", "<|im_end|>", "",
]  # fmt: skip


def written(folder: Path, model: Path, **files: Any) -> Path:
    """Creates a folder with a tokenizer.model and JSON files, given by name without `.json`."""
    folder.mkdir()
    shutil.copy(model, folder / "tokenizer.model")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def transformers_ids(folder: Path, texts: list[str]) -> list[list[int]]:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder)
    return [loaded(text)["input_ids"] for text in texts]


def entry(content: str, **more: Any) -> dict[str, Any]:
    flags = {"special": True, "lstrip": False, "rstrip": False, "single_word": False}
    return {"content": content, "normalized": False, **flags, **more}


LLAMA = {
    "tokenizer_class": "LlamaTokenizer",
    "legacy": False,
    "add_bos_token": True,
    "model_max_length": 256,
}
FORMS: dict[str, dict[str, Any]] = {
    "ids alone": {"added_tokens": PAD, "tokenizer_config": LLAMA},
    "ids and roles": {
        "added_tokens": PAD,
        "tokenizer_config": LLAMA,
        "special_tokens_map": {"pad_token": "<pad>", "eos_token": {"content": "</s>"}},
    },
    "ids with how they are matched": {
        "tokenizer_config": LLAMA
        | {"pad_token": "<pad>", "added_tokens_decoder": {"340": entry("<pad>")}},
    },
    "chat markers": {
        "added_tokens": CHAT,
        "tokenizer_config": LLAMA
        | {
            "eos_token": "<|im_end|>",
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "added_tokens_decoder": {str(i): entry(text) for text, i in CHAT.items()},
        },
    },
    "taking white space": {
        "tokenizer_config": LLAMA
        | {"added_tokens_decoder": {"340": entry("<pad>", lstrip=True, rstrip=True)}},
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_an_added_token_has_its_ids_after_the_way_there_and_back(
    form: str, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    theirs = written(
        tmp_path / "theirs", tiny_tokenizer, **FORMS[form], config={"model_type": "llama"}
    )
    tokenizer = load_tokenizer(theirs)
    tokenizer.save(tmp_path / "ours")
    ids = transformers_ids(theirs, TEXTS)
    assert transformers_ids(tmp_path / "ours", TEXTS) == ids
    assert any(i >= 340 for text in ids for i in text)
    assert tokenizer.left_out == ()
    # Our own export reads back.
    again = load_tokenizer(tmp_path / "ours")
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.vocab_size, again.roles) == (tokenizer.vocab_size, tokenizer.roles)
    assert again.eos_token == ("<|im_end|>" if form == "chat markers" else "</s>")


def test_a_tokenizer_json_alone_may_name_them(tiny_tokenizer: Path, tmp_path: Path) -> None:
    plain = load_tokenizer(tiny_tokenizer)
    plain.save(tmp_path / "plain")
    library = json.loads((tmp_path / "plain" / "tokenizer.json").read_text())
    library["added_tokens"].append(entry("<pad>", id=340))
    theirs = written(tmp_path / "theirs", tiny_tokenizer, tokenizer=library)
    tokenizer = load_tokenizer(theirs)
    assert tokenizer.vocab_size == 341
    assert tokenizer.control_strings == ("</s>", "<pad>", "<s>", "<unk>")
    assert tokenizer.fingerprint != plain.fingerprint


def test_ids_may_have_gaps(tiny_tokenizer: Path, tmp_path: Path) -> None:
    theirs = written(tmp_path / "theirs", tiny_tokenizer, added_tokens={"<a>": 350, "<b>": 345})
    tokenizer = load_tokenizer(theirs)
    tokenizer.save(tmp_path / "ours")
    assert tokenizer.vocab_size == 351
    assert transformers_ids(tmp_path / "ours", ["<a><b>"]) == [[1, 350, 345]]


def test_special_tokens_are_broken_inside_texts_and_others_are_not(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    theirs = written(
        tmp_path / "theirs",
        tiny_tokenizer,
        added_tokens={"<pad>": 340, "<think>": 341},
        special_tokens_map={"pad_token": "<pad>"},
    )
    tokenizer = load_tokenizer(theirs)
    tokenizer.save(
        tmp_path / "ours", chat_template=make_template("parrot", tokenizer).chat_template("chat")
    )
    from transformers import AutoTokenizer

    turns = [("user", "a <pad> b <think>c"), ("assistant", "<think> hello")]
    messages = [{"role": role, "content": text} for role, text in turns]
    exported = AutoTokenizer.from_pretrained(tmp_path / "ours")
    (rendering,) = make_template("parrot", tokenizer).render([("", turns)])  # type: ignore[list-item]
    assert exported.apply_chat_template(messages, return_dict=False) == rendering.ids()
    assert rendering.ids().count(341) == 2
    assert 340 not in rendering.ids()


# ---- user-defined symbols of tokenizer.model -----------------------------------------------------


@pytest.fixture(scope="module")
def symbols_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("symbols")
    (folder / "corpus.txt").write_text("the river of Velora and its hills\n" * 30)
    sentencepiece.SentencePieceTrainer.Train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=310,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, user_defined_symbols=["<sep>", "@@"], minloglevel=2,
    )  # fmt: skip
    return folder / "tokenizer.model"


@pytest.fixture(scope="module")
def symbols(symbols_model: Path) -> Tokenizer:
    return load_tokenizer(symbols_model)


@given(
    text=st.lists(st.sampled_from(["<sep>", "@@", "@", " ", "river", "hi", "<s", "\n"])).map(
        "".join
    )
)
def test_user_defined_symbols_are_cut_as_sentencepiece_cuts_them(
    symbols: Tokenizer, symbols_model: Path, text: str
) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(symbols_model))
    cleaned = clean_text(text, symbols.control_strings)
    ids = symbols.encode([f"</s> {cleaned}" if cleaned else "</s>"])[0][1:]
    assert ids == reference.EncodeAsIds(cleaned)


# ---- left out or rejected ------------------------------------------------------------------------


def test_what_cannot_be_carried_is_named(tiny_tokenizer: Path, tmp_path: Path) -> None:
    theirs = written(
        tmp_path / "theirs",
        tiny_tokenizer,
        added_tokens={"<pad>": 340, "<late>": 341},
        special_tokens_map={
            "pad_token": "<late>",
            "mask_token": "<mask>",
            "additional_special_tokens": ["<extra>"],
        },
    )
    tokenizer = load_tokenizer(theirs, num_rows=341)
    assert tokenizer.vocab_size == 341
    assert tokenizer.roles == {}
    assert tokenizer.left_out == (
        "'<late>' has the id 341, but the model has 341 rows",
        "mask_token is '<mask>', which has no id",
        "'<extra>' is named a special token, but has no id",
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"added_tokens": {"<pad>": 17}}, "'<pad>' has the id 17, but that is"),
        ({"added_tokens": {"<a>": 340, "<b>": 340}}, "has the id 340, but that is '<a>'"),
        (
            {
                "added_tokens": {"<pad>": 341},
                "tokenizer_config": {"added_tokens_decoder": {"340": entry("<pad>")}},
            },
            "gives '<pad>' the id 341, another file there 340",
        ),
        ({"added_tokens": {"<pad>": "340"}}, "'<pad>' with the id '340'"),
        ({"added_tokens": {"<pad>": True}}, "'<pad>' with the id True"),
        ({"added_tokens": {"<pad>": 10**12}}, "id from 0 to 10,000,000"),
        ({"added_tokens": ["<pad>"]}, "has list, not an object"),
        (
            {"added_tokens": {"###": 340}, "special_tokens_map": {"pad_token": "###"}},
            "could fake it",
        ),
        (
            {"added_tokens": {"| |": 340}, "special_tokens_map": {"pad_token": "| |"}},
            "could fake it",
        ),
        ({"added_tokens": {"R: a": 340}}, "contains a colon and a space"),
        ({"tokenizer": {"model": {"vocab": {"<unk>": 0, "a": 1}}}}, "different vocabularies"),
    ],
)
def test_files_that_disagree_or_could_be_forged_are_refused(
    files: dict[str, Any], said: str, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        load_tokenizer(written(tmp_path / "theirs", tiny_tokenizer, **files))
