"""The meaning of all other keys of rows and messages, in one table for all formats.

Texts and speakers are read by `messages` and `readers`. Every other key is handled here: it sets
the loss weight; it rejects the row, because the answer is marked as bad or the row has content that
is not text; it is metadata; or it is ignored, counted and reported. Keys that are not in the table
are ignored too. A key whose value is null counts as absent.

The names come from OpenAI, Mistral, TRL, axolotl, LLaMA-Factory, ms-swift, OpenAssistant, WildChat,
LMSYS and common data sets of the hub.
"""

import functools
import re
from collections import Counter
from collections.abc import Collection, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeGuard

from parrot_jax.dialogue.raw_rows import BrokenRowError

SYSTEM_KEYS = ("system", "system_prompt", "system_message", "meta_instruction", "instruction")
"""Columns with the system text of a row, unless they are its question."""


WEIGHTS = (1e-12, 1e12)
"""Range of loss weights besides 0: the product of two fits float32."""


class Rule(Enum):
    """How a key is handled."""

    WEIGHT = "a number >= 0 or a boolean: the loss weight"
    ONE = "rejected unless it is 1: parts of a message cannot have weights"
    MEASURE = "false, or a word such as bad: the answer is bad"
    GOOD = "as MEASURE; also a number < 0"
    LABEL = "as MEASURE; also a number <= 0"
    BAD = "true, or a count other than 0: the answer is bad"
    EMPTY = "rejected unless empty"
    FINAL = "rejected unless it is the channel of answers"
    SORT = "a word such as bad: the answer is bad; else metadata"
    SORT_OF_MESSAGE = "as SORT; a word such as reasoning: the text is not an answer"
    HARMLESS = "kept as metadata"
    REPORTED = "ignored and reported, unless empty"


_BAD_ANSWER = "the answer is bad"
_PAIR = "this is a preference pair (kind: preference), not a dialogue"
_MEDIA = "part of it is not text"
_TOKENS = "it masks parts of a text, which is not supported"
_REASONING = "the text is reasoning, not an answer"

# Rule, reason for rejection, names in lower case.
_GROUPS: tuple[tuple[Rule, str, str], ...] = (
    (
        Rule.WEIGHT,
        _TOKENS,  # for a part of a message
        "weight loss_weight sample_weight loss_scale loss train training trainable train_on learn",
    ),
    (Rule.MEASURE, _BAD_ANSWER, "score quality labels"),
    (
        Rule.GOOD,
        _BAD_ANSWER,
        "review_result rating feedback verdict judgment judgement vote status preference",
    ),
    (
        Rule.LABEL,
        _BAD_ANSWER,
        "label kto_tag desirable is_desirable accepted is_accepted approved correct is_correct "
        "good is_good valid is_valid thumbs_up upvoted liked helpful is_helpful passed keep "
        "include",
    ),
    (
        Rule.BAD,
        _BAD_ANSWER,
        "bad is_bad undesirable thumbs_down downvoted disliked incorrect is_incorrect wrong "
        "deleted is_deleted spam is_spam exclude excluded skip skipped ignore ignored discard "
        "discarded removed invalid is_rejected low_quality is_error hallucination",
    ),
    (
        Rule.EMPTY,
        _BAD_ANSWER,
        "deleted_at deleted_by deleted_date deletion_reason removed_at removed_by rejected_at "
        "rejected_by rejected_reason rejection_reason reject_reason discarded_at excluded_at",
    ),
    (
        Rule.EMPTY,
        _PAIR,
        "chosen rejected chosen_response rejected_response chosen_messages rejected_messages "
        "preferred_output non_preferred_output conversation_a conversation_b response_a "
        "response_b",
    ),
    (
        Rule.EMPTY,
        _MEDIA,
        "image images audio audios video videos image_url image_urls image_path image_paths "
        "input_audio pixel_values",
    ),
    (
        Rule.EMPTY,
        _TOKENS,
        "train_detail train_details mask masks masked loss_mask loss_masks completion_mask "
        "assistant_mask assistant_masks weights loss_weights",
    ),
    (Rule.BAD, "the text is only the start of a message", "prefix partial"),
    (Rule.EMPTY, "the text is not in the content", "refusal"),
    (
        Rule.HARMLESS,
        "",
        "id uuid idx index hash source dataset dataset_name origin url license licence model "
        "model_name generator language lang locale date time timestamp created created_at "
        "create_time update_time updated_at version topic task subject domain "
        "title turn turns turn_identifier num_turns country header hashed_ip "
        "conversation_id conversation_hash message_id message_tree_id parent_id prompt_id "
        "dialogue_id question_id user_id created_date tool_call_id tree_id "
        "tree_state openai_moderation detoxify_moderation parallel_tool_calls annotations "
        "collection kinds",
    ),
    (Rule.SORT, _BAD_ANSWER, "type kind category tags tag state"),
    (
        Rule.REPORTED,
        "",
        "tools functions toxic redacted flagged reasoning reasoning_content reasoning_details "
        "thinking thoughts name rank reward",
    ),
)
_RULES = {name: rule for rule, _, names in _GROUPS for name in names.split()}
_WHY = {name: why for _, why, names in _GROUPS for name in names.split()}

