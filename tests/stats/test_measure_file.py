"""Measures of small files, checked by hand, and of real ones."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.cli import main
from parrot_jax.core.errors import UserError
from parrot_jax.stats.context_marks import has_pronoun, is_elliptical
from parrot_jax.stats.inputs import labels_of, source_of

WriteSessions = Callable[..., Path]


def stats(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["stats", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def values(file: dict[str, Any]) -> dict[str, float]:
    return {key: estimate["value"] for key, estimate in file["measures"].items()}


def test_the_figures_of_two_sessions(
    write_sessions: WriteSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    english = "Which of the rivers of the country is the longest one?"
    path = write_sessions(
        [
            [english, "And its source?", "Thanks, make it short.", "and its source"],
            ["Where is the largest town of the country?", "Name three more towns."],
        ]
    )
    (file,) = stats(capsys, path)["files"]
    assert (file["label"], file["kind"], file["sessions"]) == ("people", "messages", 2)
    assert file["sessions_by_turns"] == {"2": 1, "4": 1}
    assert file["sessions_by_language"] == {"en": 2}
    assert file["later_question_words"] == {"median": 3, "90 %": 4}
    found = values(file)
    assert found["turns"] == 3
    # Questions: 11 + 3 + 4 + 3 and 8 + 4 words; six answers of 3 words.
    assert found["words"] == (21 + 12 + 6 * 3) / 2
    assert found["first_question_words"] == (11 + 8) / 2
    assert found["later_question_words"] == (3 + 4 + 3 + 4) / 4
    # Of four later questions, one thanks, one is a repeat, three have "it" or "its", and two ("and
    # its source", twice) are elliptical.
    assert found["thanks"] == 1 / 4
    assert found["verbatim_repeats"] == found["near_repeats"] == 1 / 4
    assert found["pronouns"] == 3 / 4
    assert found["ellipsis"] == 2 / 4
    assert found["question_marks"] == 1 / 4
    assert "tokens" not in found


def test_a_session_of_one_question_counts_for_turns_and_nothing_later(
    write_sessions: WriteSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = stats(capsys, write_sessions([["Hello?"]]))["files"]
    assert values(file) == {"turns": 1, "words": 4, "first_question_words": 1, "mtld": 1}
    assert file["measures"]["turns"]["low"] is None
    assert file["later_question_words"] == {"median": None, "90 %": None}


def test_tokens_are_counted_and_the_tokenizer_is_named(
    write_sessions: WriteSessions, tiny_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sentencepiece

    said = stats(capsys, write_sessions([["the river of Velora"]]), "--tokenizer", tiny_tokenizer)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tiny_tokenizer))
    expected = len(processor.encode("the river of Velora")) + len(processor.encode("Yes it is."))
    assert values(said["files"][0])["tokens"] == expected
    assert said["tokenizer"]["path"] == tiny_tokenizer.name
    assert said["tokenizer"]["vocab_size"] == 340


def test_broken_rows_are_counted_and_named_with_file_and_line(
    write_sessions: WriteSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sessions([["Hello?"]])
    with open(path, "a") as file:
        file.write('not json\n{"messages": []}\n')
    (said,) = stats(capsys, path)["files"]
    assert said["read"]["rows"] == 3
    assert said["read"]["broken"] == {"not valid JSON": 1, "no user turn": 1}
    assert said["read"]["examples"][0].startswith(f"{path.name}:2: not valid JSON")
    assert main(["stats", str(path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "3 rows" in printed
    assert f"{path}:2: not valid JSON" in printed


def test_texts_of_files_are_no_markup(
    write_sessions: WriteSessions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sessions([["Hello?"], ["Why?", "How?"]], "[bold]<b>|x.jsonl")
    out = tmp_path / "out"
    assert main(["stats", str(path), "--out", str(out)]) == 0
    assert "[bold]<b>|x" in capsys.readouterr().out
    assert "\\[bold\\]\\<b\\>\\|x" in (out / "stats.md").read_text()
    assert "<b>" not in (out / "stats.html").read_text()
    assert "<b>" not in (out / "figure3.svg").read_text()


def test_files_stand_beside_what_the_papers_print(
    write_sessions: WriteSessions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write_sessions([["Hello?"] * n], f"{n}.jsonl") for n in (1, 2, 3, 20)]
    out = tmp_path / "out"
    assert main(["stats", *map(str, paths), "--out", str(out)]) == 0
    said = json.loads((out / "stats.json").read_text())
    assert [file["label"] for file in said["files"]] == ["1", "2", "3", "20"]
    assert [row["turns"] for row in said["published"]] == [4.54, 3.85, 6.67, 8.71]
    markdown = (out / "stats.md").read_text()
    for text in ("8.71", "3,551", "Parrot-40K, published", "![Figure 3"):
        assert text in markdown
    # Four files need two figures of at most three colours.
    assert (out / "figure3.svg").read_text().startswith("<svg")
    assert (out / "figure3-2.svg").exists()
    assert (out / "stats.html").read_text().count("<figure>") == 2
    assert "12+" in capsys.readouterr().out


def test_the_real_dialogues(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dialogues = shared_data / "dialogues"
    names = ("wildchat.jsonl", "oasst_trees.jsonl", "sharegpt_templated.json")
    wildchat, oasst, templated = stats(capsys, *(dialogues / name for name in names))["files"]
    assert [file["kind"] for file in (wildchat, oasst, templated)] == [
        "messages", "oasst", "sharegpt"
    ]  # fmt: skip
    assert (wildchat["sessions"], oasst["sessions"], templated["sessions"]) == (245, 626, 500)
    found = values(wildchat)
    assert found["turns"] == pytest.approx(978 / 245)
    assert found["thanks"] == 7 / 733
    assert found["verbatim_repeats"] == 21 / 733
    assert found["near_repeats"] == 42 / 733
    assert 1 / 3 < found["pronouns"] < 0.4
    for estimate in wildchat["measures"].values():
        assert estimate["low"] <= estimate["value"] <= estimate["high"]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": []}, "messages"),
        ({"id": "1", "conversations": []}, "sharegpt"),
        ({"id": "1", "data": ["q", "a"]}, "ultrachat"),
        ({"topic": "t", "input": "[|Human|] q"}, "baize"),
        ({"prompt": {"text": "q", "replies": []}}, "oasst"),
        ({"conversations": [], "chosen": "a", "rejected": "b"}, "preference"),
    ],
)
def test_the_rows_tell_the_format(tmp_path: Path, row: dict[str, Any], kind: str) -> None:
    path = tmp_path / "file"
    path.write_text("not json\n" + json.dumps(row) + "\n")
    assert source_of(str(path)).kind == kind
    assert source_of(f"baize:{path}").kind == "baize"


def test_a_collection_is_named_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").touch()
    with pytest.raises(UserError, match="without finished dialogues yet"):
        source_of(str(tmp_path))
    (tmp_path / "dialogues.jsonl").write_text("{}")
    source = source_of(str(tmp_path))
    assert (source.kind, source.path) == ("messages", str(tmp_path / "dialogues.jsonl"))


def test_unclear_paths_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with pytest.raises(UserError, match="no file matches"):
        source_of(str(path))
    path.write_text('[{"text": "hello"}]')
    with pytest.raises(UserError, match="cannot detect the format .* keys 'text'.*pass kind:path"):
        source_of(str(path))
    path.write_text("[1, 2]")
    with pytest.raises(
        UserError, match="file.json:1: no dialogue: row is not a JSON object: but int"
    ):
        source_of(str(path))
    with pytest.raises(UserError, match="is not a collection folder"):
        source_of(str(tmp_path))
    with pytest.raises(UserError, match="given twice"):
        labels_of(["a", "b", "a"])
    with pytest.raises(UserError, match="x/../a was given twice"):
        labels_of(["a", "b", "x/../a"])


def test_pronouns_and_ellipsis_by_word_lists() -> None:
    assert has_pronoun(["is", "it", "deep"])
    assert not has_pronoun(["is", "the", "item", "deep"])
    for text in ("and its source", "what about the hills", "more", "top 10 rivers", "shorter"):
        assert is_elliptical(text.split()), text
    for text in ("make it shorter", "where is the source", "and " * 8, ""):
        assert not is_elliptical(text.split()), text


def test_statistics_load_no_jax(write_sessions: WriteSessions, tmp_path: Path) -> None:
    arguments = ["stats", str(write_sessions([["Hello?"]])), "--out", str(tmp_path / "out")]
    code = (
        f"import sys; from parrot_jax.cli import main; status = main({arguments!r}); "
        "sys.exit(status or 'jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_options_that_cannot_be(
    write_sessions: WriteSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_sessions([["Hello?"]]))
    for options, text in (
        (["--judge", "judge.yaml"], "--judge needs --out"),
        (["--sample", "0"], "sample is 0; it must be at least 1"),
        (["--tokenizer", "none.model"], "there is no tokenizer at none.model"),
    ):
        assert main(["stats", path, *options]) == 2
        assert text in capsys.readouterr().err
