import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.clean import StepCounts, keep_unless, run_step
from parrot_jax.dialogue.dedup import (
    EXACT_REASON,
    NEAR_REASON,
    ExactDuplicates,
    ExactDuplicatesConfig,
    NearDuplicates,
    NearDuplicatesConfig,
)
from parrot_jax.dialogue.language import LanguageConfig, language_filter
from parrot_jax.dialogue.phrases import asks_back
from parrot_jax.dialogue.repeats import comparable, most_similar
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources
from parrot_jax.dialogue.splitting import RoundsConfig, SplitConfig, rounds_filter, split_dialogue
from parrot_jax.dialogue.types import Dialogue, Turn
from parrot_jax.dialogue.words import normal_words


def dialogue(*texts, **more):
    roles = ("user", "assistant")
    return Dialogue(turns=tuple(Turn(roles[n % 2], text) for n, text in enumerate(texts)), **more)


def count_words(text):
    return len(text.split())


def test_a_step_counts_what_it_keeps_drops_and_changes():
    def step(item):
        return {"a": item, "b": "too dull", "c": (dialogue("c1"), dialogue("c2"))}[
            item.turns[0].text
        ]

    counts = StepCounts("demo")
    kept = list(run_step([dialogue("a"), dialogue("b"), dialogue("c")], step, counts))
    assert [item.turns[0].text for item in kept] == ["a", "c1", "c2"]
    assert counts.to_json() == {
        "step": "demo",
        "seen": 3,
        "kept": 3,
        "changed": 2,
        "dropped": {"too dull": 1},
    }


def test_a_predicate_becomes_a_step():
    step = keep_unless(lambda item: "short" if item.num_rounds < 2 else None)
    long = dialogue("a", "b", "c")
    assert step(long) is long
    assert step(dialogue("a")) == "short"


def test_words_ignore_case_punctuation_and_spaces_and_split_chinese():
    assert normal_words("It's  NEW: ﬁne-art, 42!") == ["it", "s", "new", "fine", "art", "42"]
    assert normal_words("你好 world") == ["你", "好", "world"]


DIFFERENT = [
    ("What is C?", "What is C++?", "What is C#?"),
    ("3 + 4", "3 - 4", "3 * 4", "3 / 4", "3 4", "34", "3.4", "-3 + 4", "(3 + 4)", "3 – 4!"),
    ("x2", "x²", "x³", "½", "1 2"),
    ("great", "great 😀", "great 😢", "great 👍", "great 👍🏽"),
    ("résumé", "resume", "Maße", "Masse"),
    ("นา", "น้า", "น่า"),  # Thai: field, aunt, face
    ("कि", "की", "का"),  # Hindi: that, of (she), of (he)
    ("f(x)", "f[x]", "f{x}", "f x"),
    ("50 %", "$50", "50 €", "50"),
    ("a_b", "a b", "a & b", "a | b", "a @ b"),
]


@pytest.mark.parametrize("texts", DIFFERENT)
def test_what_differs_is_neither_a_duplicate_nor_a_repeat(texts):
    exact = ExactDuplicates(ExactDuplicatesConfig())
    ignoring = ExactDuplicates(ExactDuplicatesConfig(ignore_case=True))
    near = NearDuplicates(NearDuplicatesConfig(threshold=1.0), seed=0)
    for text in texts:
        whole = dialogue("Please tell me about this in a few words: " + text)
        assert [step(whole) for step in (exact, ignoring, near)] == [None] * 3, text
    assert len({comparable(text) for text in texts}) == len(texts)


def test_a_question_with_another_sign_or_number_is_no_repeat():
    asked = "Can you please write a program in C that prints the first {} prime numbers?"
    first, other = (comparable(asked.format(number)) for number in (100, 200))
    cpp = comparable(asked.format(100).replace("in C", "in C++"))
    longer = comparable(asked.format(100).replace("first", "very first"))
    assert most_similar(first, [first], 95.0) == 100
    assert most_similar(longer, [first], 95.0) > 96
    assert most_similar(cpp, [first], 95.0) == most_similar(other, [first], 95.0) == 0


def test_what_is_typed_in_another_way_has_the_same_words():
    assert comparable("Cafe\u0301, PLEASE - “now”") == comparable("café please - now")
    assert comparable("ＡＢＣ１２") == comparable("abc12")
    assert comparable("well-known don't") == comparable("well known don t")


def test_the_answers_of_scripts_without_spaces_are_counted_by_their_letters():
    answer = "您能告诉我更多关于您想去的地方的信息吗？"
    assert asks_back(answer, most_words=30)
    assert not asks_back(answer, most_words=10)


# Language

ENGLISH = dialogue("How do I bake a good loaf of bread at home?", "Mix flour, water and yeast.")
FRENCH = dialogue("Comment faire du bon pain à la maison ?", "Mélangez la farine et l'eau.")


def test_the_language_filter_keeps_its_languages_and_names_the_others():
    english = language_filter(LanguageConfig(languages=("en",)))
    assert english(ENGLISH) is None
    assert english(FRENCH) == "language fr"
    both = language_filter(LanguageConfig(languages=("en", "fr")))
    assert both(FRENCH) is None


