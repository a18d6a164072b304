import contextlib
import json
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.json_stream import parse_json, stream_rows
from parrot_jax.dialogue.raw_rows import BrokenRowError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def write(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(tmp_path, content, **kwargs):
    """Rows as (line, value) or (line, reason)."""
    rows = stream_rows(write(tmp_path, content), **kwargs)
    return [(row.line, row.problem.reason if row.problem else row.value) for row in rows]


@given(
    values=st.lists(JSON_VALUES, max_size=6),
    chunk_bytes=st.integers(1, 40),
    indent=st.sampled_from([None, 1, 2]),
    ascii_only=st.booleans(),
)
def test_a_streamed_list_equals_json_load_whatever_the_chunks(
    tmp_path_factory, values, chunk_bytes, indent, ascii_only
):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    path = tmp_path_factory.mktemp("stream") / "list.json"
    path.write_bytes(text.encode())
    rows = list(stream_rows(path, chunk_bytes=chunk_bytes))
    assert [row.problem for row in rows] == [None] * len(values)
    assert [row.value for row in rows] == json.loads(text)


@given(content=st.binary(max_size=80), chunk_bytes=st.integers(1, 30))
def test_no_bytes_make_the_reader_fail(tmp_path_factory, content, chunk_bytes):
    path = tmp_path_factory.mktemp("bytes") / "any.json"
    for prefix in (b"", b"[", b'[{"a": "'):
        path.write_bytes(prefix + content)
        # Unsupported formats such as zip raise immediately.
        with contextlib.suppress(UserError):
            for row in stream_rows(path, chunk_bytes=chunk_bytes, max_row_bytes=50):
                assert row.line >= 1


@given(values=st.lists(JSON_VALUES, min_size=1, max_size=5), lead=st.integers(0, 3))
def test_lines_of_a_pretty_printed_list_are_where_the_elements_start(
    tmp_path_factory, values, lead
):
    text, expected = "\n" * lead + "[\n", []
    for number, value in enumerate(values):
        expected.append(text.count("\n") + 1)
        text += json.dumps(value, indent=1) + (",\n" if number < len(values) - 1 else "\n]")
    path = tmp_path_factory.mktemp("lines") / "list.json"
    path.write_text(text)
    assert [row.line for row in stream_rows(path, chunk_bytes=7)] == expected


def test_json_lines_skip_blank_lines_but_count_them(tmp_path):
    assert read(tmp_path, '{"a": 1}\n\n  \n{"a": 2}') == [(1, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize("content", ["", "\n \n", "[]", " [ ] \n"])
def test_an_empty_file_or_list_has_no_rows(tmp_path, content):
    assert read(tmp_path, content) == []


def test_a_broken_line_is_one_broken_row(tmp_path):
    rows = read(tmp_path, '{"a": 1}\n{"a": }\n{"a": 3}\n')
    assert rows == [(1, {"a": 1}), (2, "not valid JSON"), (3, {"a": 3})]


def test_a_truncated_last_line_is_cut_off(tmp_path):
    rows = read(tmp_path, '{"a": 1}\n{"a": "he')
    assert rows == [(1, {"a": 1}), (2, "cut off")]


def test_a_list_that_ends_too_early_is_cut_off_at_its_last_element(tmp_path):
    assert read(tmp_path, '[\n{"a": 1},\n{"a": [2') == [(2, {"a": 1}), (3, "cut off")]


def test_invalid_utf8_breaks_only_its_row(tmp_path):
    content = b'[{"a": "ok"},\n{"a": "\xff"},\n{"a": "ok"}]'
    assert read(tmp_path, content) == [(1, {"a": "ok"}), (2, "not valid UTF-8"), (3, {"a": "ok"})]
    lines = b'{"a": "\xc3"}\n{"a": "ok"}\n'
    assert read(tmp_path, lines) == [(1, "not valid UTF-8"), (2, {"a": "ok"})]


def test_a_byte_order_mark_is_dropped_and_counted(tmp_path):
    (row,) = stream_rows(write(tmp_path, b'\xef\xbb\xbf{"a": 1}'))
    assert (row.value, row.repair) == ({"a": 1}, "byte order mark dropped")
    first, second = stream_rows(write(tmp_path, b'\xef\xbb\xbf[{"a": 1}, 2]'))
    assert (first.value, second.value, second.repair) == ({"a": 1}, 2, "")


def test_utf16_is_named(tmp_path):
    (row,) = stream_rows(write(tmp_path, '{"a": 1}'.encode("utf-16")))
    assert "UTF-16" in str(row.problem)


@pytest.mark.parametrize("chunk_bytes", [1, 5, 1000])
@pytest.mark.parametrize("broken", ['"he said "hi"', '"he said "hi},', '"x "y" z"'])
def test_an_unescaped_quote_costs_only_its_own_row(tmp_path, broken, chunk_bytes):
    content = f'[\n {{"a": 1}},\n {{"a": {broken}}},\n {{"a": "ok"}},\n {{"b":\n  3}}\n]'
    good = [(2, {"a": 1}), (4, {"a": "ok"}), (5, {"b": 3})]
    rows = read(tmp_path, content, chunk_bytes=chunk_bytes)
    assert [row for row in rows if row[1] != "not valid JSON"] == good
    assert rows[1] == (3, "not valid JSON")


def test_a_missing_or_extra_comma_is_reported(tmp_path):
    assert read(tmp_path, "[1,\n,\n2,\n]") == [
        (1, 1),
        (2, "not valid JSON"),
        (3, 2),
        (4, "not valid JSON"),
    ]


def test_text_behind_the_list_is_reported(tmp_path):
    assert read(tmp_path, '[1]\n[{"a": 2}]') == [(1, 1), (2, "not valid JSON")]


def test_a_row_over_the_limit_is_broken_and_lines_go_on(tmp_path):
    long = '{"a": "' + "x" * 200 + '"}'
    rows = read(tmp_path, f'{long}\n{{"a": 1}}\n', max_row_bytes=100)
    assert rows == [(1, "row too long"), (2, {"a": 1})]
    assert read(tmp_path, f"[1, {long}, 2]", max_row_bytes=100, chunk_bytes=10) == [
        (1, 1),
        (1, "row too long"),
    ]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"1" * 5000, "not valid JSON"),
        (b"[" * 100_000, "JSON nested too deeply"),
        (b"\xff", "not valid UTF-8"),
        (b"{'a': 1}", "not valid JSON"),
    ],
)
def test_a_value_that_is_no_strict_json_is_refused(raw, reason):
    with pytest.raises(BrokenRowError) as caught:
        parse_json(raw)
    assert caught.value.reason == reason


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nothing\.json: No such file"):
        list(stream_rows(tmp_path / "nothing.json"))


