"""Self-ROUGE and MTLD, checked by hand and against reference packages."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from parrot_jax.dialogue.words import normal_words
from parrot_jax.stats.diversity import mtld, self_rouge

WORDS = st.lists(st.sampled_from("abcde"), max_size=30)


def test_rouge_l_of_two_questions_is_twice_the_common_words_by_all_words() -> None:
    # Common subsequence "make it", 3 + 5 words: 2 * 2 / 8.
    assert self_rouge([["make", "it", "short"], ["make", "the", "poem", "about", "it"]]) == 0.5


def test_order_counts_and_punctuation_does_not() -> None:
    assert self_rouge([normal_words("Red, blue!"), normal_words("blue red")]) == 0.5
    assert self_rouge([normal_words("Red, blue!"), normal_words("red blue")]) == 1.0


def test_one_question_has_no_self_rouge_and_no_words_have_nothing_in_common() -> None:
    assert self_rouge([["alone"]]) is None
    assert self_rouge([[], []]) == 0.0


def test_rouge_l_is_that_of_rouge_score_on_real_questions(shared_data: Path) -> None:
    scorer, compared = RougeScorer(["rougeL"]), 0
    for line in (shared_data / "dialogues" / "wildchat.jsonl").read_text().splitlines():
        messages = json.loads(line)["messages"]
        texts = [m["content"][:400] for m in messages if m["role"] == "user"]
        # rouge-score does not treat the underscore and other scripts as letters.
        texts = [text.replace("_", " ") for text in texts if text.isascii()]
        if len(texts) < 2:
            continue
        scores = [scorer.score(*two)["rougeL"].fmeasure for two in itertools.combinations(texts, 2)]
        ours = self_rouge([normal_words(text) for text in texts])
        assert ours == pytest.approx(sum(scores) / len(scores), abs=1e-12)
        compared += 1
    assert compared > 100


def test_a_factor_of_mtld_ends_where_different_words_are_too_few() -> None:
    # In both directions "a a" (share 1/2) ends a factor, twice: 4 words / 2 factors.
    assert mtld(list("aaaa")) == 2.0
    # Forwards, 18 distinct words of 25 are 0.72, not below: only the partial factor 1 at the end.
    words = [str(number) for number in range(18)] + ["0"] * 7
    # Backwards, "0 0" ends a factor three times; then one "0" and 18 words with 17 new ones follow.
    assert mtld(words) == pytest.approx((25 / 1 + 25 / (3 + (1 - 18 / 19) / 0.28)) / 2)


def test_a_text_without_repetition_counts_its_length() -> None:
    assert mtld(["what", "is", "a", "quasar"]) == 4.0
    assert mtld([]) is None


@given(WORDS.filter(bool))
def test_mtld_is_the_same_read_from_either_end_and_at_least_one(words: list[str]) -> None:
    assert mtld(words) == pytest.approx(mtld(words[::-1]))
    assert (mtld(words) or 0) >= 1


@given(st.lists(WORDS, min_size=2, max_size=5))
def test_self_rouge_is_a_share_and_knows_no_order_of_questions(questions: list[list[str]]) -> None:
    rouge = self_rouge(questions)
    assert rouge is not None
    assert 0 <= rouge <= 1
    assert self_rouge(questions[::-1]) == pytest.approx(rouge)
