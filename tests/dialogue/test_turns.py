from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.dialogue.readers import parse_messages
from parrot_jax.dialogue.turns import RowPlace, repair_turns
from parrot_jax.dialogue.types import Dialogue, Turn


def repaired(spoken):
    """Parses `"u:a a:b"`; returns the repaired turns in the same form, and the repairs."""
    repairs = Counter()
    roles = {"u": "user", "a": "assistant"}
    pairs = [piece.split(":") for piece in spoken.split()]
    turns = repair_turns([Turn(roles[who], text) for who, text in pairs], repairs)
    return " ".join(f"{turn.role[0]}:{turn.text}" for turn in turns), dict(repairs)


def test_good_turns_stay_as_they_are():
    assert repaired("u:1 a:2 u:3") == ("u:1 a:2 u:3", {})


def test_a_blank_turn_is_dropped_and_its_neighbours_merged():
    assert repaired("u:1 a: u:3 a:4") == (
        "u:1\n\n3 a:4",
        {"blank turn dropped": 1, "two turns of one speaker merged": 1},
    )


def test_an_opening_answer_is_dropped_after_merging():
    assert repaired("a:0 a:1 u:2 a:3") == (
        "u:2 a:3",
        {
            "two turns of one speaker merged": 1,
            "answer before the first question dropped": 1,
        },
    )


def test_nothing_is_left_where_the_user_never_speaks():
    assert repaired("a:1 u: a:2")[0] == ""


def test_the_smaller_weight_wins_where_turns_are_merged():
    turns = [Turn("user", "a", 1.0), Turn("user", "b", 0.0)]
    assert repair_turns(turns, Counter()) == (Turn("user", "a\n\nb", 0.0),)


TURNS = st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), st.sampled_from(" xy")))


@given(turns=TURNS)
def test_repaired_turns_always_make_a_dialogue_and_lose_no_user_text(turns):
    repairs = Counter()
    result = repair_turns(turns, repairs)
    said = [turn.text for turn in turns if turn.role == "user" and turn.text.strip()]
    if result:
        Dialogue(turns=result)
        kept = "\n\n".join(turn.text for turn in result if turn.role == "user")
        assert kept.split("\n\n") == said
    else:
        assert said == []
    assert repair_turns(result, Counter()) == result


def build(*messages, **row):
    (dialogue,) = parse_messages({"messages": list(messages), **row}, RowPlace("a/file.json", 3))
    return dialogue


def user(content, **more):
    return {"role": "user", "content": content, **more}


def test_speakers_of_all_formats_and_cases_are_known():
    names = ["Human", "GPT", "user", "ChatGPT", "USER", "bard", "human", "Bing", "user", " gpt"]
    messages = [{"from": name, "value": "x"} for name in names]
    roles = [turn.role for turn in build(*messages).turns]
    assert roles == ["user", "assistant"] * 5


def test_system_texts_at_the_start_are_joined():
    system = {"role": "system", "content": "Be kind."}
    blank = {"role": "system", "content": " "}
    dialogue = build(system, blank, {"role": "system", "content": "Be short."}, user("hi"))
    assert dialogue.system == "Be kind.\n\nBe short."


def test_text_parts_are_joined_line_by_line():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert build(user(parts)).turns == (Turn("user", "a\nb"),)


def test_the_weight_of_a_message_is_the_weight_of_its_turn():
    assert build(user("a", weight=0), user("", weight=None)).turns == (Turn("user", "a", 0.0),)


def test_a_row_without_an_id_is_named_after_its_place():
    assert build(user("hi")).id == "file.json:3"
    assert build(user("hi"), id="").id == "file.json:3"
    assert build(user("hi"), id=7).id == "7"
    assert build(user("hi")).source == "a/file.json"


def test_the_source_that_a_row_names_is_kept():
    dialogue = build(user("hi"), source="wildchat", model="m")
    assert (dialogue.source, dict(dialogue.metadata)) == ("wildchat", {"model": "m"})


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "referee", "content": "x"}, "unknown role 'referee'"),
        ({"role": 7, "content": "x"}, "unknown role 'int'"),
        ({"role": None, "content": "x"}, "a message has no 'role'"),
        ({"role": "user", "from": "gpt", "content": "x"}, "a message has two speakers"),
        ({"role": "user"}, "a message has no 'content'"),
        ({"from": "human", "texts": "x"}, "a message has no 'value'"),
        ("hello", "a message is not an object"),
        (user(None), "a message has no 'content'"),
        (user(5), "content is a number, not text"),
        (user({"text": "x"}), "content is an object, not text"),
        (user([{"type": "image_url", "image_url": "x"}]), "content part of type 'image_url'"),
        (user([{"type": "text", "words": "x"}]), "a content part of type 'text' has no 'text'"),
        (user("x", weight="1"), "'weight' is '1', not a number or boolean"),
        (user("x", weight=-1), "'weight' is neither 0 nor from 1e-12 to 1e+12"),
        (user("x", weight=10**400), "'weight' is neither 0 nor from 1e-12 to 1e+12"),
        (user("x", tool_calls=[{"name": "w"}]), "a tool call by the user"),
        (user("\ud800"), "text is not valid Unicode"),
        ({"role": "system", "content": "x"}, "system text after the first turn"),
    ],
)
def test_what_needs_a_guess_is_broken(message, reason):
    with pytest.raises(BrokenRowError) as caught:
        build(user("first"), message)
    assert caught.value.reason == reason


def test_messages_that_are_no_list_and_dialogues_without_a_user_are_broken():
    with pytest.raises(BrokenRowError, match="the messages are not a list"):
        parse_messages({"messages": "hi"}, RowPlace("f", 1))
    with pytest.raises(BrokenRowError, match="no user turn"):
        build()
    with pytest.raises(BrokenRowError, match="no user turn"):
        build({"role": "assistant", "content": "x"})
