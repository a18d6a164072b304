"""Tool calls and their results are part of the answer's turn and are never trained on."""

from collections import Counter

import pytest

from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.dialogue.readers import parse_messages, parse_sharegpt
from parrot_jax.dialogue.turns import RowPlace, repair_turns
from parrot_jax.dialogue.types import Dialogue, Turn
from parrot_jax.dialogue.writers import messages_row, sharegpt_row

CALL = {"id": "1", "type": "function", "function": {"name": "w", "arguments": '{"city": "Oslo"}'}}


def read(*messages):
    place = RowPlace("f", 1)
    (dialogue,) = parse_messages({"messages": list(messages)}, place)
    return dialogue, place.repairs


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **keys):
    return {"role": "assistant", "content": text, **keys}


def test_openai_calls_and_results_are_the_context_of_the_answer():
    dialogue, repairs = read(
        user("Weather?"),
        assistant(None, tool_calls=[CALL]),
        {"role": "tool", "tool_call_id": "1", "name": "w", "content": "3 C"},
        assistant("Cold."),
        user("Thanks"),
    )
    context = '{"name": "w", "arguments": {"city": "Oslo"}}\n\n3 C'
    answer = Turn("assistant", "Cold.", context=context)
    assert dialogue.turns == (Turn("user", "Weather?"), answer, Turn("user", "Thanks"))
    assert dialogue.messages()[1]["content"] == f"{context}\n\nCold."
    assert repairs == {"tool call or result kept as context": 2}


@pytest.mark.parametrize(
    ("call", "result"),
    [("function_call", "observation"), ("tool_call", "tool"), ("tool_calls", "function_response")],
)
def test_so_are_those_of_sharegpt(call, result):
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": call, "value": '{"name": "w"}'},
            {"from": result, "value": "sun"},
            {"from": "gpt", "value": "Sunny."},
        ]
    }
    (dialogue,) = parse_sharegpt(row, RowPlace("f", 1))
    assert dialogue.turns[1] == Turn("assistant", "Sunny.", context='{"name": "w"}\n\nsun')


def test_what_is_said_before_a_call_is_context_too():
    dialogue, _ = read(
        user("Weather?"),
        assistant("Let me look.", function_call={"name": "w", "arguments": "{broken"}),
        {"role": "function", "name": "w", "content": {"degrees": 3}},
        assistant("Cold."),
    )
    assert dialogue.turns[1].context == (
        'Let me look.\n\n{"name": "w", "arguments": "{broken"}\n\n{"degrees": 3}'
    )


def test_a_turn_that_is_all_context_is_never_learnt():
    dialogue, _ = read(user("Weather?"), assistant("", tool_calls=[CALL]), user("Hello?"))
    assert [turn.weight for turn in dialogue.turns] == [1.0, 0.0, 1.0]
    assert dialogue.turns[1].text == '{"name": "w", "arguments": {"city": "Oslo"}}'


def test_the_weight_of_the_answer_is_that_of_its_text():
    dialogue, _ = read(user("Weather?"), assistant("Hm.", weight=0, tool_calls=[CALL]),
                       assistant("Cold.", weight=0.5))  # fmt: skip
    assert dialogue.turns[1].weight == 0.5


@pytest.mark.parametrize("row_of", [messages_row, sharegpt_row])
def test_context_is_written_and_read_again(row_of):
    turns = (Turn("user", "a"), Turn("assistant", "b", 0.5, "call\n\nresult"), Turn("user", "c"))
    written = Dialogue(turns=turns, id="7", source="f")
    parse = parse_messages if row_of is messages_row else parse_sharegpt
    (dialogue,) = parse(row_of(written), RowPlace("f", 1))
    assert [turn.context for turn in dialogue.turns] == ["", "call\n\nresult", ""]
    assert [turn.text for turn in dialogue.turns] == ["a", "b", "c"]
    if row_of is messages_row:
        assert dialogue == written
    assert dialogue.content_hash() == written.content_hash()


def test_context_counts_when_dialogues_are_compared():
    plain = Dialogue(turns=(Turn("user", "a"), Turn("assistant", "b")))
    other = Dialogue(turns=(Turn("user", "a"), Turn("assistant", "b", context="c")))
    assert plain.content_hash() != other.content_hash()


def test_users_have_no_context():
    with pytest.raises(ValueError, match="turn 1 is the user's and has a context"):
        Dialogue(turns=(Turn("user", "a", context="c"),))
    with pytest.raises(BrokenRowError, match="a tool call by the user"):
        read({**user("a"), "tool_calls": [CALL]})


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_is_finite_and_no_less_than_zero(weight: float) -> None:
    with pytest.raises(ValueError, match=f"turn 1 has weight {weight}; it must be finite"):
        Dialogue(turns=(Turn("user", "Hi", weight),))


def test_repairing_again_changes_nothing():
    once = repair_turns(
        [Turn("user", "a"), Turn("assistant", "", context="c"), Turn("assistant", "b")], Counter()
    )
    assert once == (Turn("user", "a"), Turn("assistant", "b", context="c"))
    assert repair_turns(once, Counter()) == once


@pytest.mark.parametrize(
    ("name", "role"), [("developer", "system"), ("model", "assistant"), ("bot", "assistant")]
)
def test_other_names_of_speakers(name, role):
    dialogue, _ = read({"role": name, "content": "x"}, user("a"), assistant("b"))
    assert dialogue.system == ("x" if role == "system" else "")


def test_keys_that_are_null_are_absent():
    message = {"role": None, "content": None, "from": "human", "value": "hi", "tool_calls": None}
    dialogue, _ = read({**user("a"), "from": None}, assistant("b", refusal=None), message)
    assert [turn.text for turn in dialogue.turns] == ["a", "b", "hi"]


@pytest.mark.parametrize("key", ["text", "value", "content"])
def test_text_parts_hold_their_text_under_any_of_its_names(key):
    dialogue, _ = read({"role": "user", "content": [{"type": "text", key: "hi"}]})
    assert dialogue.turns[0].text == "hi"


def test_langchain_names_the_speaker_as_the_type():
    dialogue, _ = read({"type": "human", "content": "a"}, {"type": "ai", "content": "b"})
    assert [turn.role for turn in dialogue.turns] == ["user", "assistant"]
    for key, name in (("from", "gpt"), ("type", "ai"), ("type", "tool_result")):
        with pytest.raises(BrokenRowError, match="two speakers"):
            read({"role": "user", key: name, "content": "a"})


@pytest.mark.parametrize("kind", [{"type": "function_call"}, {"kind": "tool_use"}])
def test_a_message_that_is_a_call_by_its_type_is_context(kind):
    dialogue, _ = read(user("a"), assistant("w()", **kind), assistant("b"))
    assert dialogue.turns[1] == Turn("assistant", "b", context="w()")


def test_the_text_that_is_filled_counts():
    dialogue, _ = read(
        user("a"), {**assistant(""), "text": "b"}, user("c"), {**assistant("d"), "text": "d"}
    )
    assert [turn.text for turn in dialogue.turns] == ["a", "b", "c", "d"]