def test_code_does_not_speak_and_too_little_text_is_kept():
    code = "```python\nfor wert in werte: drucke(wert) # alle Werte der Liste werden gedruckt\n```"
    keep = language_filter(LanguageConfig(languages=("en",)))
    assert keep(dialogue("Why does this loop print nothing at all, please?", code)) is None
    assert keep(dialogue("1+1?", "2")) is None


TRACE = 'Traceback (most recent call last):\n  File "/a/b.py", line 3, in f\n    foo()\nOSError: x'


@pytest.mark.parametrize(
    "asked",
    [
        "Fix this: def f(x): return [i for i in range(x) if i%2==0 and i**2>10]",
        f"Why does this fail?\n{TRACE}",
        "SELECT a FROM b WHERE c = 1 ORDER BY d; make it faster please",
        "Solve $\\int_0^1 x^2 dx = \\frac{1}{3}$ step by step please",
        "docker run -it --rm -v /tmp:/tmp ubuntu bash fails with permission denied why",
        "curl -X POST https://api.example.org/v1/foo -H 'Content-Type: application/json'",
        "John Smith, Maria Garcia, Wei Chen, Anna Kowalska, Giovanni Rossi",
        "Write a haiku in Japanese about the autumn rain",
        "Translate to French: good morning my friend",
        "hi",
    ],
)
def test_english_with_code_names_or_a_translation_stays(asked):
    keep = language_filter(LanguageConfig(languages=("en",)))
    code = "def f(x):\n    return [i for i in range(x) if i % 2 == 0 and i ** 2 > 10]"
    french = "Bonjour mon ami. J'espère que vous passez une très bonne journée aujourd'hui."
    answers = (code, french) if "French" in asked else (code,)
    assert [keep(dialogue(asked, answer)) for answer in answers] == [None] * len(answers)


@pytest.mark.parametrize(
    ("asked", "language"),
    [
        ("def f(x): return x\n# wie sortiere ich diese Liste nach dem zweiten Element?", "de"),
        ("请介绍一下北京有哪些好玩的地方，以及怎么去那里", "zh"),
        ("```python\nprint('this is an English text')\n```\nПочему это не работает сейчас?", "ru"),
        ("¿Cómo puedo mejorar mi inglés rápidamente? Use https://example.org/a/b?c=d", "es"),
    ],
)
def test_another_language_with_code_goes(asked, language):
    keep = language_filter(LanguageConfig(languages=("en",)))
    assert keep(dialogue(asked, "x = [f(i) for i in y]")) == f"language {language}"


def test_only_the_first_characters_count():
    keep = language_filter(LanguageConfig(languages=("en",), max_chars=60))
    assert keep(dialogue(ENGLISH.turns[0].text + " And then?" * 3, FRENCH.turns[0].text)) is None


def test_an_unknown_language_is_a_user_error():
    with pytest.raises(UserError, match=r"language codes \['english'\] are unknown; choose"):
        language_filter(LanguageConfig(languages=("english",)))


def test_the_languages_of_real_dialogues(shared_data):
    path = str(shared_data / "dialogues" / "wildchat.jsonl")
    keep = language_filter(LanguageConfig(languages=("en",)))
    source = SourceConfig(kind="messages", path=path)
    reasons = Counter(keep(item) for item in read_sources([source], seed=0, report=ReadReport()))
    # Most of the WildChat sample is English; the exact number depends on the classifier.
    assert 200 <= reasons[None] <= 215
    assert {"language es", "language fr", "language pt"} <= set(reasons)


# Duplicates


def test_exact_duplicates_are_equal_in_every_character_a_model_sees():
    step = ExactDuplicates(ExactDuplicatesConfig())
    assert step(dialogue("Is it cafe\u0301?", "Hi!")) is None
    assert step(dialogue(" Is it café?", "Hi!\n", id="other")) == EXACT_REASON
    assert step(dialogue("Is it café", "Hi!")) is None
    assert step(dialogue("Is IT café?", "Hi!")) is None
    assert step(dialogue("Is  it café?", "Hi!")) is None
    assert step(dialogue("Is it café?", "Hi!", system="Be kind.")) is None
    assert step(dialogue("Is it café?Hi!")) is None
    assert step(dialogue("?")) is None
    assert step(dialogue("!")) is None


def test_exact_duplicates_may_differ_in_case_and_spaces_if_told():
    step = ExactDuplicates(ExactDuplicatesConfig(ignore_case=True))
    assert step(dialogue("Hello there", "Hi!")) is None
    assert step(dialogue("hello\n THERE", "hi!")) == EXACT_REASON
    assert step(dialogue("hello there.", "hi!")) is None


def words(seed, number):
    rng = random.Random(seed)
    return [f"w{rng.randrange(10_000)}" for _ in range(number)]


def test_a_near_duplicate_is_dropped_and_a_half_equal_one_kept():
    text = words(0, 200)
    step = NearDuplicates(NearDuplicatesConfig(threshold=0.8), seed=0)
    assert step(dialogue(" ".join(text))) is None
    one_word_changed = [*text[:100], "changed", *text[101:]]  # similarity 191 / 201 shingles = 0.95
    assert step(dialogue(" ".join(one_word_changed))) == NEAR_REASON
    half = text[:100] + words(1, 100)  # similarity 96 / 296 shingles = 0.32
    assert step(dialogue(" ".join(half))) is None


