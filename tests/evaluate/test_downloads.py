"""Public benchmarks over real HTTP: checked before they are written, from known hosts only."""

import functools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from parrot_jax.cli import main
from parrot_jax.core.errors import UserError
from parrot_jax.evaluate import downloads, published
from parrot_jax.evaluate.benchmark import read_benchmark
from parrot_jax.evaluate.downloads import check_address, download, fetch
from parrot_jax.evaluate.published import PUBLIC_BENCHMARKS, PublicBenchmark, PublicFile

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
QUESTIONS = b'{"question_id": 81, "turns": ["Why?", "How?"]}\n'
REFERENCES = (
    b'{"question_id": 81, "model_id": "gpt-4", "choices": [{"index": 0, "turns": ["A", "B"]}]}\n'
)


@dataclass
class Server:
    """Serves contents; the content of an address may also be a redirect, or never end."""

    port: int
    contents: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def check(self, url: str) -> None:
        """Stands in for the rule that only https to known hosts is allowed."""
        if not url.startswith(self.url("/")):
            raise UserError(f"{url} is not this server.")

    def benchmark(self) -> PublicBenchmark:
        return PublicBenchmark(
            about="one question", home="http://home", licence="MIT",
            files=(
                PublicFile(path="question.jsonl", url=self.url("/q")),
                PublicFile(
                    path="reference_answer/gpt-4.jsonl", url=self.url("/r"), kind="references"
                ),
            ),
        )  # fmt: skip


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.requests.append(self.path)
            if self.path in found.redirects:
                self.send_response(302)
                self.send_header("location", found.redirects[self.path])
                self.end_headers()
            elif self.path == "/drips":
                self.send_response(200)
                self.end_headers()
                while not stopped.wait(0.02):
                    self.wfile.write(b"x")
            elif self.path in found.contents:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(found.contents[self.path])
            else:
                self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hung up

    stopped = threading.Event()
    with Quiet(("127.0.0.1", 0), Handler) as http:
        found = Server(http.server_address[1], {"/q": QUESTIONS, "/r": REFERENCES})
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield found
        stopped.set()
        http.shutdown()
        thread.join()


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_benchmark_is_written_where_the_other_commands_read_it(
    server: Server, tmp_path: Path
) -> None:
    written = download(server.benchmark(), tmp_path / "b", check=server.check)
    assert [(one.content, one.state) for one in written] == [
        ("1 questions", "written"), ("references of 1 questions", "written"),
    ]  # fmt: skip
    (question,) = read_benchmark(str(tmp_path / "b" / "question.jsonl"), references="gpt-4")
    assert (question.turns, question.references) == (("Why?", "How?"), ("A", "B"))
    again = download(server.benchmark(), tmp_path / "b", check=server.check)
    assert [one.state for one in again] == ["unchanged", "unchanged"]


def test_other_content_is_replaced_only_when_asked_for(server: Server, tmp_path: Path) -> None:
    download(server.benchmark(), tmp_path, check=server.check)
    server.contents["/q"] = QUESTIONS.replace(b"Why?", b"Who?")
    before = files(tmp_path)
    with pytest.raises(UserError, match="question.jsonl has another content; use --overwrite"):
        download(server.benchmark(), tmp_path, check=server.check)
    assert files(tmp_path) == before
    again = download(server.benchmark(), tmp_path, check=server.check, overwrite=True)
    assert [one.state for one in again] == ["replaced", "unchanged"]
    assert b"Who?" in files(tmp_path)["question.jsonl"]


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("/q", b"<html>moved</html>", "/q is not what it was: question.jsonl:1: "),
        ("/q", b"", "/q is not what it was: question.jsonl has no question. Nothing was written."),
        ("/r", QUESTIONS, "/r is not what it was: reference_answer/gpt-4.jsonl:1: no `choices`"),
        ("/r", REFERENCES.replace(b"81", b"7"), "has references for none of the questions"),
    ],
)
def test_nothing_is_written_when_one_file_is_wrong(
    server: Server, tmp_path: Path, path: str, content: bytes, message: str
) -> None:
    server.contents[path] = content
    with pytest.raises(UserError, match=message):
        download(server.benchmark(), tmp_path / "b", check=server.check)
    assert not (tmp_path / "b").exists()


def test_redirects_are_followed_within_the_rule(server: Server) -> None:
    server.redirects |= {"/a": "/q", "/out": "http://127.0.0.1:9/q", "/round": "/round"}
    assert fetch(server.url("/a"), check=server.check) == QUESTIONS
    with pytest.raises(UserError, match="http://127.0.0.1:9/q is not this server"):
        fetch(server.url("/out"), check=server.check)
    server.requests.clear()
    with pytest.raises(UserError, match="/round redirects more than 5 times"):
        fetch(server.url("/round"), check=server.check)
    assert len(server.requests) == 6


