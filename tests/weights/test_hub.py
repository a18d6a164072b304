"""Downloads from the hub and uploads to it are byte-exact; failures give one line."""

import errno
import hashlib
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import constants, file_download
from safetensors.numpy import save_file

from parrot_jax.cli import main
from parrot_jax.core.errors import DiskFullError, UserError
from parrot_jax.core.files import write_json
from parrot_jax.model.hf_config import to_hf
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.weights.flax_to_hf import RECORD
from parrot_jax.weights.hf_folder import HfFolder
from parrot_jax.weights.hub import local_folder, model_upload, push
from parrot_jax.weights.names import tensors

from .hub_server import TOKEN, Hub, HubError, Repository

# The client sends large files with an argument that its HTTP library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TINY = ModelConfig(
    vocab_size=7, hidden_size=8, intermediate_size=3, num_hidden_layers=1, num_attention_heads=2
)
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
REPO = "owl/asker"


def yes(question: str) -> bool:
    return True


def never(question: str) -> bool:
    raise AssertionError(f"asked: {question}")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A finished export of random weights in two shards."""
    folder = tmp_path / "export"
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = {t.theirs: rng.normal(size=t.their_shape).astype(np.float32) for t in tensors(TINY)}
    names = list(arrays)
    halves = {SHARDS[0]: names[:5], SHARDS[1]: names[5:]}
    for shard, half in halves.items():
        save_file({name: arrays[name] for name in half}, folder / shard)
    places = {name: shard for shard, half in halves.items() for name in half}
    write_json(folder / "model.safetensors.index.json", {"weight_map": places})
    record = {"checkpoint": "a1", "dtype": "float32", "tokenizer": None, "shards": halves}
    write_json(folder / RECORD, record)
    write_json(folder / "tokenizer_config.json", {})
    (folder / "tokenizer.model").write_bytes(b"\0pieces\xff")
    (folder / "README.md").write_text("---\nlicense: other\n---\n# An asker\n")
    (folder / f"{SHARDS[0]}.tmp-17").write_bytes(b"what a kill left")
    write_json(folder / "config.json", to_hf(TINY))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Returns the files of an export that are sent."""
    ours = (RECORD, f"{SHARDS[0]}.tmp-17")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name not in ours}


def pushed(hub: Hub) -> dict[str, bytes]:
    """Returns the files of the repository that were pushed."""
    return {k: v for k, v in hub.repositories[REPO].files.items() if k != ".gitattributes"}


def error_of(call: Callable[[], object]) -> str:
    """Returns the one-line error of a failing call; checks that it does not contain the token."""
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    assert TOKEN not in line
    assert REPO in line
    return line


def test_a_new_repository_is_private_and_holds_the_export_byte_for_byte(
    hub: Hub, export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(export), REPO]) == 0
    assert hub.repositories[REPO].private
    assert pushed(hub) == files_of(export)
    size = sum(len(data) for data in files_of(export).values())
    printed = capsys.readouterr().out
    assert f"sending 7 files, {size:,} bytes, to the model owl/asker (private)" in printed
    assert printed.endswith(f"done: {constants.ENDPOINT}/owl/asker\n")
    assert len(hub.repositories[REPO].commits) == 2  # the initial one, and one with all files


def test_public_makes_it_public(hub: Hub, export: Path) -> None:
    assert main(["push", str(export), REPO, "--public"]) == 0
    assert not hub.repositories[REPO].private
    assert pushed(hub) == files_of(export)


def test_an_empty_repository_is_filled_without_a_question(hub: Hub, export: Path) -> None:
    hub.repositories[REPO] = Repository(private=True)
    push(model_upload(export), REPO, confirm=never)
    assert pushed(hub) == files_of(export)


