"""Files of dialogues become an index once, which grows with them and is never stale."""

import contextlib
import gzip
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from parrot_jax.view import files, lines, streams, writing
from parrot_jax.view.indexing import Part
from parrot_jax.view.opening import open_paths
from parrot_jax.view.query import Query
from parrot_jax.view.reading import IndexReader
from parrot_jax.view.shown import show_dialogue

from .conftest import Index, row, update

Open = Callable[[Path | str], Part]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def openings(reader: IndexReader) -> list[str]:
    return [one.opening for one in reader.page(Query()).rows]


def look(part: Part) -> IndexReader:
    assert update(part).problem == ""
    return IndexReader(part.index)


def test_a_row_of_the_list(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    about = {"stop": "thanks", "models": {"asker": ["m1"], "answerer": ["m2"]}}
    path.write_text(
        row(0, "one  two\nthree", "four", "five", collection=about, score=7, topic="x")
        + json.dumps({"messages": [user("a"), user("b"), said("c")]})
    )
    first, second = index(path).page(Query()).rows
    assert first == (
        0, f"{path}:1", "one two three", "thanks", ["asker: m1", "answerer: m2"], ["unanswered"],
        2, 5, 7.0,
    )  # fmt: skip
    assert (second.place, second.flags, second.words) == (f"{path}:2", ["repaired"], 3)
    shown = index(path).dialogue(0)
    assert shown is not None
    assert json.loads(shown.metadata) == {"collection": about, "score": 7, "topic": "x"}


def test_rejected_rows_are_listed_with_file_and_line(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(row(0) + "{broken\n\n" + '{"messages": "none"}\n' + row(1))
    reader = index(path)
    assert reader.totals().dialogues == 2
    assert reader.totals().rejected == 2
    assert [one.place for one in reader.rejected()] == [f"{path}:2", f"{path}:4"]
    assert "not valid JSON" in reader.rejected()[0].problem
    assert [one.place for one in reader.page(Query()).rows] == [f"{path}:1", f"{path}:5"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=3) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["stop", "models", "asker", "\udfff"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
KEYS = ("id", "source", "model", "asker", "stop", "score", "collection", "note", "\ud800")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(keys=st.dictionaries(st.sampled_from(KEYS), JSON))
@example(keys={"id": "a\ud800", "\ud800": "\udfff"})
@example(keys={"collection": {"models": {"asker": 5, "answerer": [{}]}}})
def test_no_key_of_a_row_stops_the_reading(tmp_path_factory, keys: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("keys")
    path = folder / "a.jsonl"
    path.write_text(row(0) + json.dumps(json.loads(row(1)) | keys) + "\n" + row(2))
    (part,) = open_paths([str(path)], str(folder))
    reader = look(part)
    totals = reader.totals()
    assert totals.dialogues + totals.rejected == 3
    assert "question 2" in openings(reader)
    part.close()
    reader.close()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_long_rows_are_saved_in_small_steps(
    open_part: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for reading in (lines, streams):
        monkeypatch.setattr(reading, "BYTES_AT_ONCE", 250)
    path = tmp_path / name
    text = "".join(row(n, "x" * 100) for n in range(6))  # two lines, or three texts, fill a step
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    part = open_part(path)
    counts = []
    for _ in part.update():
        with contextlib.closing(IndexReader(part.index)) as reader:
            counts.append(reader.totals().dialogues)
    assert counts[:2] == ([2, 4] if name == "a.jsonl" else [3, 6])
    assert openings(look(part)) == ["x" * 100] * 6


def test_a_file_name_that_is_not_utf8_is_explained(open_part: Open, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\xff.jsonl")
    path.write_text(row(0))
    part = update(open_part(path))
    assert "is not valid UTF-8; rename the file." in part.problem


def test_it_grows_with_the_file_and_waits_for_half_a_row(open_part: Open, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    half = row(2)[:20]
    path.write_text(row(0) + row(1) + half)
    part = open_part(path)
    reader = look(part)
    assert openings(reader) == ["question 0", "question 1"]
    assert reader.totals().unfinished == [f"{path}:3: cut off: the file ends inside this row"]
    with path.open("a") as file:
        file.write(row(2)[20:] + row(3).rstrip())  # the last newline is missing
    assert openings(look(part)) == [f"question {n}" for n in range(4)]
    with path.open("a") as file:
        file.write("\n" + row(4) + "oops\n")
    reader = look(part)
    assert [one.place for one in reader.page(Query()).rows][-1] == f"{path}:5"
    assert [one.place for one in reader.rejected()] == [f"{path}:6"]
    assert reader.totals().unfinished == []
    assert reader.totals().generation == 1


LINES = [row(0), "\n", row(1, "é" * 5, "ü"), "broken\n", row(2), "  \n", row(3)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(cuts=st.lists(st.integers(0, sum(len(line.encode()) for line in LINES)), max_size=5))
def test_appended_in_any_pieces_it_is_the_same(tmp_path_factory, cuts: list[int]) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    path, whole = folder / "a.jsonl", "".join(LINES).encode()
    source = files.SourceConfig(kind="messages", path=str(path))
    found = []
    for ends in (sorted({*cuts, len(whole)}), [len(whole)]):
        path.write_bytes(b"")
        part = Part("a", files.DialogueFiles(source), str(folder / str(len(found))))
        for start, end in itertools.pairwise([0, *ends]):
            with path.open("ab") as file:
                file.write(whole[start:end])
            assert update(part).problem == ""
        reader = IndexReader(part.index)
        found.append((reader.page(Query()).rows, [r[1:] for r in reader.rejected()]))
        part.close()
    assert found[0] == found[1]
    assert len(found[0][0]) == 4


@pytest.mark.parametrize("changed", ["first", "middle", "shorter", "same size and time"])
def test_a_changed_file_is_read_again(
    open_part: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    monkeypatch.setattr(lines, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(streams, "ROWS_AT_ONCE", 2)
    path = tmp_path / "a.jsonl"
    rows = [row(n) for n in range(6)]
    path.write_text("".join(rows))
    part = open_part(path)
    look(part)
    part.close()
    before = path.stat()
    place = {"first": 0, "middle": 3, "shorter": 5, "same size and time": 3}[changed]
    rows[place] = "" if changed == "shorter" else rows[place].replace("question", "Question")
    path.write_text("".join(rows) + ("" if changed == "same size and time" else row(7) + row(8)))
    if changed == "same size and time":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    reader = look(open_part(path))  # another process
    assert reader.totals().generation == 2
    found = openings(reader)
    rows = path.read_text().splitlines()
    assert found == [json.loads(line)["messages"][0]["content"] for line in rows]


def test_an_unchanged_file_is_not_read_again(
    open_part: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(row(0))
    part = open_part(path)
    look(part)
    part.close()
    monkeypatch.setattr(lines, "line_rows", None)
    monkeypatch.setattr(files, "digest_of", None)
    assert openings(look(open_part(path))) == ["question 0"]


@pytest.mark.parametrize("form", ["jsonl", "list", "gz", "parquet"])
def test_a_stopped_index_continues(
    open_part: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(lines, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(streams, "ROWS_AT_ONCE", 2)
    path = tmp_path / f"a.{form}"
    rows = [json.loads(row(n)) for n in range(5)]
    text = "".join(map(row, range(5)))
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif form == "gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(json.dumps(rows, indent=1) if form == "list" else text)
    part = open_part(path)
    next(part.update())  # the first two rows
    part.close()
    read = []
    for module in (lines, streams):
        monkeypatch.setattr(
            module, "show_dialogue", lambda *a: read.append(a[0].id) or show_dialogue(*a)
        )
    reader = look(open_part(path))
    assert openings(reader) == [f"question {n}" for n in range(5)]
    assert read == ["d2", "d3", "d4"]
    assert reader.totals().generation == 1


def test_files_of_a_glob_come_and_go(open_part: Open, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(row(0))
    part = open_part(tmp_path / "*.jsonl")
    assert openings(look(part)) == ["question 0"]
    (tmp_path / "b.jsonl").write_text(row(1))
    assert openings(look(part)) == ["question 0", "question 1"]
    (tmp_path / "a.jsonl").unlink()
    assert openings(look(part)) == ["question 1"]


def test_a_damaged_index_is_made_again(open_part: Open, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(row(0))
    part = open_part(path)
    look(part)
    part.close()
    part.index.write_bytes(b"not a database, but long enough to be read as one" * 100)
    assert openings(look(open_part(path))) == ["question 0"]


def test_a_full_disk_keeps_what_was_saved(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "ROWS_AT_ONCE", 5)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(row(n, "x" * 40, os.urandom(2000).hex()) for n in range(200)))
    (part,) = open_paths([str(path)], str(small_disk))
    update(part)
    assert part.problem.startswith("no room left on the disk for the index")
    with contextlib.closing(IndexReader(part.index)) as reader:
        assert 0 < reader.totals().dialogues < 200
    part.close()


def test_an_index_of_other_code_is_made_again(
    open_part: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(row(0))
    part = open_part(path)
    look(part)
    part.close()
    monkeypatch.setattr(writing, "program", lambda: "newer")
    assert look(open_part(path)).totals().generation == 2


def test_a_second_process_shows_the_index_of_the_first(open_part: Open, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(row(0))
    first, second = open_part(path), open_part(path)
    look(first)
    assert openings(look(second)) == ["question 0"]
    with path.open("a") as file:
        file.write(row(1))
    assert openings(look(second)) == ["question 0"]  # the first one reads
    first.close()
    assert openings(look(second)) == ["question 0", "question 1"]


def test_preference_pairs_and_real_files(index: Index, shared_data: Path) -> None:
    pairs = index(shared_data / "dialogues" / "preference_pairs.json")
    assert pairs.choices()["flag"] == [("preference pair", 300)]
    shown = pairs.dialogue(0)
    assert shown is not None
    assert shown.turns[-1].other is not None
    assert (shown.turns[-1].name, shown.turns[-1].other.name) == (
        "chosen answer",
        "rejected answer",
    )
    assert index(shared_data / "dialogues" / "wildchat.jsonl").totals().dialogues == 245
    assert index(shared_data / "dialogues" / "oasst_trees.jsonl").totals().dialogues == 626
