"""A minimal job: sends the missing requests, stops on faults, resumes."""

import asyncio
import contextlib
import gc
import io
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from parrot_jax.api import live
from parrot_jax.api.endpoint import Endpoint, request_body
from parrot_jax.api.endpoint_config import EndpointConfig, RetryConfig
from parrot_jax.api.job_journal import open_journal
from parrot_jax.api.jobs import Job, raise_first
from parrot_jax.api.journal import End, Start
from parrot_jax.api.journal_reader import JournalReader
from parrot_jax.api.run_async import run_async
from parrot_jax.api.scripted_server import Scripted, ScriptedServer
from parrot_jax.core.errors import ParrotError

WORDS = [f"word {number}" for number in range(12)]


def translate(path: Path, url: str, words: list[str] = WORDS) -> tuple[list[str], Job, str]:
    """Requests a French and a German translation of each word; returns texts, job and output."""
    shown = io.StringIO()

    def inputs(there: JournalReader | None) -> Iterable[str]:
        return words if there is None else words[there.num_items() :]

    async def run() -> tuple[list[str], Job]:
        config = EndpointConfig(base_url=url, model="m")
        with (
            open_journal(path, Start({}), inputs) as journal,
            contextlib.closing(JournalReader(path)) as reader,
        ):
            job = Job(
                {"translator": Endpoint(config)}, journal, reader,
                retries=RetryConfig(max_attempts=1), concurrency=4, console=Console(file=shown),
            )  # fmt: skip

            async def work(item: int) -> str | None:
                there = {step for step, _ in reader.said(item)}
                for step, language in enumerate(("French", "German")):
                    if step in there:
                        continue
                    text = f"{language}: {words[item]}"
                    body = request_body(config, [{"role": "user", "content": text}], seed=0)
                    if not await job.ask(item, step, "translator", body, if_rejected=End("error")):
                        return None
                await job.finish(item, End("translated"))
                return "translated"

            await job.run(reader.without_end(), work, noun="words", total=reader.num_items())
            return [reply.text for item in range(len(words)) for _, reply in reader.said(item)], job

    return *asyncio.run(run()), shown.getvalue()


def say(body: dict[str, Any]) -> Scripted:
    return Scripted(text=body["messages"][0]["content"].upper())


def test_a_job_asks_for_what_its_items_lack_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "job.sqlite"
    with ScriptedServer(say) as server:
        texts, job, _ = translate(path, server.url, WORDS[:5])
        assert texts[:2] == ["FRENCH: WORD 0", "GERMAN: WORD 0"]
        assert job.problem is None
        assert len(server.bodies) == 10
        assert len(translate(path, server.url, WORDS[:5])[0]) == 10
        assert len(server.bodies) == 10
        assert len(translate(path, server.url, WORDS)[0]) == 24
        assert len(server.bodies) == 24


def test_three_failures_in_a_row_stop_a_job_and_it_resumes(tmp_path: Path) -> None:
    path = tmp_path / "job.sqlite"
    is_broken = False

    def script(body: dict[str, Any]) -> Scripted:
        nonlocal is_broken
        is_broken = is_broken or "French: word 3" in str(body)
        return Scripted(status=500, text="out of memory") if is_broken else say(body)

    with ScriptedServer(script) as server:
        texts, job, shown = translate(path, server.url)
        assert job.stopped_by == "the translator fails"
        assert "the translator fails: nothing more is sent" in shown
        assert isinstance(job.problem, ParrotError)
        assert "times (last error: HTTP 500: out of memory); check the end" in str(job.problem)
        assert len(job.unanswered) >= 3  # more if others were in flight
        assert len(texts) < 24
    with ScriptedServer(say) as server:
        assert len(translate(path, server.url)[0]) == 24
        assert len(server.bodies) == 24 - len(texts)


def test_a_job_shows_how_far_it_is_and_how_long_it_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LINE_EVERY_S", 0.05)
    with ScriptedServer(say, delay_s=0.05) as server:
        *_, shown = translate(tmp_path / "job.sqlite", server.url)
    assert "of 12 words finished" in shown
    assert "/s, about " in shown


def test_an_item_with_several_rejected_requests_is_counted_once(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Scripted:
        if "word 3" in str(body) or "word 5" in str(body):
            return Scripted(status=400, text="no such word")
        return say(body)

    async def both(path: Path, url: str) -> tuple[int, dict[str, int]]:
        config = EndpointConfig(base_url=url, model="m")
        with (
            open_journal(path, Start({}), lambda _: WORDS) as journal,
            contextlib.closing(JournalReader(path)) as reader,
        ):
            job = Job({"t": Endpoint(config)}, journal, reader, retries=RetryConfig(),
                      concurrency=1, console=Console(file=io.StringIO()))  # fmt: skip

            async def work(item: int) -> str | None:
                asked = [
                    await job.ask(
                        item, step, "t",
                        request_body(config, [{"role": "user", "content": WORDS[item]}], seed=0),
                        if_rejected=End("error"),
                    )
                    for step in range(2)
                ]  # fmt: skip
                return "done" if all(asked) else None

            await job.run(reader.without_end(), work, noun="words", total=len(WORDS))
            return job._view.finished, dict(job._view.results)

    with ScriptedServer(script) as server:
        finished = asyncio.run(both(tmp_path / "job.sqlite", server.url))
    assert finished == (12, {"done": 10, "error": 2})


def test_a_job_runs_inside_a_running_loop() -> None:
    async def notebook() -> int:
        return run_async(asyncio.sleep(0, 7))

    assert asyncio.run(notebook()) == 7


def test_ctrl_c_in_a_notebook_cancels_a_job() -> None:
    program = """if True:
        import asyncio, os, signal, threading
        from parrot_jax.api.run_async import run_async

        async def job():
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                await asyncio.sleep(60)
            finally:
                print("cancelled")

        async def cell():
            run_async(job())

        try:
            asyncio.new_event_loop().run_until_complete(cell())
        except KeyboardInterrupt:
            print("interrupted")
    """
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.split() == ["cancelled", "interrupted"]


def test_the_first_error_is_raised_and_no_other_is_printed() -> None:
    unasked: list[object] = []

    async def fail(text: str) -> None:
        raise ValueError(text)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: unasked.append(about))
        workers = [asyncio.create_task(fail(text)) for text in ("one", "two")]
        await asyncio.wait(workers)
        with pytest.raises(ValueError, match="one"):
            raise_first(workers)
        del workers
        gc.collect()

    asyncio.run(main())
    assert not unasked
