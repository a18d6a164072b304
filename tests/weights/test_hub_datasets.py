"""Uploads of exported collections: exactly the dialogues and the card, byte for byte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from parrot_jax.api.scripted_server import ScriptedServer
from parrot_jax.cli import main
from parrot_jax.collect.upload import dataset_upload
from parrot_jax.core.errors import UserError
from parrot_jax.weights.hub import push

from .hub_server import Hub, Repository

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "owl/talks"
AT_THE_HUB = f"datasets/{REPO}"
SENT = {
    "README.md",
    "data/questions.parquet",
    "messages/questions.jsonl",
    "sharegpt/questions.json",
}


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A collection of three short dialogues, as `parrot collect` writes it."""
    rows = [{"messages": [{"role": "user", "content": f"What is {n}?"}]} for n in range(3)]
    begin = tmp_path / "private" / "begin.jsonl"
    begin.parent.mkdir()
    begin.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "c.yaml"
    with ScriptedServer() as server:
        speaker = {"base_url": server.url, "model": "m"}
        values = {
            "out": str(tmp_path / "run"), "asker": speaker, "answerer": speaker, "max_turns": 2,
            "beginnings": [{"kind": "messages", "path": str(begin)}],
            "stops": {"repeated_question": None, "language_switch": None},
        }  # fmt: skip
        config.write_text(json.dumps(values))
        assert main(["collect", str(config)]) == 0
    return tmp_path / "run"


@pytest.fixture
def export(collection: Path, tmp_path: Path) -> Path:
    """The collection as a dataset."""
    out = tmp_path / "talks"
    assert main(["collect", "export", str(collection), "--out", str(out)]) == 0
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SENT}


def pushed(hub: Hub) -> dict[str, bytes]:
    files = hub.repositories[AT_THE_HUB].files
    return {name: data for name, data in files.items() if name != ".gitattributes"}