def test_files_are_replaced_only_after_a_yes(
    hub: Hub, export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"config.json": b"old", "model.safetensors": b"old", "LICENSE.txt": b"keep"}
    hub.repositories[REPO] = Repository(private=True, **old)
    args = ["push", str(export), REPO]

    assert main(args) == 2  # stdin is no terminal
    said = capsys.readouterr().err
    assert said.startswith("parrot: owl/asker already has 3 files. Overwrite those")
    assert "pass --yes" in said

    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    asked: list[str] = []
    for answer in ("n", ""):
        monkeypatch.setattr("builtins.input", lambda text, a=answer: asked.append(text) or a)
        assert main(args) == 2
        assert "nothing was sent; owl/asker is unchanged" in capsys.readouterr().err
    assert pushed(hub) == old

    monkeypatch.setattr("builtins.input", lambda text: "y")
    assert main(args) == 0
    # The old weights, which transformers would prefer to the shards, are deleted.
    assert "and delete model.safetensors, which this push does not send?" in asked[0]
    assert pushed(hub) == files_of(export) | {"LICENSE.txt": b"keep"}


def test_with_yes_nobody_is_asked(hub: Hub, export: Path) -> None:
    hub.repositories[REPO] = Repository(private=True, **{"config.json": b"old"})
    assert main(["push", str(export), REPO, "--yes"]) == 0
    assert pushed(hub) == files_of(export)


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_seen_by_others_than_asked_for_is_refused(
    private: bool, hub: Hub, export: Path
) -> None:
    hub.repositories[REPO] = Repository(private=not private)
    line = error_of(lambda: push(model_upload(export), REPO, private=private, confirm=never))
    assert ("is public, so everybody could see" if private else "is private: omit --public") in line
    assert pushed(hub) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rm config.json", "has no config.json, which is written last"),
        (f"rm {SHARDS[1]}", f"names 1 files that do not exist: {SHARDS[1]}"),
        (f"truncate -s -4 {SHARDS[0]}", "is truncated or not a safetensors file"),
        ("echo '{}' > model.safetensors.index.json", "is not an index of safetensors files"),
        ("rm *.index.json", "has neither model.safetensors"),
        ("rm config.json; touch config.yaml", "is a run, not an export"),
        ("mkdir more", "has folders, which are not part of an export: more"),
        ("rm -r $PWD", "there is no folder"),
    ],
)
def test_an_export_that_is_not_finished_is_refused(
    change: str, message: str, hub: Hub, export: Path
) -> None:
    subprocess.run(change, shell=True, cwd=export, check=True)
    with pytest.raises(UserError, match=message):
        push(model_upload(export), REPO, confirm=never)
    assert hub.requests == []


def test_a_killed_push_is_repeated_and_sends_only_what_is_missing(
    hub: Hub, export: Path, tmp_path: Path
) -> None:
    hub.stall = True
    environment = os.environ | {
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    code = f"from parrot_jax.cli import main; main(['push', {str(export)!r}, {REPO!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL
    ) as process:
        assert hub.stalled.wait(60)
        while not hub.stored:
            time.sleep(0.01)
        process.kill()
    hub.stall = False
    assert pushed(hub) == {}
    hub.requests.clear()
    push(model_upload(export), REPO, confirm=never)
    assert len(hub.asked("PUT", "/large/")) == 1  # of two
    assert pushed(hub) == files_of(export)


def test_a_second_push_of_the_same_changes_nothing(hub: Hub, export: Path) -> None:
    push(model_upload(export), REPO, confirm=never)
    hub.requests.clear()
    assert push(model_upload(export), REPO, confirm=yes) == f"{constants.ENDPOINT}/{REPO}"
    assert hub.asked("PUT", "/large/") == []
    assert len(hub.repositories[REPO].commits) == 2


def test_what_changed_since_the_question_is_not_overwritten(hub: Hub, export: Path) -> None:
    hub.repositories[REPO] = Repository(private=True, **{"config.json": b"old"})

    def answer_late(question: str) -> bool:
        hub.repositories[REPO].commits.append({"config.json": b"of somebody else"})
        return True

    line = error_of(lambda: push(model_upload(export), REPO, confirm=answer_late))
    assert "status 412 for owl/asker (A commit has happened since); the repository changed" in line
    assert pushed(hub) == {"config.json": b"of somebody else"}