ROW_KEYS: Mapping[str, Rule] = MappingProxyType(_RULES)
MESSAGE_KEYS: Mapping[str, Rule] = MappingProxyType(
    {
        **{
            name: Rule.SORT_OF_MESSAGE if rule is Rule.SORT else rule
            for name, rule in _RULES.items()
        },
        "channel": Rule.FINAL,
    }
)
PART_KEYS: Mapping[str, Rule] = MappingProxyType(
    {
        **{name: Rule.ONE if rule is Rule.WEIGHT else rule for name, rule in MESSAGE_KEYS.items()},
        "cache_control": Rule.HARMLESS,
    }
)
_WHY["channel"] = _REASONING


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BAD_WORDS = _words(
    "bad rejected reject negative undesirable incorrect wrong invalid thumbs_down thumbsdown "
    "thumb_down dislike disliked downvote downvoted deleted discarded discard excluded removed "
    "hidden spam fail failed failure poor worse worst terrible awful low_quality unsafe toxic "
    "harmful unacceptable inappropriate inadequate unhelpful untrue inaccurate "
    "disapproved declined denied loser lose lost error hallucination hallucinated 👎 -1"
)
# The words above that rate an answer and never describe a topic.
_BAD_SORTS = _words(
    "bad rejected reject undesirable incorrect wrong invalid thumbs_down thumbsdown disliked "
    "downvoted deleted discarded discard excluded removed failed low_quality unacceptable spam"
)
_GOOD_WORDS = _words(
    "good accepted accept positive desirable correct valid thumbs_up thumbsup like liked upvote "
    "upvoted chosen approved pass passed safe acceptable helpful okay great excellent better best "
    "keep kept"
)
_REASONING_WORDS = _words(
    "reasoning reasoning_content reason thinking think thought thoughts chain_of_thought cot "
    "scratchpad reflection analysis commentary inner_monologue redacted_thinking"
)
_BOOLEAN_WORDS = _words("true false yes no y n on off 0 1")
_JUDGING = (*(Rule.MEASURE, Rule.GOOD, Rule.LABEL, Rule.BAD, Rule.SORT, Rule.SORT_OF_MESSAGE),)
_NAMES_OF_VALUES = _words("value label name rating verdict answer")
_EMPTY_TEXTS = frozenset({"", "[]", "{}", "null", "none"})