def test_a_dataset_is_private_and_holds_the_dialogues_and_the_card(
    hub: Hub, export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (export / "LICENSE").write_text("mine")
    (export / "notes.txt").write_text("not for others")
    (export / "data" / "more.parquet").write_text("of something else")
    capsys.readouterr()
    assert main(["push", str(export), REPO]) == 0
    printed = capsys.readouterr().out
    assert "to the dataset owl/talks (private)" in printed
    assert "not sent: data/more.parquet, export.json, left_out.jsonl, notes.txt\n" in printed
    assert printed.endswith(f"done: {constants.ENDPOINT}/datasets/owl/talks\n")
    assert list(hub.repositories) == [AT_THE_HUB]
    assert hub.repositories[AT_THE_HUB].private
    assert pushed(hub) == files_of(export) | {"LICENSE": b"mine"}


def test_public_makes_it_public(hub: Hub, export: Path) -> None:
    assert main(["push", str(export), REPO, "--public"]) == 0
    assert not hub.repositories[AT_THE_HUB].private


def test_what_an_earlier_push_left_is_not_read_beside_the_new(hub: Hub, export: Path) -> None:
    old = {"data/sessions.parquet": b"old", "messages/sessions.jsonl": b"old", "notes.md": b"keep"}
    hub.repositories[AT_THE_HUB] = Repository(private=True, **old)
    asked: list[str] = []
    push(dataset_upload(export), REPO, confirm=lambda text: asked.append(text) is None)
    assert "delete data/sessions.parquet, messages/sessions.jsonl, which this push does" in asked[0]
    assert pushed(hub) == files_of(export) | {"notes.md": b"keep"}


def test_a_killed_push_is_repeated_and_sends_only_what_is_missing(
    hub: Hub, export: Path, tmp_path: Path
) -> None:
    hub.stall, hub.stall_after = True, 0
    environment = os.environ | {
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "parrot_jax.cli", "push", str(export), REPO]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        assert hub.stalled.wait(60)
        process.kill()
    hub.stall = False
    assert pushed(hub) == {}
    push(dataset_upload(export), REPO, confirm=lambda text: True)
    assert pushed(hub) == files_of(export)
    hub.requests.clear()
    push(dataset_upload(export), REPO, confirm=lambda text: True)
    assert hub.asked("PUT", "/large/") == []


def test_a_collection_with_its_journal_is_never_sent(
    hub: Hub, collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(collection), REPO]) == 2
    assert f"parrot collect export {collection} --out FOLDER" in capsys.readouterr().err
    assert hub.requests == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rm messages/questions.jsonl", "not a complete export .*No such file"),
        ("truncate -s -4 data/questions.parquet", "data/questions.parquet is cut off"),
        ("truncate -s -4 sharegpt/questions.json", "sharegpt/questions.json is cut off"),
        ("truncate -s 0 data/questions.parquet", "not a complete export"),
        ("sed -i 1d messages/questions.jsonl", "messages/questions.jsonl has 2 rows, not 3"),
        ("rm README.md", "not a complete export .*README.md"),
        ("echo '{\"parts\": {\"../private\": {\"dialogues\": 1}}}' > export.json", "no part"),
        ("echo '[' > export.json", "is not a complete export"),
        ("sed -i '2s#begin.jsonl:2#/home/owl/begin.jsonl:2#' messages/questions.jsonl",
         "messages/questions.jsonl:2: `id` is /home/owl/begin.jsonl:2, a local path"),
        ("sed -i '2s#begin.jsonl#/home/owl/begin.jsonl#2' messages/questions.jsonl",
         "messages/questions.jsonl:2: `source` is /home/owl/begin.jsonl, a local path"),
        ("sed -i '2s#\"stop\"#\"file\": \"~/owl/x\", \"stop\"#' messages/questions.jsonl",
         "messages/questions.jsonl:2: `file` is ~/owl/x, a local path"),
    ],
)  # fmt: skip
def test_an_export_that_is_broken_or_names_a_path_is_refused(
    change: str, message: str, export: Path
) -> None:
    subprocess.run(change, shell=True, cwd=export, check=True)
    with pytest.raises(UserError, match=message) as caught:
        dataset_upload(export)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        "sed -i '2s#What#Why#' messages/questions.jsonl",
        "sed -i 's#What#Why#' sharegpt/questions.json",
        "printf 'PAR1xxPAR1' > data/questions.parquet",
    ],
)
def test_an_export_that_was_changed_by_hand_is_refused(
    change: str, export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(change, shell=True, cwd=export, check=True)
    name = change.split()[-1]
    with pytest.raises(UserError) as caught:
        dataset_upload(export)
    said = f"{export / name} was changed after it was exported; run `parrot collect export` again."
    assert str(caught.value) == said
    # Exports of earlier versions have no hashes, which is reported.
    record = json.loads((export / "export.json").read_text())
    del record["sha256"]
    (export / "export.json").write_text(json.dumps(record))
    capsys.readouterr()
    dataset_upload(export)
    said = " ".join(capsys.readouterr().out.split())
    assert "is from an earlier version and has no hashes" in said


def test_a_card_that_was_edited_is_sent_and_this_is_said(
    export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(export / "README.md", "a") as card:
        card.write("More of it.\n")
    capsys.readouterr()
    assert "README.md" in dataset_upload(export).files
    said = " ".join(capsys.readouterr().out.split())
    assert "README.md was changed after it was exported; uploading it as it is" in said


@pytest.mark.parametrize("hashes", [None, {}, [], 5, {"README.md": 7}])
def test_an_export_whose_hashes_are_damaged_is_refused(hashes: object, export: Path) -> None:
    record = json.loads((export / "export.json").read_text())
    (export / "export.json").write_text(json.dumps(record | {"sha256": hashes}))
    with pytest.raises(UserError, match="is not a complete export|was changed"):
        dataset_upload(export)
