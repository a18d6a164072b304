"""The report of runs: their numbers, what differs, and text as text."""

import json
import re
from pathlib import Path

import pytest

from parrot_jax.api.scripted_server import ScriptedServer, converse
from parrot_jax.cli import main
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.run import collect
from parrot_jax.core.config import config_from_dict
from parrot_jax.core.errors import UserError
from parrot_jax.runs.writing import write_report

from .test_training_files import write_run


def words(page: Path) -> str:
    """The visible text without charts, with normalised white space."""
    bare = re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", bare).replace("\xa0", " ").split())


def test_one_run_has_its_last_figures_samples_and_config(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    hostile = "<script>alert(1)</script>\x1b[2J"
    sample = {"step": 5, "dialogue": "d1", "text": hostile, "truth": "Hello."}
    (folder / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    page = tmp_path / "page.html"
    write_report([str(folder)], page)
    said = words(page)
    assert "run: step 5 of 10." in said
    assert "loss at the end 1.6 8 at the start" in said
    assert "live tokens per second 200 median in training steps 2 s" in said
    assert "talks.jsonl 30 20" in said
    assert "batch_rows: 4" in said
    assert "<script" not in page.read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;␛[2J" in page.read_text()


def test_several_runs_show_what_differs_and_all_are_drawn(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / name / "run", config={"optim": {"lr": lr}, "out": name})
        for name, lr in (("a", 1e-3), ("b", 2e-3), ("c", 1e-3), ("d", 1e-3))
    ]
    page = tmp_path / "page.html"
    write_report([str(folder) for folder in folders], page)
    said = words(page)
    assert "Key a/run b/run c/run d/run optim.lr 0.001 0.002 0.001 0.001 Data" in said
    # Three lines fit a chart, so the fourth has another one.
    assert "Loss: a/run, b/run, c/run" in page.read_text()
    assert "Loss: d/run" in page.read_text()


def test_a_real_run_is_reported_and_listed(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(trained_run), "--out", str(page)]) == 0
    assert re.search(r"held-out perplexity [\d.]+ user turns", words(page))
    assert main(["runs", str(trained_run.parent), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert (run["kind"], run["state"]) == ("asker", "finished")
    assert Path(run["path"]) == trained_run


def test_collections_are_put_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "<script>alert(1)</script>"
    questions = [{"messages": [{"role": "user", "content": f"{n}? {hostile}"}]} for n in range(4)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    folders = []
    with ScriptedServer(converse) as server:
        for name, most in (("short", 2), ("long", 4)):
            folders.append(str(tmp_path / name))
            speaker = {"base_url": server.url, "model": "m"}
            config = {
                "out": folders[-1], "asker": speaker, "answerer": speaker, "max_turns": most,
                "beginnings": [{"kind": "messages", "path": str(tmp_path / "questions.jsonl")}],
                "stops": {"repeated_question": None, "language_switch": None},
            }  # fmt: skip
            collect(config_from_dict(CollectConfig, config, where="test"))
    page = tmp_path / "page.html"
    assert main(["report", *folders, "--out", str(page)]) == 0
    said = words(page)
    assert "short: 4 of 4 dialogues have ended; long: 4 of 4 dialogues have ended." in said
    assert "questions in a dialogue 2.00 short questions in a dialogue 4.00 long" in said
    assert "max_turns 4 (100.0 %) 4 (100.0 %)" in said
    # Two answers and a question, and four and three.
    assert "short asker 4 0" in said
    assert "long answerer 16 0" in said
    assert "Dialogue 0: max_turns" in said
    assert "<script" not in page.read_text()
    assert main(["runs", str(tmp_path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "long collection finished 4 of 4 items" in out


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(UserError, match="empty"):
        write_report([str(tmp_path / "empty")], tmp_path / "page.html")
    with pytest.raises(UserError, match="some of these folders are training runs and some are not"):
        write_report([str(run), str(tmp_path)], tmp_path / "page.html")


def test_a_page_replaces_no_other_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    before = (run / "config.yaml").read_text()
    assert main(["report", str(run), "--out", str(run / "config.yaml")]) == 2
    assert "config.yaml; the name of a page must end in .html." in capsys.readouterr().err
    assert (run / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("metrics.jsonl", '{"step": 1, "loss": Infinity}', "has no step with a loss yet"),
        ("metrics.jsonl", '{"step": 1, "loss": 2.0, "live_tokens": 0}', "has no step with a loss"),
        ("metrics.jsonl", '{"step": 1, "loss": 2}\n{"loss": 2}', "a line has no step"),
        ("data.json", '{"train": {"rows": 3, "sources": [1]}}', "train has no list of sources"),
        ("data.json", '{"train": [1]}', "train has no list of sources"),
        ("results/eval-1.json", '{"step": null}', "step is None"),
        ("results/eval-1.json", '{"step": 1, "user_ppl_by_turn": 5}', "user_ppl_by_turn is 5"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, text: str, said: str) -> None:
    run = write_run(tmp_path / "run")
    (run / file).write_text(text + "\n")
    with pytest.raises(UserError, match=f"{file}.*{said}"):
        write_report([str(run)], tmp_path / "page.html")


def test_a_copy_of_a_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for name in ("4", "4-copy"):
        (run / "checkpoints" / name).mkdir(parents=True)
        (run / "checkpoints" / name / "_CHECKPOINT_METADATA").touch()
    write_report([str(run)], tmp_path / "page.html")
    assert "run has checkpoints of the steps 4." in words(tmp_path / "page.html")