def read_keys(
    owner: Mapping[str, Any],
    table: Mapping[str, Rule],
    *,
    read: Collection[str],
    where: str,
    passed_over: Counter[str],
) -> tuple[float, set[str]]:
    """Handles the keys of a row or a message that are not text of the dialogue.

    Args:
      owner: The row or the message.
      table: `ROW_KEYS` or `MESSAGE_KEYS`.
      read: Keys that were already read.
      where: `"row"`, or the message, e.g. `"message 2"`.
      passed_over: Counts the ignored keys, as `'key' of a row` or `'key' of a message`.

    Returns:
      The product of the loss weights (1 if there are none), and their keys.

    Raises:
      BrokenRowError: A key rejects the row, or its value has the wrong type.

    >>> read_keys({"train": False, "x": 1}, MESSAGE_KEYS, read=(), where="message 1",
    ...           passed_over=(counts := Counter()))
    (0.0, {'train'})
    >>> counts
    Counter({"'x' of a message": 1})
    """
    weight, honoured = 1.0, set[str]()
    detail = "" if where == "row" else where
    for key, value in owner.items():
        if value is None or key in read:
            continue
        name = plain_key(key)
        rule = table.get(name)
        if rule is Rule.WEIGHT and not (where == "row" and name == "loss" and _is_number(value)):
            weight = checked_weight(key, weight * _read_weight(key, value, detail), detail)
            honoured.add(key)
            continue
        if found := _bad_within(value, table, rule):
            inner, seen, why = found
            raise BrokenRowError(f"{f'{key}.{inner}'!r} is {_shown(seen)}, so {why}", detail)
        verdict = "reported" if rule is None else _verdict(rule, value)
        if verdict in ("bad", "reasoning"):
            seen = "not empty" if rule is Rule.EMPTY else _shown(value)
            why = _REASONING if verdict == "reasoning" else _WHY[name]
            raise BrokenRowError(f"{key!r} is {seen}, so {why}", detail)
        if verdict == "wrong type":
            raise BrokenRowError(f"{key!r} is {_shown(value)}, not a boolean", detail)
        if verdict == "reported":
            passed_over[f"{key!r} of a {where.split()[0]}"] += 1
    return weight, honoured


@functools.lru_cache(maxsize=4096)
def plain_key(key: str) -> str:
    """Normalises a key for the table.

    >>> plain_key("lossWeight"), plain_key("Thumbs-Down"), plain_key("KTOTag")
    ('loss_weight', 'thumbs_down', 'kto_tag')
    """
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", key)
    return re.sub(r"[\s-]+", "_", snake.strip()).lower()


def plain_word(value: Any) -> str:
    """Normalises a text for the lists of words; empty for any other value.

    >>> plain_word(" Not good. "), plain_word(False)
    ('not_good', '')
    """
    if not isinstance(value, str):
        return ""
    return re.sub(r"(?<=\w)[\s-]+(?=\w)", "_", value[:99].strip(" \t\r\n.!?,;:'\"*")).lower()


def is_empty(value: Any) -> bool:
    """Whether a value is empty: null, false, an empty text or list, or only such values.

    >>> [is_empty(value) for value in (None, "[]", [None], {"bytes": None}, 0, "a.jpg")]
    [True, True, True, True, False, False]
    """
    if isinstance(value, str):
        return value.strip().lower() in _EMPTY_TEXTS
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    if isinstance(value, list):
        return all(map(is_empty, value))
    return value is None or value is False


def _bad_within(
    value: Any, table: Mapping[str, Rule], outer: Rule | None
) -> tuple[str, Any, str] | None:
    """Looks for a bad mark one level down; returns its key, its value, and the reason.

    `outer` is the rule of the enclosing key, whose value may be under `value` or similar. Objects
    in a list under an unknown key may be other answers, so they are ignored.
    """
    if outer is not None and outer is not Rule.HARMLESS and outer not in _JUDGING:
        return None
    owners = value if isinstance(value, list) and outer is not None else [value]
    for key, inner in (
        each for owner in owners if isinstance(owner, Mapping) for each in owner.items()
    ):
        name = plain_key(key)
        rule = table.get(name)
        if rule not in _JUDGING and name in _NAMES_OF_VALUES:
            rule = outer
        if rule in _JUDGING and _verdict(rule, inner) == "bad":
            return key, inner, _BAD_ANSWER
        if rule is Rule.WEIGHT and (inner is False or (name != "loss" and inner == 0)):
            return key, inner, "it must be set on the row or the message"
    return None


