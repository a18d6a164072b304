"""Pieces join to the reply: white space, stop strings, multi-byte characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.data.tokenizers import Tokenizer, load_tokenizer
from parrot_jax.serve.engine import first_stop
from parrot_jax.serve.reply_text import ReplyText


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer) -> Tokenizer:
    return load_tokenizer(tiny_tokenizer)


def pieces_of(
    tokenizer: Tokenizer,
    parts: list[list[int]],
    stop: tuple[str, ...] = (),
    *,
    is_turn: bool = True,
) -> tuple[list[str], ReplyText]:
    reply = ReplyText(tokenizer, stop, is_turn=is_turn)
    pieces = []
    for number, ids in enumerate(parts, 1):
        pieces.append(reply.add(ids, is_last=number == len(parts)))
        if reply.stopped:
            break
    return pieces, reply


def encoded(tokenizer: Tokenizer, text: str) -> list[list[int]]:
    """Returns the ids of a text, one per part."""
    return [[index] for index in tokenizer.encode([tokenizer.eos_token + text])[0][1:]]


def test_a_character_comes_when_its_last_byte_is_there(tokenizer: Tokenizer) -> None:
    # The tokenizer has neither character; they are three and four byte tokens.
    parts = encoded(tokenizer, " hello 你🙂 bye")
    pieces, _ = pieces_of(tokenizer, parts)
    assert "".join(pieces) == "hello 你🙂 bye"
    assert not any("�" in piece for piece in pieces)
    (whole,) = [piece for piece in pieces if "你" in piece]
    assert "🙂" in whole  # consecutive byte tokens are decoded together


def test_bytes_that_are_no_character_are_what_the_decoder_makes_of_them(
    tokenizer: Tokenizer,
) -> None:
    ids = tokenizer.encode([tokenizer.eos_token + " a你b"])[0][1:]
    cut = ids[:-2]  # without the last byte token and "b"
    assert "".join(pieces_of(tokenizer, [[index] for index in cut])[0]) == "a��"


def test_a_turn_has_no_nul_which_no_client_could_store(tokenizer: Tokenizer) -> None:
    parts = encoded(tokenizer, " a\0b")
    assert "".join(pieces_of(tokenizer, parts)[0]) == "a�b"
    assert "".join(pieces_of(tokenizer, parts, is_turn=False)[0]) == " a\0b"


def test_white_space_is_trimmed_outside_and_kept_inside(tokenizer: Tokenizer) -> None:
    pieces, _ = pieces_of(tokenizer, encoded(tokenizer, " \n hello \n  bye \n "))
    assert "".join(pieces) == "hello \n  bye"
    assert "".join(pieces_of(tokenizer, encoded(tokenizer, "  \n "))[0]) == ""
    kept, _ = pieces_of(tokenizer, encoded(tokenizer, " hello "), is_turn=False)
    assert "".join(kept) == " hello "


def test_no_part_of_a_stop_string_leaks(tokenizer: Tokenizer) -> None:
    parts = encoded(tokenizer, " hello river hills bye")
    pieces, reply = pieces_of(tokenizer, parts, ("river hills", "never"))
    assert ("".join(pieces), reply.stopped) == ("hello ".strip(), True)
    assert tokenizer.decode(reply.ids).endswith("river hills")
    # Text that only looked like a stop string is returned.
    pieces, reply = pieces_of(tokenizer, parts, ("river hillside",))
    assert ("".join(pieces), reply.stopped) == ("hello river hills bye", False)


def test_of_two_stop_strings_the_one_that_is_complete_first_ends_the_reply() -> None:
    assert first_stop("abcdef", ["bcde", "c"]) == 2
    assert first_stop("abcdef", ["cd", "bcd"]) == 1
    assert first_stop("abcdef", ["x"]) is None


@given(data=st.data())
def test_pieces_join_to_the_trimmed_text_however_the_ids_come(
    data: st.DataObject, tokenizer: Tokenizer
) -> None:
    """For any ids: invalid bytes, special tokens, white space."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=25))
    stop = tuple(data.draw(st.lists(st.text("elo wr\n�", min_size=1, max_size=3), max_size=3)))
    whole = tokenizer.decode(ids).replace("\0", "�")
    at = first_stop(whole, stop)
    pieces, reply = pieces_of(tokenizer, [[index] for index in ids] or [[]], stop)
    assert "".join(pieces) == whole[:at].strip()
    assert reply.stopped == (at is not None)
    if not stop:
        assert reply.ids == ids
        shown, _ = pieces_of(tokenizer, [[index] for index in ids] or [[]], is_turn=False)
        assert "".join(shown) == tokenizer.show(ids)