@pytest.mark.parametrize("permutations", [64, 128])
def test_a_threshold_of_1_drops_equal_shingles_only(permutations):
    config = NearDuplicatesConfig(threshold=1.0, num_permutations=permutations)
    step = NearDuplicates(config, seed=0)
    text = words(0, 50)
    outcomes = [step(dialogue(" ".join(t))) for t in (text, [*text[:-1], "changed"], text)]
    assert outcomes == [None, None, NEAR_REASON]


def test_short_texts_are_near_only_if_equal():
    step = NearDuplicates(NearDuplicatesConfig(), seed=0)
    outcomes = [step(dialogue(text)) for text in ("hi", "hi there", "Hi!", "?", "!")]
    assert outcomes == [None, None, NEAR_REASON, None, None]


def test_near_duplicates_are_found_at_the_threshold_and_repeatably():
    def outcomes(seed):
        step = NearDuplicates(NearDuplicatesConfig(threshold=0.7), seed=seed)
        found = []
        for number in range(40):
            text = words(number, 120)
            step(dialogue(" ".join(text)))
            # The last 10 words differ: 106 of 126 shingles are common, a similarity of 0.84.
            found.append(step(dialogue(" ".join(text[:110] + words(number + 999, 10)))))
        return found

    assert outcomes(3) == outcomes(3)
    assert sum(outcome == NEAR_REASON for outcome in outcomes(3)) >= 38


# Splitting


def test_a_long_dialogue_is_split_in_front_of_user_turns():
    long = dialogue("a b", "c d", "e f", "g h", "i j", id="x")
    pieces = split_dialogue(long, max_tokens=8, count=count_words)
    assert [(piece.id, [turn.text for turn in piece.turns]) for piece in pieces] == [
        ("x", ["a b", "c d", "e f", "g h"]),
        ("x#2", ["i j"]),
    ]
    assert split_dialogue(long, max_tokens=10, count=count_words) == (long,)


def test_the_system_text_counts_in_every_piece_and_templates_in_every_turn():
    long = dialogue("a", "b", "c", "d", id="x", system="s s s")
    pieces = split_dialogue(long, max_tokens=6, count=count_words)
    assert [len(piece.turns) for piece in pieces] == [2, 2]
    assert all(piece.system == "s s s" for piece in pieces)
    # 3 + 4 words, plus 2 template tokens for each of 5 texts = 17.
    assert len(split_dialogue(long, max_tokens=17, count=count_words, tokens_per_turn=2)) == 1
    assert len(split_dialogue(long, max_tokens=16, count=count_words, tokens_per_turn=2)) == 2


def test_a_single_round_that_is_too_long_stays_whole():
    long = dialogue("a", "b", "c " * 50, "d", "e", "f", id="x")
    pieces = split_dialogue(long, max_tokens=10, count=count_words)
    assert [len(piece.turns) for piece in pieces] == [2, 2, 2]


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    system_size=st.integers(0, 3),
    max_tokens=st.integers(1, 20),
)
def test_no_turn_is_lost_and_no_piece_could_hold_the_next_round(sizes, system_size, max_tokens):
    long = dialogue(*("w " * size for size in sizes), system="s " * system_size)
    pieces = split_dialogue(long, max_tokens=max_tokens, count=count_words)
    assert tuple(turn for piece in pieces for turn in piece.turns) == long.turns

    def size(turns):
        return system_size + sum(count_words(turn.text) for turn in turns)

    for piece in pieces:
        assert size(piece.turns) <= max_tokens or len(piece.turns) <= 2
    for piece, following in itertools.pairwise(pieces):
        assert size(piece.turns + following.turns[:2]) > max_tokens


def test_rounds_are_the_questions():
    reason = rounds_filter(RoundsConfig(min_rounds=2, max_rounds=3))
    outcomes = [reason(dialogue(*"abcdefgh"[:turns])) for turns in (2, 3, 6, 7)]
    assert outcomes == ["fewer than 2 rounds", None, None, "more than 3 rounds"]


@pytest.mark.parametrize(
    ("config", "settings", "text"),
    [
        (LanguageConfig, {"min_probability": 1.5}, "min_probability is 1.5; it must be"),
        (LanguageConfig, {"languages": ()}, r"languages is \(\); it must be"),
        (NearDuplicatesConfig, {"threshold": 0.0}, "threshold is 0.0; it must be above 0"),
        (NearDuplicatesConfig, {"num_permutations": 8}, "num_permutations is 8; it must be >= 16"),
        (SplitConfig, {"max_tokens": 0}, "max_tokens is 0; it must be >= 1"),
        (RoundsConfig, {"min_rounds": 3, "max_rounds": 2}, "max_rounds is 2; it must be null or"),
    ],
)
def test_a_setting_out_of_range_is_a_user_error(config, settings, text):
    with pytest.raises(UserError, match=text):
        config(**settings)
