import json
import sys

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.hub import HubAddress, parse_hub_path
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources


def read(path):
    report = ReadReport()
    source = SourceConfig(kind="huggingface", path=str(path))
    return list(read_sources([source], seed=0, report=report)), report


class FakeDatasets:
    """Replaces the datasets library: `load_dataset` returns the rows, or raises."""

    class exceptions:  # noqa: N801
        class DatasetsError(Exception):
            pass

    def __init__(self, rows):
        self.rows = rows
        self.calls = []

    def load_dataset(self, name, config, *, split, streaming):
        self.calls.append((name, config, split, streaming))
        if isinstance(self.rows, Exception):
            raise self.rows
        return iter(self.rows)


@pytest.fixture
def hub(monkeypatch):
    def install(rows):
        fake = FakeDatasets(rows)
        monkeypatch.setitem(sys.modules, "datasets", fake)
        monkeypatch.setitem(sys.modules, "datasets.exceptions", fake.exceptions)
        return fake

    return install


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("hf://a/b", HubAddress("a/b", None, "train")),
        ("hf://a/b@test", HubAddress("a/b", None, "test")),
        ("hf://a/b/en@test[:10%]", HubAddress("a/b", "en", "test[:10%]")),
    ],
)
def test_an_address_names_data_set_subset_and_split(path, address):
    assert parse_hub_path(path) == address


@pytest.mark.parametrize("path", ["hf://a", "hf://a/b/c/d", "hf:///b", "a/b", "hf://"])
def test_another_form_is_an_error_that_shows_the_right_ones(path):
    with pytest.raises(UserError, match="write hf://owner/name, hf://owner/name/config"):
        parse_hub_path(path)


def test_rows_are_recognised_by_their_columns(hub):
    said = [{"role": "user", "content": "hi"}]
    fake = hub(
        [
            {"messages": said},
            {"conversation": said, "model": "m"},
            {"conversations": {"from": ["human", "gpt"], "value": ["hi", "hello"]}},
            {"data": ["hi", "hello"]},
            {"topic": "t", "input": "[|Human|] hi [|AI|] hello"},
            {"messages": [{"role": "referee", "content": "x"}]},
        ]
    )
    dialogues, report = read("hf://a/b@dev")
    assert fake.calls == [("a/b", None, "dev", True)]
    assert [len(dialogue.turns) for dialogue in dialogues] == [1, 1, 2, 2, 2]
    assert dialogues[1].metadata["model"] == "m"
    assert report.examples == ["hf://a/b@dev:6: unknown role 'referee': message 1"]


def test_columns_without_a_dialogue_are_an_error_that_lists_them(hub):
    hub([{"text": "x", "label": 1}])
    with pytest.raises(UserError, match="no column holds a dialogue: the columns are text, label"):
        read("hf://a/b")


def test_an_unknown_data_set_is_one_line(hub):
    hub(FileNotFoundError("Dataset 'a/b' doesn't exist\non the Hub"))
    with pytest.raises(
        UserError, match=r"cannot read the data set hf://a/b: Dataset 'a/b' doesn't"
    ):
        read("hf://a/b")


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'parrot-jax\[datasets\]'"):
        read("hf://a/b")


def test_a_local_folder_is_read_by_the_real_library(tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"q{n}"}], "n": n} for n in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "train.jsonl").write_text(lines)
    dialogues, report = read(tmp_path)
    assert [dialogue.turns[0].text for dialogue in dialogues] == ["q0", "q1", "q2"]
    assert dialogues[2].metadata["n"] == 2
    assert report.broken == {}
