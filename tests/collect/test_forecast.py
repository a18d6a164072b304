"""Forecasts of calls, tokens, cost and time, with numbers that can be checked by hand."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from parrot_jax.api.endpoint_config import EndpointConfig, Price
from parrot_jax.api.journal_reader import MeanCall
from parrot_jax.api.replies import Usage
from parrot_jax.api.scripted_server import Scripted, ScriptedServer, converse
from parrot_jax.cli import main
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.folder import Collection
from parrot_jax.collect.forecast import Assumptions, Forecast, forecast
from parrot_jax.collect.run import collect
from parrot_jax.collect.status import read_status, status_view
from parrot_jax.core.config import save_config
from parrot_jax.core.errors import RunError

MakeConfig = Callable[..., CollectConfig]

FREE = Price(prompt=0.0, completion=0.0)


def plan(turns: list[int], **changes: Any) -> Forecast:
    prices = {"asker": FREE, "answerer": Price(prompt=0.5, completion=1.5)}
    prices |= changes.pop("prices", {})
    limits = changes.pop("limits", {})
    settings: dict[str, Any] = {
        "max_turns": 10,
        "speakers": {
            name: EndpointConfig(base_url="http://host/v1", model="m", price=price, **limits)
            for name, price in prices.items()
        },
        "concurrency": 1000,
        "assumed": Assumptions(question_tokens=45.0, answer_tokens=310.0, latency_s=5.0),
        "seen": {},
    }
    return forecast(turns, **(settings | changes))


def test_the_papers_forty_thousand() -> None:
    # 40,000 first questions, 10 turns of 355 tokens: the asker reads 1 + 2 + ... + 9 = 45 turns,
    # and the answerer too, plus a question each time.
    found = plan([1] * 40_000)
    asker, answerer = found.speakers["asker"], found.speakers["answerer"]
    assert (asker.calls, answerer.calls) == (360_000, 400_000)
    assert asker.usage == Usage(40_000 * 45 * 355, 360_000 * 45)
    assert answerer.usage == Usage(40_000 * (45 * 355 + 10 * 45), 400_000 * 310)
    assert asker.usage.prompt == pytest.approx(0.64e9, rel=0.01)
    assert (asker.usd, answerer.usd) == (0.0, pytest.approx(0.657 * 500 + 0.124 * 1500))
    # 19 sequential calls of 5 s, 1,000 dialogues at once.
    assert found.hours == pytest.approx(40 * 19 * 5 / 3600)


def test_sessions_are_asked_on_from_where_they_are() -> None:
    found = plan([4, 19, 20])
    # 2 turns: 3 to 10 are missing. 9 turns and a question: one answer is missing. 10: none.
    assert found.speakers["asker"].calls == 8
    assert found.speakers["answerer"].calls == 8 + 1


def test_limits_of_an_endpoint_make_it_longer() -> None:
    assert plan([1], limits={"requests_per_minute": 1.0}).hours == pytest.approx(10 / 60)
    tokens = plan([1]).speakers["answerer"].usage.total
    limited = plan([1], limits={"tokens_per_minute": 100.0})
    assert limited.hours == pytest.approx(tokens / 100 / 60)


def test_what_was_seen_replaces_what_was_assumed_and_later_turns_go_on_from_it() -> None:
    seen = {
        ("answerer", 1): MeanCall(5, 100.0, 20.0, 1.0),
        ("asker", 2): MeanCall(5, 120.0, 10.0, 1.0),
    }
    found = plan([1], max_turns=2, seen=seen)
    # The second answer was not measured: its prompt is longer by one assumed turn.
    assert found.speakers["answerer"].usage == Usage(100 + (100 + 355), 20 + 20)
    assert found.speakers["asker"].usage == Usage(120, 10)
    assert found.hours == pytest.approx(3 / 3600)


def test_nobody_writes_more_than_max_tokens() -> None:
    found = plan([1], max_turns=2, limits={"max_tokens": 24})
    # Texts have at most 24 tokens, so the prompts are 24, then 24 + 24 + 24.
    assert found.speakers["answerer"].usage == Usage(24 + (24 + 24 + 24), 24 + 24)
    assert found.speakers["asker"].usage == Usage(24 + 24, 24)


def test_a_budget_that_will_not_do_is_named() -> None:
    limits = {"max_tokens": 100, "budget_tokens": 1000}
    assert plan([1], max_turns=1, limits=limits).speakers["answerer"].beyond_budget is None
    assert plan([1], limits=limits).speakers["answerer"].beyond_budget == "budget_tokens 1,000"
    spent = {"answerer": Usage(900, 0)}
    found = plan([1], max_turns=1, limits=limits, spent=spent)
    assert found.speakers["answerer"].beyond_budget == "budget_tokens 1,000"


def test_a_plan_refuses_what_a_collection_refuses(
    make_config: MakeConfig, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    with ScriptedServer() as server:
        config = make_config(server.url, answerer={"temperature": 0.5})
        collect(config)
        for changes, options in (
            ({"answerer": {"temperature": 0.7}}, []),
            ({"seed": 3}, []),
            ({"answerer": {"temperature": 0.5}}, ["--if-exists", "refuse"]),
        ):
            save_config(make_config(server.url, **changes), path)
            lines = []
            for verb in (["collect", "plan"], ["collect"]):
                assert main([*verb, str(path), *options]) == 2
                lines.append(capsys.readouterr().err)
            assert lines[0] == lines[1]
        # Allowed changes are planned: two more turns for four dialogues.
        save_config(make_config(server.url, answerer={"temperature": 0.5}, max_turns=5), path)
        assert main(["collect", "plan", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
    assert found["speakers"]["answerer"]["calls"] == 8


def test_a_price_that_nobody_knows_is_not_nothing() -> None:
    assert plan([1], prices={"asker": None}).speakers["asker"].usd is None


def test_before_the_first_call(
    make_config: MakeConfig, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    save_config(make_config("http://127.0.0.1:9/v1"), path)
    assert main(["collect", "plan", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # Two first questions and two sessions of one turn, extended to three turns.
    assert found["dialogues"] == 4
    assert found["speakers"]["asker"]["calls"] == 4 * 2
    assert found["speakers"]["answerer"]["calls"] == 2 * 3 + 2 * 2
    assert main(["collect", "plan", str(path)]) == 0
    assert "  answerer  10 calls, " in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_status_in_the_middle_of_a_run_and_after_it(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def script(body: dict[str, Any]) -> Scripted:
        with contextlib.closing(Collection(config.out)) as collection:
            seen.append(read_status(collection))
        return converse(body)

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=2, concurrency=1)
        collect(config)
    # The first dialogue takes 5 calls, the second 4; each is journaled on arrival.
    first, middle = seen[0], seen[6]
    assert (first.dialogues, first.open, first.stops) == (2, 2, {})
    assert sum(s.lost for s in first.speakers.values()) == 1
    assert sum(s.calls for s in first.left.speakers.values()) == 9
    assert (middle.open, middle.stops) == (1, {"max_turns": 1})
    assert sum(s.calls for s in middle.left.speakers.values()) == 3
    assert middle.calls_per_s == pytest.approx(6 / 60)
    assert middle.hours_left == pytest.approx(3 / (6 / 60) / 3600)

    capsys.readouterr()
    assert main(["collect", "status", config.out, "--json"]) == 0
    last = json.loads(capsys.readouterr().out)
    assert (last["open"], last["stops"]) == (0, {"max_turns": 2})
    assert sum(s["answered"] for s in last["speakers"].values()) == 9
    assert main(["collect", "status", config.out]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 dialogues ended" in printed
    assert "max_turns" in printed


def test_a_spent_budget_is_an_end_that_a_higher_one_undoes(make_config: MakeConfig) -> None:
    with ScriptedServer() as server:
        limits = {"max_tokens": 100, "budget_tokens": 200}
        config = make_config(server.url, rows=4, concurrency=1, answerer=limits)
        with pytest.raises(RunError, match="the answerer's budget of 200 tokens is spent"):
            collect(config)
        with contextlib.closing(Collection(config.out)) as collection:
            status = read_status(collection)
        assert status.stops["budget"] == 1
        assert status.open > 0
        assert "a higher budget resumes" in rendered(status)
        used = status.speakers["answerer"]
        assert used.prompt_tokens + used.completion_tokens + used.uncertain_tokens <= 200
        config = make_config(server.url, concurrency=1, answerer={"max_tokens": 100})
        summary = collect(config)
    assert (summary.stops, summary.unfinished) == ({"max_turns": 4}, 0)


def rendered(status: Any) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(status_view(status))
    return capture.get()
