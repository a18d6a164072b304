"""Progress of a running job, on a terminal and in a log."""

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from parrot_jax.api import jobs, live
from parrot_jax.api.scripted_server import ScriptedServer
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.run import collect
from parrot_jax.core.errors import RunError

MakeConfig = Callable[..., CollectConfig]


def test_a_terminal_gets_a_view_that_renews_itself(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120, highlight=False)
    monkeypatch.setattr(jobs, "standard_output", terminal)
    monkeypatch.setattr(live, "_REFRESH_EVERY_S", 0.05)
    with ScriptedServer(delay_s=0.1) as server:
        limits = {"max_tokens": 50, "budget_tokens": 10_000}
        collect(make_config(server.url, rows=4, answerer=limits))
    assert isinstance(terminal.file, io.StringIO)
    shown = terminal.file.getvalue()
    assert "of 4 dialogues finished" in shown
    assert "of 10,000 tokens" in shown
    assert "finished in this run: none yet" in shown
    assert re.search(r"finished in this run: max_turns \d", shown)


def test_each_part_of_the_view_has_lines_of_its_own() -> None:
    terminal = Console(file=io.StringIO(), width=80)
    terminal.print(live.LiveView("dialogues", 40_000, 20_000, callers={}).view())
    assert isinstance(terminal.file, io.StringIO)
    counts, bar, _, stops = terminal.file.getvalue().splitlines()
    assert counts.startswith("20,000 of 40,000 dialogues finished")
    assert set(bar.strip()) <= set("━╸╺")
    assert stops == "finished in this run: none yet"


def test_an_endpoint_that_is_down_is_said_at_once(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer() as gone:
        url = gone.url
    with pytest.raises(RunError):
        collect(make_config(url, rows=4))
    lines = capsys.readouterr().out.splitlines()
    (first,) = [n for n, line in enumerate(lines) if line.startswith("4 dialogues, 64 at once")]
    # Before the first retry.
    assert lines[first + 1].startswith(f"the answerer at {url}: Cannot connect")


def test_elsewhere_there_is_a_line_now_and_then(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "LINE_EVERY_S", 0.05)
    with ScriptedServer(delay_s=0.1) as server:
        collect(make_config(server.url, rows=4))
    # The first dialogue runs alone until both speakers have replied.
    assert "0 of 4 dialogues finished, 1 replies" in capsys.readouterr().out