@pytest.mark.parametrize(
    ("path", "status", "advice"),
    [
        ("/api/models/", 500, "wait a little and run the same command again"),
        ("/api/repos/create", 401, "set the environment variable HF_TOKEN"),
        ("/api/repos/create", 403, "HF_TOKEN to a token with this permission"),
        ("/api/repos/create", 409, "look at http"),
        ("/preupload/", 404, "look at http"),
        ("/preupload/", 500, "wait a little"),
        ("/objects/batch", 429, "wait a little"),
        ("/large/", 500, "wait a little"),
        ("/commit/", 403, "HF_TOKEN"),
    ],
)
def test_what_the_hub_refuses_is_one_line_without_the_token(
    path: str, status: int, advice: str, hub: Hub, export: Path
) -> None:
    hub.fail[path] = HubError(status, f"no,\nsaid the owl to {TOKEN}")
    line = error_of(lambda: push(model_upload(export), REPO, confirm=never))
    assert f"the hub answered with status {status} for owl/asker (no, said the owl to ***" in line
    assert advice in line
    hub.fail.clear()
    push(model_upload(export), REPO, confirm=never)
    assert pushed(hub) == files_of(export)


def test_a_card_that_the_hub_does_not_take_is_one_line(hub: Hub, export: Path) -> None:
    error = HubError(400, "bad")
    error.response.body = b'{"errors": [{"message": "license must be one of mit, other"}]}'
    error.response.headers["content-length"] = str(len(error.response.body))
    hub.fail["/api/validate-yaml"] = error
    line = error_of(lambda: push(model_upload(export), REPO, confirm=never))
    assert "Invalid metadata in README.md. - license must be one of mit, other" in line