def test_memory_stays_far_below_the_size_of_the_list(tmp_path):
    path = tmp_path / "large.json"
    turn = {"from": "gpt", "value": 'some "quoted" text\n' * 500}
    element = json.dumps({"id": "x", "conversations": [turn] * 10})
    with path.open("w") as file:
        file.write("[" + ",\n".join([element] * 260) + "]")
    size = path.stat().st_size
    assert size > 28_000_000
    tracemalloc.start()
    try:
        assert sum(row.problem is None for row in stream_rows(path)) == 260
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 10


def test_the_time_for_one_large_element_is_linear_in_its_size(tmp_path):
    def seconds(characters):
        path = tmp_path / f"{characters}.json"
        path.write_text(json.dumps([{"value": 'a "word" \n' * (characters // 10)}]))
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            assert len(list(stream_rows(path, chunk_bytes=1 << 14))) == 1
            best = min(best, time.perf_counter() - start)
        return best

    # 16 times the size; a quadratic reader would take 256 times as long.
    assert seconds(8_000_000) < 60 * seconds(500_000)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "train": true, "train": false}\n{"a": 2}\n',
        '[{"a": {"train": true, "b": 1, "train": true}},\n{"a": 2}]',
        '{"a": 1, "tr\\u0061in": true, "train": false}\n{"a": 2}\n',
    ],
)
def test_a_key_that_stands_twice_in_an_object_breaks_the_row(tmp_path, text):
    assert read(tmp_path, text) == [
        (1, "the key 'train' appears twice in one object"),
        (2, {"a": 2}),
    ]


def test_a_key_that_stands_in_two_objects_breaks_nothing(tmp_path):
    assert read(tmp_path, '{"a": {"a": [{"a": 1}, {"a": 2}]}}') == [
        (1, {"a": {"a": [{"a": 1}, {"a": 2}]}})
    ]
