"""Folders with a `tokenizer.json` as people and tools leave them: odd, incomplete, damaged."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.data.templates import make_template
from parrot_jax.data.tokenizers import Tokenizer, load_tokenizer
from tests.data.tokenizer_kinds import write_folder

TEXTS = ["Where does the river begin, and why do the hills of Velora end there?"]

Edit = Callable[[dict[str, Any]], object]


def edited(folder: Path, edit: Edit, *, name: str = "tokenizer.json", kind: str = "qwen") -> Path:
    """Writes a folder and changes one of its files."""
    path = write_folder(kind, TEXTS, folder / "tokenizer") / name
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    return path.parent


def added(values: dict[str, Any], text: str) -> dict[str, Any]:
    return next(entry for entry in values["added_tokens"] if entry["content"] == text)


def add(values: dict[str, Any], text: str) -> None:
    last = values["added_tokens"][-1]
    values["added_tokens"].append(last | {"content": text, "id": last["id"] + 1, "special": True})


def forged(tokenizer: Tokenizer, text: str) -> int:
    """How often a question has the terminator of ChatML, besides its own."""
    template = make_template("chatml", tokenizer)
    ((_, (turn,), _),) = template.render([("", [("user", text)])])
    return turn.ids.count(tokenizer.id_of("<|im_end|>")) - 1


@pytest.mark.parametrize(
    ("normalizer", "text"),
    [
        ({"type": "NFKC"}, "a ＜|im_end|＞ b"),
        ({"type": "Lowercase"}, "a <|IM_END|> b"),
    ],
)
def test_no_text_is_normalized_into_a_special_token(
    normalizer: dict[str, Any], text: str, tmp_path: Path
) -> None:
    def edit(values: dict[str, Any]) -> None:
        values["normalizer"] = normalizer
        added(values, "<|im_end|>")["normalized"] = True

    assert forged(load_tokenizer(edited(tmp_path, edit)), text) == 0


def test_special_tokens_with_white_space_leave_texts_alone(tmp_path: Path) -> None:
    folder = edited(tmp_path, lambda values: [add(values, "  "), add(values, "|||IP|||")])
    tokenizer = load_tokenizer(folder)
    text = "a  b |||IP||| c <|im_end|> d"
    shown = make_template("chatml", tokenizer).text("", [("user", text)])
    assert shown == "<|im_start|>user\na  b |||IP||| c < |im_end|> d<|im_end|>\n"
    assert ["breaking up '  '" in each for each in tokenizer.left_out] == [True, False]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda v: added(v, "</think>").update(id=2000), "gives '</think>' the id 2000, but it"),
        (lambda v: v["model"]["vocab"].update({"zz": 5}), "two tokens have the same id"),
        (lambda v: v["model"]["vocab"].update({"zz": 4 * 10**9}), "has the id 4,000,000,0"),
    ],
)
def test_ids_that_would_be_read_otherwise_are_refused(
    edit: Edit, said: str, tmp_path: Path
) -> None:
    def without_added(values: dict[str, Any]) -> None:
        if "</think>" not in said:  # those that follow the changed vocabulary
            values["added_tokens"] = []
        edit(values)

    with pytest.raises(UserError, match=said):
        load_tokenizer(edited(tmp_path, without_added))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unk_token": "<no>", "byte_fallback": False}, "cannot be read .*`<no>` not found"),
        ({"unk_token": None, "byte_fallback": False}, "silently drop the characters"),
    ],
)
def test_unknown_characters_need_a_token(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = edited(tmp_path, lambda values: values["model"].update(changes), kind="yi")
    with pytest.raises(UserError, match=said):
        load_tokenizer(folder)


def test_a_post_processor_with_an_unknown_token_is_a_user_error(tmp_path: Path) -> None:
    def edit(values: dict[str, Any]) -> None:
        text, more = ({"Sequence": {"id": i, "type_id": 0}} for i in "AB")
        begin = {"SpecialToken": {"id": "<no>", "type_id": 0}}
        values["post_processor"] = {
            "type": "TemplateProcessing", "single": [begin, text], "pair": [text, more],
            "special_tokens": {},
        }  # fmt: skip

    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(edited(tmp_path, edit))


def test_a_null_does_not_hide_the_role_in_the_other_file(tmp_path: Path) -> None:
    folder = edited(tmp_path, lambda v: v.update(eos_token=None), name="tokenizer_config.json")
    roles = {"eos_token": {"content": "<|endoftext|>", "lstrip": False}}
    (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    assert load_tokenizer(folder).eos_token == "<|endoftext|>"


def test_tokens_are_special_if_only_the_config_says_so(tmp_path: Path) -> None:
    folder = edited(tmp_path, lambda values: added(values, "<|im_start|>").update(special=False))
    with pytest.raises(UserError, match=r"no special token <\|im_start\|>.*additional_special_tok"):
        make_template("chatml", load_tokenizer(folder))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    index = str(load_tokenizer(folder).id_of("<|im_start|>"))
    for more in (
        {"additional_special_tokens": ["<|im_start|>"]},
        {"added_tokens_decoder": {index: {"content": "<|im_start|>", "special": True}}},
    ):
        path.write_text(json.dumps(config | more))
        make_template("chatml", load_tokenizer(folder))


def test_a_file_of_tiktoken_beside_a_tokenizer_json_is_passed_over(tmp_path: Path) -> None:
    folder = edited(tmp_path, lambda values: None)
    lines = [base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256)]
    (folder / "tokenizer.model").write_bytes(b"".join(lines))
    (note,) = load_tokenizer(folder).left_out
    assert "is a file of tiktoken" in note
    # A damaged file may be the better one of the two, so it is not passed over.
    (folder / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        load_tokenizer(folder)


def test_odd_chat_templates_are_no_crash(tmp_path: Path) -> None:
    named = [{"name": ["x"], "template": "A"}, "B", {"name": "default", "template": "C"}]
    folder = edited(tmp_path, lambda v: v.update(chat_template=named), name="tokenizer_config.json")
    assert load_tokenizer(folder).chat_template == "C"
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"chat_template\.jinja is not a text in UTF-8"):
        load_tokenizer(folder)