@pytest.mark.parametrize("token", ["", "wrong", f"{TOKEN}\x07"])
def test_a_token_that_is_none_is_one_line(
    token: str, hub: Hub, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    line = error_of(lambda: push(model_upload(export), REPO, confirm=never))
    assert "status 401" in line or "Illegal header value" in line
    assert hub.repositories == {}


@pytest.fixture
def no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hub address without a server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    return url


def test_without_a_network_a_push_is_one_line(no_hub: str, export: Path) -> None:
    line = error_of(lambda: push(model_upload(export), REPO, confirm=never))
    assert line.startswith(f"{no_hub} cannot be reached for owl/asker (")
    assert "check the network" in line


def test_a_name_that_is_none_is_refused(hub: Hub, export: Path) -> None:
    for name in ("asker", "a/b/c", "../asker", "owl/", "owl/as ker", ""):
        with pytest.raises(UserError, match="is not a repository name"):
            push(model_upload(export), name, confirm=never)
        with pytest.raises(UserError, match="is neither a folder nor a repository name"):
            local_folder(name or "?")
    with pytest.raises(UserError, match="Cannot have -- or .. in repo_id"):
        push(model_upload(export), "owl/as--ker", confirm=never)
    assert hub.requests == []


def test_a_folder_is_itself(export: Path) -> None:
    assert local_folder(str(export)) == export
    with pytest.raises(UserError, match="is a local folder, so the revision 'v1' does not apply"):
        local_folder(str(export), revision="v1")
    with pytest.raises(UserError, match="neither a folder nor a repository name"):
        local_folder(str(export / "config.json"))


def test_a_download_is_what_was_pushed_and_can_be_read(hub: Hub, export: Path) -> None:
    push(model_upload(export), REPO, confirm=never)
    more = {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "old/a.safetensors": b"copy"}
    hub.repositories[REPO].commits.append(hub.repositories[REPO].files | more)
    folder = local_folder(REPO)
    wanted = files_of(export)
    del wanted["README.md"]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == wanted
    assert not [path for path in hub.asked("GET", "/resolve/") if path.endswith(tuple(more))]
    here, there = HfFolder(export), HfFolder(folder)
    for tensor in there.tensors:
        assert np.array_equal(there.read(tensor), here.read(tensor))


def test_adapters_are_pushed_and_downloaded_with_their_config(hub: Hub, tmp_path: Path) -> None:
    files = {"adapter_model.safetensors": b"weights", "adapter_config.json": b"{}"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    record = {"checkpoint": "a1", "dtype": "float32", "shards": {"adapter_model.safetensors": []}}
    write_json(tmp_path / RECORD, record | {"sha256": hashes})
    push(model_upload(tmp_path), REPO, confirm=never)
    assert pushed(hub) == files
    assert {file.name: file.read_bytes() for file in local_folder(REPO).iterdir()} == files
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weighty")
    with pytest.raises(UserError, match="is damaged"):
        model_upload(tmp_path)


def test_a_revision_is_that_commit(hub: Hub, export: Path) -> None:
    push(model_upload(export), REPO, confirm=never)
    first = hub.repositories[REPO].sha
    (export / "tokenizer.model").write_bytes(b"other pieces")
    push(model_upload(export), REPO, confirm=yes)
    assert (local_folder(REPO) / "tokenizer.model").read_bytes() == b"other pieces"
    before = local_folder(REPO, revision=first)
    assert (before / "tokenizer.model").read_bytes() == b"\0pieces\xff"
    line = error_of(lambda: local_folder(REPO, revision="v9"))
    assert "owl/asker has no revision 'v9'" in line


def test_what_is_in_the_cache_needs_no_hub(
    hub: Hub, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(model_upload(export), REPO, confirm=never)
    folder = local_folder(REPO)
    hub.fail["/"] = HubError(500, "down")
    assert local_folder(REPO) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_folder(REPO) == folder
    assert "but HF_HUB_OFFLINE is set" in error_of(lambda: local_folder("owl/asker2"))


def test_repositories_that_cannot_be_had_are_one_line(
    hub: Hub, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no folder or repository owl/asker" in error_of(lambda: local_folder(REPO))
    hub.repositories[REPO] = Repository(**files_of(export))
    hub.fail = {"/tree/": HubError(500, f"said the owl to {TOKEN}")}
    assert "status 500 for owl/asker (said the owl to ***)" in error_of(lambda: local_folder(REPO))
    hub.fail = {"/resolve/": HubError(403, "not you")}
    assert "status 403" in error_of(lambda: local_folder(REPO))
    hub.fail = {}
    hub.repositories[REPO].gated = True
    line = error_of(lambda: local_folder(REPO))
    assert f"owl/asker is gated: request access on {constants.ENDPOINT}/owl/asker" in line
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "status 401 for owl/asker (Invalid credentials" in error_of(lambda: local_folder(REPO))


def test_without_a_network_a_download_is_one_line(no_hub: str) -> None:
    line = error_of(lambda: local_folder(REPO))
    assert line.startswith(f"{no_hub} cannot be reached for owl/asker (")


def test_a_repository_of_pickles_says_how_to_make_safetensors(hub: Hub) -> None:
    hub.repositories[REPO] = Repository(**{"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    line = error_of(lambda: local_folder(REPO))
    assert "owl/asker has weights as pickles" in line
    assert "AutoModelForCausalLM.from_pretrained('owl/asker').save_pretrained(NEW_FOLDER)" in line
    hub.repositories["owl/asker2"] = Repository(**{"config.json": b"{}", "asker.gguf": b"other"})
    line = error_of(lambda: local_folder("owl/asker2"))
    assert "has no safetensors, only .gitattributes, config.json, asker.gguf" in line


def test_a_full_disk_says_where(hub: Hub, export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[REPO] = Repository(**files_of(export))

    def write(url: str, file: io.BufferedWriter, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_download, "http_get", write)
    with pytest.raises(DiskFullError, match="for owl/asker in .*cache .*set HF_HOME to move it"):
        local_folder(REPO)


def test_a_push_loads_no_jax(export: Path) -> None:
    (export / SHARDS[1]).unlink()
    code = (
        "import sys; from parrot_jax.cli import main\n"
        f"assert main(['push', {str(export)!r}, {REPO!r}]) == 2\n"
        "sys.exit('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
