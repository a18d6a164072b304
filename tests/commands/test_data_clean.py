import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from parrot_jax.commands.data_clean import DataCleanConfig, run
from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.contamination import DecontaminateConfig
from parrot_jax.dialogue.dedup import ExactDuplicatesConfig, NearDuplicatesConfig
from parrot_jax.dialogue.language import LanguageConfig
from parrot_jax.dialogue.markdown import HtmlConfig
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.dialogue.splitting import RoundsConfig, SplitConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "data"
ASKED = "Which river flows through the old town of Velora?"


def conversation(name, *texts):
    turns = [
        {"from": "gpt" if number % 2 else "human", "value": text}
        for number, text in enumerate(texts)
    ]
    return {"id": name, "conversations": turns}


@pytest.fixture
def raw(tmp_path):
    """A small raw ShareGPT file; each name says what cleaning must do with it."""
    good = "Please tell me how I should water the plants on my balcony in a hot summer."
    other = "I would like to learn how a suspension bridge carries the load of its road."
    answer = "<p>Water them early in the <strong>morning</strong>, and again in the evening.</p>"
    text = " ".join(f"word{number}" for number in range(60))
    winter = "And in winter, how often is enough then?"
    baking = ("Wie backe ich ein gutes Brot?", "Mit viel Geduld.", "Und wie lange?", "Einen Tag.")
    refusal = ("No, I will not do that.", "Why not?", "I would be tired.")
    rows = [
        conversation("kept", good, answer, winter, "Rarely."),
        conversation("exact", good.upper(), answer, winter, "rarely."),
        conversation("german", *baking),
        conversation("asked", ASKED.lower(), "The river Sel flows there.", "Why?", "It is low."),
        conversation("single", other, "By its cables, which hang from two towers."),
        conversation("near-1", f"Say these words: {text}", *refusal),
        conversation("near-2", f"Say those words: {text}", *refusal),
        {"id": "broken", "conversations": [{"from": "referee", "value": "x"}]},
    ]
    (tmp_path / "raw.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "bench.jsonl").write_text(json.dumps({"turns": [ASKED]}))
    return tmp_path


def full_config(folder, **more):
    settings = {
        "sources": (SourceConfig(kind="sharegpt", path=str(folder / "raw.json")),),
        "out": str(folder / "out" / "clean.jsonl"),
        "html": HtmlConfig(),
        "language": LanguageConfig(languages=("en",)),
        "exact_duplicates": ExactDuplicatesConfig(ignore_case=True),
        "decontaminate": DecontaminateConfig(benchmarks=(str(folder / "bench.jsonl"),)),
        "near_duplicates": NearDuplicatesConfig(threshold=0.7),
        "rounds": RoundsConfig(min_rounds=2),
    }
    return DataCleanConfig(**(settings | more))


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_each_dirty_dialogue_meets_its_step(raw, capsys):
    config = full_config(raw)
    run(config)
    rows = rows_of(config.out)
    assert [row["id"] for row in rows] == ["kept", "near-1"]
    assert rows[0]["messages"][1] == {
        "role": "assistant",
        "content": "Water them early in the **morning**, and again in the evening.",
    }
    report = json.loads(Path(config.out + ".report.json").read_text())
    assert report["written"] == 2
    assert report["read"]["broken"] == {"unknown role 'referee'": 1}
    assert [(step["step"], step["seen"], step["kept"]) for step in report["steps"]] == [
        ("html", 7, 7),
        ("language", 7, 6),
        ("exact_duplicates", 6, 5),
        ("decontaminate", 5, 4),
        ("near_duplicates", 4, 3),
        ("rounds", 3, 2),
    ]
    assert report["steps"][1]["dropped"] == {"language de": 1}
    (hit,) = report["contamination"]["listed"]
    assert (hit["dialogue"], hit["question"]) == ("asked", ASKED)
    assert report["config"]["near_duplicates"]["threshold"] == 0.7
    printed = capsys.readouterr().out
    assert "read 8 rows: 7 dialogues, 1 rejected" in printed
    assert "wrote 2 dialogues" in printed


def test_the_same_input_gives_the_same_bytes_in_another_process(raw):
    config = full_config(raw)
    run(config)
    outputs = [Path(config.out), Path(config.out + ".report.json")]
    first = [path.read_bytes() for path in outputs]
    # Another process has another hash seed.
    (raw / "config.json").write_bytes(TypeAdapter(DataCleanConfig).dump_json(config))
    code = (
        "import sys, pathlib, pydantic\n"
        "from parrot_jax.commands.data_clean import DataCleanConfig, run\n"
        "text = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "run(pydantic.TypeAdapter(DataCleanConfig).validate_json(text))\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code, str(raw / "config.json")], check=True, cwd=root)
    assert [path.read_bytes() for path in outputs] == first


def test_without_steps_the_file_is_only_converted(raw):
    config = DataCleanConfig(
        sources=(SourceConfig(kind="sharegpt", path=str(raw / "raw.json"), limit=2),),
        out=str(raw / "plain.jsonl"),
    )
    run(config)
    assert [row["id"] for row in rows_of(config.out)] == ["kept", "exact"]


def test_reported_hits_are_kept_where_nothing_is_to_be_dropped(raw):
    settings = DecontaminateConfig(benchmarks=(str(raw / "bench.jsonl"),), drop=False)
    config = full_config(raw, decontaminate=settings)
    run(config)
    assert "asked" in [row["id"] for row in rows_of(config.out)]
    report = json.loads(Path(config.out + ".report.json").read_text())
    assert report["contamination"]["dialogues_with_hits"] == 1


