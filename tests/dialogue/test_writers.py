import json
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources
from parrot_jax.dialogue.types import Dialogue, Turn
from parrot_jax.dialogue.writers import messages_row, write_messages

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
SAID = UNICODE.filter(str.strip)


KEYS = st.text(min_size=1).filter(lambda key: key not in ("id", "source", "messages"))
# Plain values instead of dialogues, since beartype uses random numbers and strategies must not.
ROWS = st.fixed_dictionaries(
    {
        "texts": st.lists(
            st.tuples(SAID, st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=5
        ),
        "system": SAID | st.just(""),
        "id": UNICODE.filter(bool),
        "source": UNICODE.filter(bool),
        "metadata": st.dictionaries(
            KEYS, st.integers() | st.text() | st.lists(st.booleans()), max_size=3
        ),
    }
)


def build(texts, **fields):
    roles = ("user", "assistant")
    turns = (Turn(roles[n % 2], text, weight) for n, (text, weight) in enumerate(texts))
    return Dialogue(turns=tuple(turns), **fields)


def read(path):
    source = SourceConfig(kind="messages", path=str(path))
    return list(read_sources([source], seed=0, report=ReadReport()))


@given(rows=st.lists(ROWS, min_size=1, max_size=3))
def test_what_is_written_is_read_back_equal(tmp_path_factory, rows):
    written = [build(**row) for row in rows]
    path = tmp_path_factory.mktemp("round") / "trip.jsonl"
    assert write_messages(path, written) == len(written)
    assert read(path) == written


def test_every_real_dialogue_survives_a_round_trip(shared_data, tmp_path):
    folder = shared_data / "dialogues"
    sources = [
        SourceConfig(kind="messages", path=str(folder / "wildchat.jsonl")),
        SourceConfig(kind="oasst", path=str(folder / "oasst_trees.jsonl")),
        SourceConfig(kind="sharegpt", path=str(folder / "sharegpt_templated.json")),
    ]
    written = list(read_sources(sources, seed=0, report=ReadReport()))
    write_messages(tmp_path / "all.jsonl", written)
    assert read(tmp_path / "all.jsonl") == written


def test_metadata_never_replaces_the_messages():
    dialogue = Dialogue(
        turns=(Turn("user", "hi"),), id="7", metadata=MappingProxyType({"messages": 1, "id": 2})
    )
    assert messages_row(dialogue) == {
        "id": "7",
        "messages": [{"role": "user", "content": "hi"}],
        "source_messages": 1,
        "source_id": 2,
    }


def test_half_a_surrogate_pair_in_the_metadata_is_escaped(tmp_path):
    dialogue = Dialogue(turns=(Turn("user", "hi"),), id="7", metadata={"x": "\ud800"})
    write_messages(tmp_path / "half.jsonl", [dialogue])
    assert json.loads((tmp_path / "half.jsonl").read_bytes())["x"] == "\ud800"


def test_a_failing_stream_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_text("old")

    def stream():
        yield Dialogue(turns=(Turn("user", "hi"),))
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_messages(path, stream())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
