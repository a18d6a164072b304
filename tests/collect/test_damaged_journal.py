"""Everything that reads a collection reports a damaged journal row in one line."""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from parrot_jax.api.scripted_server import ScriptedServer
from parrot_jax.collect.collect_config import BeginningsConfig, CollectConfig, SpeakerConfig
from parrot_jax.collect.export import export
from parrot_jax.collect.folder import Collection
from parrot_jax.collect.run import collect
from parrot_jax.collect.status import read_status
from parrot_jax.core.errors import UserError

DAMAGES = [
    ("UPDATE items SET input = '{\"messages\": 5}'", "row 0 of items"),
    ("UPDATE items SET input = '[1, 2'", "row 0 of items"),
    ("UPDATE replies SET verdict = 'no such reason' WHERE request = 1", "row 1 of replies"),
    ("UPDATE replies SET completion_tokens = 1 << 62 WHERE request = 1", "row 1 of replies"),
    # A single flipped bit: "w" is 0x77, "v" is 0x76.
    ("UPDATE reply_bodies SET text = replace(text, 'answer', 'ansver') WHERE request = 1",
     "row 1 of reply_bodies"),
    ("UPDATE reply_bodies SET body = replace(body, 'answer', 'ansver') WHERE request = 1",
     "row 1 of reply_bodies"),
    ("UPDATE starts SET config = '\"text\"'", "row 1 of starts"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "row"), DAMAGES)
def test_status_export_and_collect_name_the_row(damage: str, row: str, tmp_path: Path) -> None:
    beginnings = tmp_path / "beginnings.jsonl"
    beginnings.write_text('{"messages": [{"role": "user", "content": "What is a number?"}]}\n')
    with ScriptedServer() as server:
        speaker = SpeakerConfig(base_url=server.url, model="m")
        config = CollectConfig(
            out=str(tmp_path / "out"), asker=speaker, answerer=speaker, max_turns=1,
            beginnings=(BeginningsConfig(kind="messages", path=str(beginnings)),),
        )  # fmt: skip
        collect(config)
        with contextlib.closing(sqlite3.connect(tmp_path / "out" / "journal.sqlite")) as db, db:
            db.execute(damage)
            db.execute("DELETE FROM ends")

        def read(use: Callable[[Collection], object]) -> None:
            with contextlib.closing(Collection(config.out)) as collection:
                use(collection)

        with contextlib.suppress(UserError):  # the status does not read every row
            read(read_status)
        for run in (lambda: read(export), lambda: collect(config)):
            with pytest.raises(UserError, match=f"{row} in the journal .* is damaged") as error:
                run()
            assert "\n" not in str(error.value)
    assert len(server.bodies) == 1  # no further request
