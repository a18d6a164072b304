"""CaPO's pairs in the world: made by the real command, and read by training."""

from pathlib import Path

from parrot_jax.dialogue.preference import kind_of
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources
from parrot_jax.dialogue.writers import write_messages
from parrot_jax.world.capo import count_errors, files_of_pairs, make_pairs
from parrot_jax.world.facts import make_world
from parrot_jax.world.people import people_dialogues


def test_pairs_are_the_answers_of_the_dialogues_and_wrong_ones(tmp_path: Path) -> None:
    world = make_world("hard", 0)
    dialogues = list(people_dialogues(world, "all", 4, num_rounds=6))
    write_messages(tmp_path / "dialogues.jsonl", dialogues)
    summary = make_pairs(
        world, tmp_path / "dialogues.jsonl", tmp_path / "negatives", seed=0, per_kind=9
    )
    by_id = {dialogue.id: dialogue for dialogue in dialogues}
    for kind, path in zip(summary.pairs, files_of_pairs(tmp_path / "negatives"), strict=True):
        report = ReadReport()
        source = SourceConfig(kind="preference", path=str(path))
        pairs = list(read_sources([source], seed=0, report=report))
        assert len(pairs) == summary.pairs[kind] == 9
        assert report.broken.total() == 0
        for pair in pairs:
            dialogue = by_id[pair.id.split("/")[0]]
            assert [t.text for t in pair.turns] == [
                t.text for t in dialogue.turns[: len(pair.turns)]
            ]
            assert pair.rejected is not None
            assert pair.rejected.text != pair.turns[-1].text
            assert kind_of(pair) == kind


def test_shares_of_errors_are_of_all_answers(tmp_path: Path) -> None:
    world = make_world("hard", 0)
    questions = [f"What is the river of {world.places[0]}?", f"And {world.places[1]}?"]
    path = tmp_path / "exam.jsonl"
    row = '{"questions": ["%s", "%s"], "answers": ["x", "y"], "right": [true, false]}'
    path.write_text(row % tuple(questions))
    found = count_errors(world, path)
    assert found["by_kind"] == {
        "neglect": 0, "hallucination": 0, "misunderstanding": 0, "wrong_fact": 0, "other": 0.5,
    }  # fmt: skip
    assert [turn["other"] for turn in found["by_turn"]] == [0, 1]