def test_size_and_time_are_limited(server: Server) -> None:
    with pytest.raises(UserError, match="/q is larger than 10 bytes"):
        fetch(server.url("/q"), check=server.check, max_bytes=10)
    started = time.monotonic()
    with pytest.raises(UserError, match="/drips was not received within 0.3 s"):
        fetch(server.url("/drips"), check=server.check, timeout_s=0.3)
    assert time.monotonic() - started < 5


def test_an_address_that_answers_no_or_not_at_all(server: Server) -> None:
    with pytest.raises(UserError, match="/none answered with HTTP 404"):
        fetch(server.url("/none"), check=server.check)
    with pytest.raises(UserError, match="http://127.0.0.1:1/q cannot be downloaded"):
        fetch("http://127.0.0.1:1/q", check=lambda url: None)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://huggingface.co/a", "is not an https address"),
        ("https://huggingface.co:8443/a", "is not an https address"),
        ("file:///etc/passwd", "is not an https address"),
        ("https://example.com/a", "is on example.com; benchmarks are downloaded from raw.githubu"),
        ("https://huggingface.co.example.com/a", "is on huggingface.co.example.com"),
        ("https://huggingface.co@example.com/a", "is on example.com"),
        ("https://nothuggingface.co/a", "is on nothuggingface.co"),
    ],
)
def test_only_https_to_known_hosts(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_address(url)
    with pytest.raises(UserError, match=message):
        fetch(url)
    check_address("https://cdn-lfs.huggingface.co/a")


def test_all_published_addresses_keep_the_rule() -> None:
    for benchmark in PUBLIC_BENCHMARKS.values():
        assert benchmark.files[0].kind == "questions"
        for file in benchmark.files:
            check_address(file.url)


def test_the_shipped_configs_read_what_is_downloaded() -> None:
    paths = {
        str(Path("benchmarks", name, file.path))
        for name, benchmark in PUBLIC_BENCHMARKS.items()
        for file in benchmark.files
    }
    for config in ("answer/mt_bench_vllm.yaml", "judge/mt_bench_gpt4.yaml"):
        values = yaml.safe_load((CONFIGS / config).read_text())
        assert values["benchmark"] in paths
        references = f"reference_answer/{values['references']}.jsonl"
        assert str(Path(values["benchmark"]).parent / references) in paths


def test_the_published_files_pass_the_checks(
    server: Server, tmp_path: Path, shared_data: Path
) -> None:
    """MT-Bench and MT-Eval as they are published, from a server of this machine."""
    mt_bench = shared_data / "mt_bench"
    copies = {
        "question.jsonl": mt_bench / "question.jsonl",
        "reference_answer/gpt-4.jsonl": mt_bench / "reference_answer_gpt-4.jsonl",
        "reference_answer/gpt-4-corrected.jsonl":
            mt_bench / "reference_answer_gpt-4-0125-preview.jsonl",
        "judge_prompts.jsonl": mt_bench / "judge_prompts.jsonl",
        "mt-bench_extended.jsonl": shared_data / "mt_eval" / "mt-bench_extended.jsonl",
    }  # fmt: skip
    expected = {
        "mt-bench": ["80 questions", "references of 30 questions", "references of 30 questions",
                     "8 prompts"],
        "mt-eval": ["80 questions"],
    }  # fmt: skip
    for name, contents in expected.items():
        source = PUBLIC_BENCHMARKS[name]
        for file in source.files:
            server.contents[f"/{file.path}"] = copies[file.path].read_bytes()
        local = PublicBenchmark(
            about="", home="", licence="",
            files=tuple(
                PublicFile(path=file.path, url=server.url(f"/{file.path}"), kind=file.kind)
                for file in source.files
            ),
        )  # fmt: skip
        written = download(local, tmp_path / name, check=server.check)
        assert [one.content for one in written] == contents
    corrected = str(tmp_path / "mt-bench" / "question.jsonl")
    found = read_benchmark(corrected, references="gpt-4-corrected")
    assert {question.reference_model for question in found} == {"gpt-4-0125-preview"}


def test_the_command_prints_source_and_licence(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(vars(published)["PUBLIC_BENCHMARKS"], "mt-bench", server.benchmark())
    monkeypatch.setattr(downloads, "download", functools.partial(download, check=server.check))
    assert main(["evaluate", "download", "mt-bench", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "mt-bench" / "question.jsonl"
    assert f"written {file}: 1 questions, 47 bytes, from {server.url('/q')}\n" in printed
    assert "source http://home, licence MIT\n" in printed


def test_without_a_name_the_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "download"]) == 0
    printed = capsys.readouterr().out
    for benchmark in PUBLIC_BENCHMARKS.values():
        assert f"  {benchmark.home}, {benchmark.licence}\n" in printed
        for file in benchmark.files:
            assert file.url in printed
    assert main(["evaluate", "download", "mt-benhc"]) == 2
    assert "no benchmark is named 'mt-benhc'; did you mean mt-bench?" in capsys.readouterr().err
