import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.contamination import (
    BenchmarkQuestion,
    ContaminationIndex,
    DecontaminateConfig,
    Decontamination,
    read_benchmark,
)
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources
from parrot_jax.dialogue.types import Dialogue, Turn
from parrot_jax.dialogue.words import normal_words

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
SHORT = "What is the capital city of Velora?"


def question(text, line=1):
    return BenchmarkQuestion("bench.jsonl", line, text)


def dialogue(*texts, id="d"):
    roles = ("user", "assistant")
    return Dialogue(turns=tuple(Turn(roles[n % 2], text) for n, text in enumerate(texts)), id=id)


def found(index, *texts, **options):
    return [(hit.turn, hit.overlap) for hit in index.hits(dialogue(*texts), **options)]


def test_thirteen_common_words_are_a_hit_and_twelve_are_none():
    index = ContaminationIndex([question(LONG)])
    words = LONG.split()
    assert found(index, "x " + " ".join(words[2:]) + " y") == [(1, " ".join(words[2:]))]
    assert found(index, "x " + " ".join(words[3:]) + " y") == []


def test_a_short_question_is_found_whole_without_case_and_punctuation():
    index = ContaminationIndex([question(SHORT)])
    assert found(index, "Tell me:\nwhat is THE capital city of velora") == [
        (1, "what is the capital city of velora")
    ]
    assert found(index, "What is the capital city of Peru?") == []


@pytest.mark.parametrize(
    ("asked", "other"),
    [
        ("How do I sort a list in C?", "How do I sort a list in C++?"),
        ("How do I sort a list in C#?", "How do I sort a list in C?"),
        ("What is the value of 3 + 4?", "What is the value of 3 - 4?"),
        ("What is the value of x²?", "What is the value of x2?"),
        ("What is the value of 1.5 there?", "What is the value of 15 there?"),
        ("कौन सी भाषा है कि वह", "कौन सी भाषा है की वह"),
    ],
)
def test_signs_numbers_and_marks_tell_questions_apart(asked, other):
    index = ContaminationIndex([question(asked)])
    assert len(found(index, f"Tell me: **{asked}** Thanks")) == 1
    assert found(index, f"Tell me: **{other}** Thanks") == []


def test_a_question_in_a_script_without_spaces_is_found():
    index = ContaminationIndex([question("กรุงเทพอยู่ที่ไหน")])
    assert len(found(index, "บอกหน่อยกรุงเทพอยู่ที่ไหนครับ")) == 1
    assert found(index, "บอกหน่อยเชียงใหม่อยู่ที่ไหนครับ") == []


def test_a_question_below_the_minimum_is_not_looked_for_but_listed():
    index = ContaminationIndex([question("Write a poem."), question(SHORT)])
    assert [item.text for item in index.too_short] == ["Write a poem."]
    assert index.num_questions == 1
    assert found(index, "Write a poem.") == []


def test_answers_count_only_on_demand():
    index = ContaminationIndex([question(SHORT)])
    assert found(index, "hi", SHORT) == []
    assert found(index, "hi", SHORT, all_turns=True) == [(2, "what is the capital city of velora")]


def test_a_question_that_two_turns_share_is_not_found_across_them():
    index = ContaminationIndex([question(SHORT)])
    assert found(index, "What is the capital", "x", "city of Velora?") == []


def test_each_question_is_reported_once_with_its_place():
    index = ContaminationIndex([question(LONG, 4), question(LONG + " sixteen", 9)])
    hits = index.hits(dialogue(LONG, "x", LONG, id="d7"))
    assert [(hit.dialogue, hit.turn, hit.benchmark) for hit in hits] == [
        ("d7", 1, "bench.jsonl:4"),
        ("d7", 1, "bench.jsonl:9"),
    ]
    assert hits[0].to_json()["question"] == LONG


WORDS = st.lists(st.sampled_from("abc"), max_size=12).map(" ".join)


@given(
    questions=st.lists(WORDS, max_size=4),
    text=WORDS,
    ngram=st.integers(1, 5),
    low=st.integers(1, 6),
)
def test_the_index_finds_what_a_plain_search_finds(questions, text, ngram, low):
    def runs(words, size):
        return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}

    expected = set()
    said = normal_words(text)
    for number, item in enumerate(questions):
        words = normal_words(item)
        size = min(ngram, len(words))
        if len(words) >= min(low, ngram) and runs(words, size) & runs(said, size):
            expected.add(number)
    index = ContaminationIndex(
        [question(item, number) for number, item in enumerate(questions)],
        ngram=ngram,
        min_words=low,
    )
    hits = index.hits(Dialogue(turns=(Turn("user", text + " ."),)))
    assert {int(hit.benchmark.split(":")[1]) for hit in hits} == expected


