"""A desk against a simple model of it, with a restart at any moment, and kills of the command."""

import contextlib
import http.client
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parrot_jax.annotate.desk import StaleError, VerdictDesk
from parrot_jax.annotate.tasks import TASKS
from parrot_jax.annotate.verdict_file import VerdictFile, read_annotation
from parrot_jax.cli import main
from parrot_jax.core.errors import DiskFullError

from .conftest import Client, Start, items_of, short_dialogues

NUM = 4
ACTIONS = st.tuples(
    st.sampled_from(["Ada", "Bo"]), st.sampled_from(["human-like", "not", "skip", "undo", "stale"])
)


@settings(max_examples=40)
@given(st.lists(ACTIONS, max_size=12), st.integers(0, 12))
def test_verdicts_and_undos_are_a_stack_that_survives_a_restart(
    actions: list[tuple[str, str]], restart: int
) -> None:
    stacks: dict[str, list[str]] = {"Ada": [], "Bo": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.sqlite")
        for part in (actions[:restart], actions[restart:]):
            with VerdictFile(path, {"task": "human-like"}, items_of(*[("a",)] * NUM)) as file:
                desk = VerdictDesk(file, TASKS["human-like"])
                for name, action in part:
                    _act(desk, stacks[name], name, action)
        found = read_annotation(path)
    for name, stack in stacks.items():
        given = [(one.item, one.value) for one in found.verdicts if one.annotator == name]
        assert sorted(given) == list(enumerate(stack, 1))


def _act(desk: VerdictDesk, stack: list[str], name: str, action: str) -> None:
    state = desk.state(name)
    assert state.done == len(stack)
    assert (state.shown is None) == (len(stack) == NUM)
    assert bool(state.undo) == bool(stack)
    if action == "undo" and stack:
        assert desk.undo(name, state.undo) == stack.pop()
    elif action == "stale" or (action != "undo" and state.shown is None):
        with pytest.raises(StaleError):
            desk.judge(name, str(len(stack)), "not", "")  # the item before
        with pytest.raises(StaleError):
            desk.judge(name, "0", "not", "")  # there is no such item
    elif action != "undo" and state.shown is not None:
        desk.judge(name, state.shown.token, action, "")
        stack.append(action)


@pytest.mark.slow
def test_what_the_server_confirmed_survives_a_kill_at_any_moment(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, num = tmp_path / "a.sqlite", 5000  # more than are judged during the slowest report
    file = short_dialogues(tmp_path / "own.jsonl", num)
    confirmed = 0

    def annotate(client: Client) -> None:
        nonlocal confirmed
        with contextlib.suppress(OSError, http.client.HTTPException):
            while client.judge("Ada", confirmed + 1, "not")[0] == 200:
                confirmed += 1
                time.sleep(0.002)

    for pause_s in (0.05, 0.4, 0.2):
        server = start(file, "--out", out)
        client = Client(server)
        client.sign_in()
        confirmed = len(read_annotation(out).verdicts)
        thread = threading.Thread(target=annotate, args=(client,))
        thread.start()
        time.sleep(pause_s)
        assert main(["annotate", "report", str(out)]) in (0, 2)  # 2: nobody has judged anything
        server.kill()
        thread.join(60)
        saved = [one.item for one in read_annotation(out).verdicts]
        # One more may be saved whose confirmation was lost.
        assert saved == [*range(1, len(saved) + 1)]
        assert confirmed <= len(saved) <= confirmed + 1
    assert 0 < confirmed < num


def test_a_full_disk_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    items = items_of(*[("a",)] * 500)
    with VerdictFile(tmp_path / "a.sqlite", {"task": "human-like"}, items) as file:
        desk = VerdictDesk(file, TASKS["human-like"])
        pages = file._db.execute("PRAGMA page_count").fetchone()[0]
        file._db.execute(f"PRAGMA max_page_count = {pages + 1}")
        numbers = map(str, range(1, 501))
        with pytest.raises(DiskFullError, match="no room left on the disk"):
            all(desk.judge("Ada", number, "not", "") for number in numbers)
        done = desk.state("Ada").done
        assert 0 < done < 500
        assert desk.state("Ada").shown is not None
        file._db.execute(f"PRAGMA max_page_count = {pages + 100}")
        desk.judge("Ada", str(done + 1), "skip", "")
    assert len(read_annotation(tmp_path / "a.sqlite").verdicts) == done + 1
