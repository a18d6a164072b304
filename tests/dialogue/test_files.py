"""Kinds of files, detected by content: compressed, truncated, single objects, Parquet."""

import functools
import gzip
import json
import os
import random
import sys
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.json_stream import stream_rows
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LINES = b"".join(json.dumps({"n": n, "text": "word " * n}).encode() + b"\n" for n in range(2000))
PACKERS = pytest.mark.parametrize(
    "pack", [functools.partial(gzip.compress, compresslevel=1), zstd.compress], ids=["gzip", "zstd"]
)


def read(path, **limits):
    """Rows as (line, value) or (line, problem)."""
    return [
        (row.line, str(row.problem) if row.problem else row.value)
        for row in stream_rows(path, **limits)
    ]


def write(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    return path


@PACKERS
def test_packed_lines_and_lists_are_read_as_the_others(tmp_path, pack):
    plain = read(write(tmp_path, LINES))
    assert (len(plain), plain[3]) == (2000, (4, {"n": 3, "text": "word word word "}))
    assert read(write(tmp_path, pack(LINES))) == plain
    as_list = b"[" + LINES.strip().replace(b"\n", b",\n") + b"]"
    assert read(write(tmp_path, pack(as_list))) == plain
    assert read(write(tmp_path, pack(b"\xef\xbb\xbf" + LINES))) == plain
    assert read(write(tmp_path, pack(LINES) + pack(b'{"a": 1}\n')))[-1] == (2001, {"a": 1})


@PACKERS
def test_what_stands_before_the_damage_is_read_and_the_damage_is_a_row(tmp_path, pack):
    packed = pack(LINES)
    rows = read(write(tmp_path, packed[: len(packed) // 2]))
    assert 500 < len(rows) < 2000
    assert [value["n"] for _, value in rows[:-1]] == list(range(len(rows) - 1))
    reason = f"ends too early; nothing after line {len(rows) - 1} was read"
    assert rows[-1] == (len(rows), f"damaged file: the compressed file {reason}")
    broken = bytearray(packed)
    broken[len(broken) * 3 // 4] ^= 0xFF
    *_, (_, problem) = read(write(tmp_path, bytes(broken)))
    assert problem.startswith("damaged file: the compressed data is damaged: ")


@PACKERS
def test_a_packed_row_that_is_huge_meets_the_limit_in_little_memory(tmp_path, pack):
    bomb = pack(b'{"a": "' + b"x" * (1 << 26) + b'"}\n{"b": 1}\n')
    path = write(tmp_path, bomb)
    assert path.stat().st_size < 1 << 19
    tracemalloc.start()
    rows = read(path, max_row_bytes=1 << 18)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == [
        (1, "row too long: over 262,144 bytes; the line was skipped"),
        (2, {"b": 1}),
    ]
    assert peak < 1 << 22


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"PK\x03\x04", "a zip file; unpack it"),
        (b"BZh9", "a bzip2 file; unpack it with `bunzip2`"),
        (b"\xfd7zXZ\x00", "an xz file; unpack it with `unxz`"),
        (b"SQLite format 3\x00", "an SQLite database"),
    ],
)
def test_other_packers_are_named(tmp_path, start, what):
    with pytest.raises(UserError, match=what):
        read(write(tmp_path, start + b"x" * 20))


OBJECT = {"conversations": [{"from": "human", "value": 'a "b" {c]'}, {"from": "gpt", "value": "d"}]}


@pytest.mark.parametrize("indent", [None, 0, 1, 4])
def test_one_object_is_a_file_of_one_row(tmp_path, indent):
    text = json.dumps(OBJECT, indent=indent).encode()
    assert read(write(tmp_path, b"\n" + text)) == [(2, OBJECT)]
    source = SourceConfig(kind="sharegpt", path=str(write(tmp_path, text)))
    (dialogue,) = read_sources([source], seed=0, report=ReadReport())
    assert [turn.text for turn in dialogue.turns] == ['a "b" {c]', "d"]


def test_objects_over_several_lines_may_follow_each_other(tmp_path):
    text = json.dumps(OBJECT, indent=2) + "\n\n" + json.dumps({"a": 1}, indent=2) + '\n{"b": 2}\n'
    assert read(write(tmp_path, text.encode())) == [(1, OBJECT), (14, {"a": 1}), (17, {"b": 2})]


def test_an_object_that_does_not_end_or_is_too_long_is_named(tmp_path):
    text = json.dumps(OBJECT, indent=2)
    assert read(write(tmp_path, text[:-3].encode())) == [
        (1, "cut off: the file ends inside this row")
    ]
    ((line, problem),) = read(write(tmp_path, text.encode()), max_row_bytes=60)
    assert (line, problem[:30]) == (1, "row too long: over 60 bytes; t")
    # A row that never closes affects no other row.
    assert read(write(tmp_path, b'{"a": [\n"x",\n{"b": 1}\n{"c": 1}\n'))[1:] == [
        (3, {"b": 1}),
        (4, {"c": 1}),
    ]


def test_lines_with_a_broken_first_one_are_still_lines(tmp_path):
    rows = read(write(tmp_path, b'{"a": \n{"b": 1}\n'))
    assert [line for line, _ in rows] == [1, 2]
    assert rows[1] == (2, {"b": 1})


def said(role, content, **keys):
    return {"role": role, "content": content, **keys}


def test_a_parquet_file_has_rows_with_every_key_null_or_not(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = [
        {"id": "a", "messages": [said("user", "Oslo?"), said("assistant", "Yes.", weight=0.0)]},
        {"id": "b", "messages": [{"from": "human", "value": "Rome?"}], "images": []},
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1)
    report = ReadReport()
    source = SourceConfig(kind="messages", path=str(path))
    first, second = read_sources([source], seed=0, report=report)
    assert [(turn.text, turn.weight) for turn in first.turns] == [("Oslo?", 1.0), ("Yes.", 0.0)]
    assert [turn.text for turn in second.turns] == ["Rome?"]
    assert dict(first.metadata) == {}
    assert (report.broken, report.passed_over) == ({}, {})


def test_a_parquet_file_that_is_cut_off_or_broken_is_named_with_its_place(tmp_path):
    draw = random.Random(0)
    table = pa.table({"text": [draw.randbytes(200).hex() for _ in range(400)]})
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path, row_group_size=100, use_dictionary=False, write_page_checksum=True)
    whole = path.read_bytes()
    assert len(read(path)) == 400
    path.write_bytes(whole[: len(whole) // 2])
    ((line, problem),) = read(path)
    assert (line, problem[:20]) == (1, "not valid Parquet: P")
    broken = bytearray(whole)
    broken[len(whole) * 5 // 8] ^= 0xFF  # in the third of four row groups
    path.write_bytes(broken)
    *rows, (line, problem) = read(path)
    assert (line, len(rows)) == (201, 200)
    assert problem.startswith("not valid Parquet: ")
    assert problem.endswith("; nothing after row 200 was read")


def test_a_pipe_is_refused_as_it_can_be_read_once_only(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is a pipe, a folder or a device; save the rows"):
        read(tmp_path / "pipe")


def test_a_zstandard_file_may_begin_with_a_frame_to_pass_over(tmp_path):
    skipped = bytes([0x50, 0x2A, 0x4D, 0x18]) + (5).to_bytes(4, "little") + b"about"
    assert len(read(write(tmp_path, skipped + zstd.compress(LINES)))) == 2000


def test_a_flipped_bit_in_a_parquet_file_loses_no_row_unsaid(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"n": range(60), "text": [f"row {n}" for n in range(60)]})
    pq.write_table(table, path, row_group_size=20, write_page_checksum=True)
    whole, numbers = path.read_bytes(), range(60)
    for bit in range(32, 8 * len(whole) - 64, 131):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        rows = read(write(tmp_path, bytes(damaged)))
        problems = [value for _, value in rows if isinstance(value, str)]
        assert problems or [number for number, _ in rows] == [n + 1 for n in numbers], bit


def test_a_group_of_a_parquet_file_that_ends_early_is_counted(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"n": range(6)}), path, row_group_size=3)
    iter_batches = pq.ParquetFile.iter_batches

    def early(self, *args, row_groups, **named):
        # pyarrow ends a row group early if the header of a damaged page says so.
        batches = list(iter_batches(self, *args, row_groups=row_groups, **named))
        return iter([batches[0].slice(0, 1)] if row_groups == [0] else batches)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", early)
    rows = read(path)
    assert [number for number, _ in rows] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in rows if isinstance(value, dict)] == [
        {"n": n} for n in (0, 3, 4, 5)
    ]
    early_end = "its row group ends before it; pages of the file are damaged"
    assert rows[1:3] == [(number, f"not valid Parquet: {early_end}") for number in (2, 3)]


def test_columns_of_one_name_are_refused(tmp_path):
    column = pa.array(["bad"])
    twice = pa.array([{"a": "x"}], pa.struct([("a", pa.string()), ("a", pa.string())]))
    for columns, names, name in (
        ([column, column], ["label", "label"], "'label'"),
        ([twice], ["of"], "'of.a'"),
    ):
        pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "rows.parquet")
        ((number, problem),) = read(tmp_path / "rows.parquet")
        assert (number, problem.split(";")[0]) == (
            1, f"not valid Parquet: the column {name} appears twice"
        )  # fmt: skip


def test_bytes_and_maps_of_a_parquet_file_are_texts_and_objects(tmp_path):
    path = tmp_path / "rows.parquet"
    maps = pa.array(
        [[("status", "rejected")], [("a", "1"), ("a", "2")], None, None],
        pa.map_(pa.string(), pa.string()),
    )
    days = pa.array([None, None, 2**30, None], pa.int32()).cast(pa.date32())
    label = [b"bad", None, None, b"\xff"]
    pq.write_table(pa.table({"label": label, "about": maps, "day": days}), path)
    rows = dict(read(path))
    assert rows[1] == {"label": "bad", "about": {"status": "rejected"}, "day": None}
    assert rows[2].startswith("a value cannot be read: ")
    assert "duplicate key was 'a'" in rows[2]
    assert rows[3].startswith("a value cannot be read: ")
    assert rows[4].startswith("row is not a JSON value: 'utf-8' codec can't decode byte 0xff")


def test_a_huge_row_of_a_parquet_file_meets_the_limit(tmp_path):
    path = tmp_path / "rows.parquet"
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="zstd") as writer:
        for texts in (["a"], ["x" * (1 << 22)], ["b", "y" * (1 << 21), "c", "d"]):
            writer.write_table(pa.table({"text": texts}))
    assert read(path, max_row_bytes=1 << 20) == [
        (1, {"text": "a"}),
        (2, "row too long: over 1,048,576 bytes; the row was skipped"),
        (3, {"text": "b"}),
        (4, "row too long: over 1,048,576 bytes; the row was skipped"),
        (5, {"text": "c"}),
        (6, {"text": "d"}),
    ]


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs the pyarrow library.*parrot-jax\[datasets\]"):
        read(path)