@pytest.mark.parametrize(
    ("name", "content", "questions"),
    [
        ("q.jsonl", '{"turns": ["a", "b"]}\n{"turns": ["c"]}', [(1, "a"), (1, "b"), (2, "c")]),
        ("q.txt", "a\n\n b \n", [(1, "a"), (3, "b")]),
        (
            "q.json",
            '[{"class": "x", "data": "a"},\n {"data": ["b", "answer", "c"]}]',
            [(1, "a"), (2, "b"), (2, "c")],
        ),
        (
            "q.json",
            '[{"instruction": "a"},\n{"text": "b"},\n{"question": "c"},\n"d"]',
            [(1, "a"), (2, "b"), (3, "c"), (4, "d")],
        ),
        (
            "q.jsonl",
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "z"},'
            ' {"role": "user", "content": "b"}]}',
            [(1, "a"), (1, "b")],
        ),
        ("q.jsonl", '{"conversation": [{"user": "a", "sys": "z"}]}', [(1, "a")]),
    ],
)
def test_all_forms_of_benchmark_files_are_read(tmp_path, name, content, questions):
    path = tmp_path / name
    path.write_text(content)
    read = [(item.line, item.text) for item in read_benchmark(path)]
    assert read == questions


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"turns": ["a"]}\n{broken\n', r"bench\.jsonl:2: not valid JSON"),
        ('{"words": "a"}\n', r"bench\.jsonl:1: the row has no question under any of turns"),
        ("\n", "has no benchmark questions"),
    ],
)
def test_a_benchmark_row_is_never_skipped_silently(tmp_path, content, text):
    (tmp_path / "bench.jsonl").write_text(content)
    with pytest.raises(UserError, match=text):
        read_benchmark(tmp_path / "bench.jsonl")


def test_the_step_drops_or_only_reports(tmp_path):
    path = tmp_path / "bench.jsonl"
    path.write_text(json.dumps({"turns": [SHORT]}))
    step = Decontamination(DecontaminateConfig(benchmarks=(str(path),)))
    clean = dialogue("hi")
    assert step(clean) is clean
    assert step(dialogue(SHORT)) == f"benchmark question of {path}"
    report = Decontamination(DecontaminateConfig(benchmarks=(str(path),), drop=False))
    asked = dialogue(SHORT, id="d3")
    assert report(asked) is asked
    assert report.to_json()["hits"] == 1
    assert report.to_json()["listed"][0]["dialogue"] == "d3"


def test_benchmarks_must_be_named():
    with pytest.raises(UserError, match=r"benchmarks is \(\); it must be one file or more"):
        DecontaminateConfig()


def test_mt_bench_is_found_in_the_first_questions_of_ultrachat(shared_data):
    index = ContaminationIndex(read_benchmark(shared_data / "mt_bench" / "question.jsonl"))
    # 80 dialogues of two turns; five questions are too short, e.g. "Can you parallelize it?".
    assert (index.num_questions, len(index.too_short)) == (155, 5)
    first = read_benchmark(shared_data / "dialogues" / "ultrachat_first_questions.json")
    hits = {number: index.hits(dialogue(item.text)) for number, item in enumerate(first)}
    overlaps = {number: found[0].overlap for number, found in hits.items() if found}
    assert list(overlaps) == [0, 56]
    assert overlaps[0].startswith("compose an engaging travel blog post about a recent trip to")


def test_mt_eval_holds_a_question_of_each_mt_bench_dialogue(shared_data):
    index = ContaminationIndex(read_benchmark(shared_data / "mt_bench" / "question.jsonl"))
    extended = read_benchmark(shared_data / "mt_eval" / "mt-bench_extended.jsonl")
    assert len(extended) == 400
    found_lines = {item.line for item in extended if index.hits(dialogue(item.text))}
    assert found_lines == set(range(1, 81))


def test_real_oasst_trees_hold_alpaca_eval_questions(shared_data):
    questions = read_benchmark(shared_data / "alpaca_eval/model_outputs/text_davinci_003.json")
    assert len(questions) == 805
    index = ContaminationIndex(questions)
    source = SourceConfig(kind="oasst", path=str(shared_data / "dialogues/oasst_trees.jsonl"))
    found_hits = [
        hit
        for item in read_sources([source], seed=0, report=ReadReport())
        for hit in index.hits(item)
    ]
    asked = {hit.question[:41] for hit in found_hits}
    assert "What is the best way to form a new habit?" in asked