def _verdict(rule: Rule, value: Any) -> str:
    """Returns `fine`, `bad`, `reasoning`, `wrong type` or `reported`."""
    if rule is Rule.HARMLESS:
        return "fine"
    if rule in (Rule.EMPTY, Rule.REPORTED):
        return "fine" if is_empty(value) else "bad" if rule is Rule.EMPTY else "reported"
    if rule is Rule.FINAL:
        return "fine" if value in ("", "final") else "bad"
    if rule is Rule.ONE:
        return "fine" if value in (1, True) else "bad"
    if isinstance(value, list | Mapping) and not value:
        return "fine"
    if isinstance(value, list):
        found = {_verdict(rule, each) for each in value if each is not None}
        return next(
            (each for each in ("bad", "reasoning", "wrong type", "reported") if each in found),
            "fine",
        )
    if rule in (Rule.SORT, Rule.SORT_OF_MESSAGE):
        word = plain_word(value)
        if rule is Rule.SORT_OF_MESSAGE and word in _REASONING_WORDS:
            return "reasoning"
        return "bad" if word in _BAD_SORTS else "fine"
    if isinstance(value, bool):
        return "bad" if value is (rule is Rule.BAD) else "fine"
    if isinstance(value, str):
        return _verdict_of_word(rule, plain_word(value))
    if not _is_number(value) or rule is Rule.MEASURE:
        return "reported"
    if rule is Rule.BAD:
        return "reported" if 0 < value < 1 else "bad" if value else "fine"
    is_bad = value < 0 or (value == 0 and rule is Rule.LABEL)
    return "bad" if is_bad else "fine" if rule is Rule.LABEL and value in (0, 1) else "reported"


def _is_bad_word(word: str) -> bool:
    bare = re.sub(r"^(?:not|non|un|in|dis)_?", "", word)
    return word in _BAD_WORDS or (bare != word and bare in _GOOD_WORDS)


def _verdict_of_word(rule: Rule, word: str) -> str:
    if word in _BOOLEAN_WORDS:
        return "wrong type"
    if _is_bad_word(word):
        return "bad"
    return "fine" if word in _GOOD_WORDS and rule is not Rule.BAD else "reported"


def _read_weight(key: str, value: Any, detail: str) -> float:
    if isinstance(value, bool):
        return float(value)
    if not _is_number(value):
        raise BrokenRowError(f"{key!r} is {_shown(value)}, not a number or boolean", detail)
    # A JSON integer may be larger than any float.
    return checked_weight(key, value, detail)


def checked_weight(key: str, value: float, detail: str = "") -> float:
    """Checks that a loss weight is 0 or within `WEIGHTS`.

    Raises:
      BrokenRowError: It is not.
    """
    low, high = WEIGHTS
    # A JSON integer may be larger than any float; NaN fails every comparison.
    if not (value == 0 or low <= value <= high):
        raise BrokenRowError(f"{key!r} is neither 0 nor from {low:g} to {high:g}", detail)
    return float(value)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """Describes a value in a few words, from a limited number of texts."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        word = plain_word(value)
        short = _is_bad_word(word) or word in _BOOLEAN_WORDS or word in _REASONING_WORDS
        short = short or (len(value) <= 20 and word.isidentifier())
        return repr(value.strip()) if short else "a text"
    if _is_number(value):
        return str(value) if abs(value) < 1000 else "a large number"
    return "an object" if isinstance(value, Mapping) else "a list"
