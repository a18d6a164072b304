"""Selection and negatives, killed at several moments, give the bytes of a run that was not."""

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.scripted_server import Scripted, ScriptedServer
from parrot_jax.negatives.negatives_config import KINDS

from ..killing import run_killed
from .conftest import WriteConfig, WriteRivers, read, words

pytestmark = pytest.mark.slow


def reply(body: dict[str, Any]) -> Scripted:
    """Depends on the request alone; verdicts and answers are of both kinds."""
    text = json.dumps(body, sort_keys=True)
    number = int(hashlib.sha256(text.encode()).hexdigest(), 16)
    if "[[Y]]" in text:
        return Scripted(text="[[Y]]" if number % 3 else "[[N]]", delay_s=number % 7 / 100)
    said = words(text) if number % 4 else "I'm sorry, but I can't help with that."
    return Scripted(text=said, delay_s=number % 7 / 100)


@pytest.mark.parametrize(
    "kills_each",
    [pytest.param(3, id="small"), pytest.param(10, id="full", marks=pytest.mark.nightly)],
)
def test_a_run_that_was_killed_gives_the_pairs_of_one_that_was_not(
    kills_each: int, write_rivers: WriteRivers, write_config: WriteConfig, tmp_path: Path
) -> None:
    write_rivers(120)
    dice, results, kills = random.Random(5), [], []
    with ScriptedServer(reply, keeps_bodies=False) as server:
        for name, times in (("whole", 0), ("killed", kills_each)):
            out = tmp_path / name
            select = write_config(
                "endpoint", server.url, out=str(out / "selected"), method="judge", limit=60
            )
            build = write_config(
                "generator", server.url, out=str(out / "negatives"), per_kind=30,
                selection=str(out / "selected" / "selected.jsonl"),
            )  # fmt: skip
            for verb, config, journal in (
                ("select", select, out / "selected" / "select.sqlite"),
                ("build", build, out / "negatives" / "journal.sqlite"),
            ):
                command = [sys.executable, "-m", "parrot_jax.cli", "negatives", verb, str(config)]
                kills.append(run_killed(command, times=times, journal=journal, dice=dice))
            made = [f"negatives/pairs/{kind}.jsonl" for kind in KINDS]
            files = ("selected/selected.jsonl", "negatives/dropped.jsonl", *made)
            results.append([(out / file).read_bytes() for file in files])
    assert results[0] == results[1]
    assert sum(kills) > kills_each, kills
    pairs = read(tmp_path / "killed" / "negatives" / "pairs")
    assert len({pair["id"] for pair in pairs}) == len(pairs) == 90
    assert len(read(tmp_path / "killed" / "selected" / "selected.jsonl")) == 60
    assert len(read(tmp_path / "killed" / "negatives" / "dropped.jsonl")) > 10
