"""Objects in a bucket: atomic uploads, streaming, and one-line errors."""

import json
import subprocess
import sys
from pathlib import Path
from typing import IO

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from parrot_jax.cli import main
from parrot_jax.core.errors import UserError
from parrot_jax.core.files import atomic_write, hash_file, open_input, write_json
from parrot_jax.core.logs import MetricsFile
from parrot_jax.core.paths import as_path, require_local
from parrot_jax.core.remote import RemotePath
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.dialogue.json_stream import stream_rows
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources, source_files


def upload(file: Path, url: str) -> str:
    RemotePath(url).put(file)
    return url


def test_a_path_with_a_scheme_cannot_become_a_local_one() -> None:
    path = as_path("gs://bucket/runs/a")
    assert (str(path / "x.json"), path.name) == ("gs://bucket/runs/a/x.json", "a")
    with pytest.raises(TypeError):
        Path(path)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="out is gs://bucket/a; it must be on a local disk"):
        require_local("gs://bucket/a", "out")
    assert as_path("runs/a") == Path("runs/a")


@pytest.mark.parametrize("command", ["world write", "quickstart"])
def test_commands_that_need_a_disk_refuse_a_bucket(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--out", "gs://bucket/a"]) == 2
    message = "parrot: --out is gs://bucket/a; it must be on a local disk, not in a bucket.\n"
    assert capsys.readouterr().err == message


def test_an_object_is_put_whole_or_not_at_all(bucket: str) -> None:
    path = RemotePath(f"{bucket}/folder/file.txt")
    with pytest.raises(RuntimeError, match="stop"), atomic_write(path) as file:
        _write_half(file)
    assert not path.exists()
    with atomic_write(path) as file:
        file.write("one\ntwo\n")
        assert not path.exists(), "nothing is there before the block ends"
    with pytest.raises(RuntimeError, match="stop"), atomic_write(path) as file:
        _write_half(file)
    assert path.read_text() == "one\ntwo\n"
    assert RemotePath(f"{bucket}/folder").is_dir()


def _write_half(file: IO[str]) -> None:
    file.write("half")
    raise RuntimeError("stop")


# aiohttp warns about bodies over a megabyte, which gcsfs sends.
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
def test_an_object_is_streamed(bucket: str, tmp_path: Path) -> None:
    local = tmp_path / "lines.txt"
    local.write_bytes(b"0123456789\n" * (1 << 19))
    url = upload(local, f"{bucket}/lines.txt")
    with open_input(url, "rb") as file:
        assert file.readline(5) == b"01234"
        assert file.readline(99) == b"56789\n"
        assert file.raw.tell() <= 1 << 20, "a megabyte of six was asked for"
        file.seek(-11, 2)
        assert file.read() == b"0123456789\n"
    assert hash_file(url) == hash_file(local)


def test_dialogues_in_a_bucket_are_those_of_the_disk(
    bucket: str, tmp_path: Path, tiny_run: Path
) -> None:
    local = tmp_path / "dialogues.jsonl"
    urls = [upload(local, f"{bucket}/data/{name}.jsonl") for name in ("b", "a", "deep/c")]
    write_json(f"{bucket}/data/notes.txt", {})

    def files(path: str) -> list[str]:
        return source_files(SourceConfig(kind="messages", path=path))

    assert files(urls[0]) == [urls[0]]
    assert files(f"{bucket}/data/*.jsonl") == [urls[1], urls[0]]
    assert files(f"{bucket}/data/**/*.jsonl") == [urls[1], urls[0], urls[2]]
    assert list(stream_rows(urls[0])) == list(stream_rows(local))
    with pytest.raises(UserError, match=f"is a folder; name its files, e.g. {bucket}/data/"):
        files(f"{bucket}/data")


def test_a_tokenizer_in_a_bucket_is_that_of_the_disk(bucket: str, tiny_tokenizer: Path) -> None:
    local = load_tokenizer(tiny_tokenizer)
    url = upload(tiny_tokenizer, f"{bucket}/llama/tokenizer.model")
    assert load_tokenizer(url).fingerprint == local.fingerprint
    assert load_tokenizer(f"{bucket}/llama").fingerprint == local.fingerprint
    local.save(RemotePath(f"{bucket}/saved"))
    assert load_tokenizer(f"{bucket}/saved").fingerprint == local.fingerprint
    write_json(f"{bucket}/half/tokenizer_config.json", {})
    with pytest.raises(UserError, match="has no tokenizer: tokenizer.json is missing"):
        load_tokenizer(f"{bucket}/half")


def test_metrics_wait_for_a_flush(bucket: str) -> None:
    path = RemotePath(f"{bucket}/metrics.jsonl")
    metrics = MetricsFile(path)
    metrics.keep_through(0)
    metrics.append(step=1, loss=0.1)
    metrics.append(step=2, loss=0.2)
    assert not path.exists()
    metrics.flush()
    metrics.append(step=3, loss=0.3)
    metrics.flush()
    assert [line["step"] for line in metrics.read()] == [1, 2, 3]
    continued = MetricsFile(path)
    continued.keep_through(2)
    continued.append(step=3, loss=0.4)
    continued.flush()
    assert path.read_text() == "".join(
        json.dumps({"step": step, "loss": loss}) + "\n"
        for step, loss in ((1, 0.1), (2, 0.2), (3, 0.4))
    )


def test_what_is_missing_is_one_clear_line(bucket: str) -> None:
    def read(url: str) -> None:
        with open_input(url):
            pass

    with pytest.raises(UserError, match=f"cannot read {bucket}/no.txt: No such file or directory"):
        read(f"{bucket}/no.txt")
    with pytest.raises(UserError, match="cannot read gs://no-such-bucket/no.txt: No such file"):
        read("gs://no-such-bucket/no.txt")
    with pytest.raises(UserError, match="there is no tokenizer at gs://no-such-bucket/llama"):
        load_tokenizer("gs://no-such-bucket/llama")
    with pytest.raises(UserError, match=r"cannot write gs://no-such-bucket/a.json: there is no"):
        write_json("gs://no-such-bucket/a.json", {})
    source = SourceConfig(kind="messages", path=f"{bucket}/*.jsonl")
    with pytest.raises(UserError, match=rf"no file matches the source path '{bucket}/\*.jsonl';"):
        read_sources([source], seed=0, report=ReadReport())


def test_what_goes_wrong_on_the_way_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Forbidden: no storage.objects.get\naccess, 403")

    monkeypatch.setattr(MemoryFileSystem, "info", refuse)
    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    with pytest.raises(UserError, match="Forbidden: no storage.objects.get access, 403; check the"):
        RemotePath("memory://bucket/a").is_file()
    with pytest.raises(UserError, match="your account may write there"):
        write_json("memory://bucket/a", {})


def test_a_missing_library_names_its_extra() -> None:
    program = (
        "import sys; sys.modules['gcsfs'] = None; from parrot_jax.cli import main; "
        "sys.exit(main(['train', 'gs://bucket/config.yaml']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("parrot: cannot use gs://bucket/config.yaml: ")
    assert line.endswith("install it with `pip install 'parrot-jax[gcs]'`.")


def test_an_unknown_scheme_is_one_clear_line() -> None:
    assert "gz" not in fsspec.available_protocols()
    with pytest.raises(UserError, match="cannot use gz://bucket/a: Protocol not known: gz"):
        as_path("gz://bucket/a").exists()