def test_splitting_counts_with_the_real_tokenizer(raw, llama_tokenizer_model):
    # The two rounds have 44 and 14 tokens.
    split = SplitConfig(tokenizer=str(llama_tokenizer_model), max_tokens=57, tokens_per_turn=0)
    config = DataCleanConfig(
        sources=(SourceConfig(kind="sharegpt", path=str(raw / "raw.json"), limit=1),),
        out=str(raw / "split.jsonl"),
        split=split,
    )
    run(config)
    assert [row["id"] for row in rows_of(config.out)] == ["kept", "kept#2"]
    assert [len(row["messages"]) for row in rows_of(config.out)] == [2, 2]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"split": SplitConfig()}, "set split.tokenizer to the tokenizer of the model"),
        ({"split": SplitConfig(tokenizer="no.model")}, "there is no tokenizer at no.model"),
        ({"language": LanguageConfig(languages=("xx",))}, r"language codes \['xx'\] are unknown"),
    ],
)
def test_an_impossible_run_is_a_user_error_and_writes_nothing(raw, changes, text):
    config = full_config(raw, **changes)
    with pytest.raises(UserError, match=text):
        run(config)
    assert not list(raw.glob("out/*"))


def test_where_nothing_is_left_the_report_says_why(raw, capsys):
    """All questions of the file are from the benchmark."""
    asked = conversation("all", ASKED, "The river Sel flows there.", "Why?", "It is low.")
    (raw / "raw.json").write_text(json.dumps([asked, asked | {"id": "again"}]))
    config = full_config(raw, exact_duplicates=None)
    with pytest.raises(UserError, match="no dialogue is left .* decontaminate dropped 2; .*clean"):
        run(config)
    assert [path.name for path in raw.glob("out/*")] == ["clean.jsonl.report.json"]
    report = json.loads((raw / "out" / "clean.jsonl.report.json").read_text())
    assert (report["written"], report["contamination"]["dialogues_with_hits"]) == (0, 2)
    assert "decontaminate" in capsys.readouterr().out
    # The output of an earlier run stays.
    (raw / "out" / "clean.jsonl").write_text("before")
    with pytest.raises(UserError, match="no dialogue is left"):
        run(config)
    assert (raw / "out" / "clean.jsonl").read_text() == "before"


def test_a_file_that_is_no_tokenizer_is_a_user_error(raw):
    config = full_config(raw, split=SplitConfig(tokenizer=str(raw / "raw.json")))
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        run(config)


def test_the_input_is_never_overwritten(raw):
    with pytest.raises(UserError, match="so the input would be overwritten"):
        run(full_config(raw, out=str(raw / "raw.json")))


def test_weights_above_one_belong_to_training(raw):
    source = SourceConfig(kind="sharegpt", path=str(raw / "raw.json"), weight=2.0)
    with pytest.raises(
        UserError, match="weight is 2.0; cleaning writes each dialogue at most once"
    ):
        run(full_config(raw, sources=(source,)))


def test_a_seed_out_of_range_is_a_user_error(raw):
    with pytest.raises(UserError, match="seed is -1; it must be in"):
        full_config(raw, seed=-1)


@pytest.mark.slow
def test_the_real_files_are_cleaned_together(shared_data, tmp_path):
    folder = shared_data / "dialogues"
    config = DataCleanConfig(
        sources=(
            SourceConfig(kind="messages", path=str(folder / "wildchat.jsonl")),
            SourceConfig(kind="oasst", path=str(folder / "oasst_trees.jsonl")),
        ),
        out=str(tmp_path / "clean.jsonl"),
        html=HtmlConfig(),
        language=LanguageConfig(languages=("en",)),
        exact_duplicates=ExactDuplicatesConfig(),
        decontaminate=DecontaminateConfig(
            benchmarks=(str(shared_data / "mt_bench" / "question.jsonl"),)
        ),
        near_duplicates=NearDuplicatesConfig(),
        rounds=RoundsConfig(min_rounds=2),
    )
    run(config)
    report = json.loads((tmp_path / "clean.jsonl.report.json").read_text())
    assert (report["read"]["rows"], report["read"]["dialogues"]) == (345, 871)
    seen, kept = report["steps"][0]["seen"], report["written"]
    dropped = sum(sum(step["dropped"].values()) for step in report["steps"])
    assert (seen, kept) == (871, 871 - dropped)


@pytest.mark.parametrize("name", ["sharegpt_70k.yaml", "decontaminate.yaml"])
def test_the_configs_of_the_project_load(name):
    text = (CONFIGS / name).read_text()
    for word in ("Purpose ", "Hardware ", "Hours ", f"parrot data clean configs/data/{name}"):
        assert word in text
    config = TypeAdapter(DataCleanConfig).validate_python(yaml.safe_load(text))
    assert config.decontaminate is not None


def test_the_command_imports_nothing_slow():
    code = (
        "import sys, parrot_jax.commands.data_clean\n"
        "slow = {'jax', 'flax', 'torch', 'transformers', 'numpy', 'markdownify', 'bs4',"
        " 'py3langid', 'datasketch', 'sentencepiece', 'datasets'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    root = Path(__file__).resolve().parents[2]
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True
    )
    assert output.stdout == "[]\n"
