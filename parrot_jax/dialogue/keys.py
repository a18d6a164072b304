"""What the keys of a row and of a message mean, in every format we know: one table.

The texts and speakers are read by `messages` and `readers`. Every other key comes here, and one of
five things happens to it: it sets the loss weight; it refuses the row, because the row says that
its answer is bad or holds what a dialogue of texts cannot; it is harmless metadata; or it is passed
over, counted and named. A key that is not in the table is passed over too. Null is no value: such
a key is absent.

The names are those of OpenAI, Mistral, TRL, axolotl, LLaMA-Factory, ms-swift, OpenAssistant,
WildChat, LMSYS and the usual data sets of the hub.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

from parrot_jax.dialogue.json_stream import BrokenRowError

SYSTEM_KEYS = ("system", "system_prompt", "system_message", "meta_instruction", "instruction")
"""Columns that hold the system text of a row, unless they are its question."""


class Rule(Enum):
    """What is done about a key."""

    WEIGHT = "a number >= 0 or a boolean: the loss weight"
    GOOD = "false, or a word such as bad: the answer is bad"
    LABEL = "as GOOD, and so is a number <= 0"
    BAD = "true: the answer is bad"
    EMPTY = "refused unless empty"
    FINAL = "refused unless it is the channel of answers"
    HARMLESS = "kept as metadata"
    TOLD = "passed over and named, unless empty"


_BAD_ANSWER = "the answer is bad"
_PAIR = "this is a preference pair and no dialogue"
_MEDIA = "part of it is no text"
_TOKENS = "parts of its texts are not to be learnt, which cannot be done"

# Rule, why a row is refused, names in lower case.
_GROUPS: tuple[tuple[Rule, str, str], ...] = (
    (
        Rule.WEIGHT,
        "",
        "weight loss_weight sample_weight loss_scale loss train training trainable train_on learn",
    ),
    (
        Rule.GOOD,
        _BAD_ANSWER,
        "desirable is_desirable accepted is_accepted approved correct is_correct good is_good "
        "valid is_valid thumbs_up upvoted liked helpful is_helpful passed review_result keep "
        "include rating score quality feedback verdict judgment judgement vote status preference",
    ),
    (Rule.LABEL, _BAD_ANSWER, "label kto_tag"),
    (
        Rule.BAD,
        _BAD_ANSWER,
        "bad is_bad undesirable thumbs_down downvoted disliked incorrect is_incorrect wrong "
        "deleted is_deleted spam is_spam exclude excluded skip skipped ignore ignored discard "
        "discarded removed invalid is_rejected low_quality is_error hallucination",
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
    (Rule.EMPTY, "what was said stands outside of the content", "refusal"),
    (
        Rule.HARMLESS,
        "",
        "id uuid idx index hash source dataset dataset_name origin url license licence model "
        "model_name generator language lang locale date time timestamp created created_at "
        "create_time update_time updated_at version category topic task subject domain kind "
        "title tags type turn turns turn_identifier num_turns state country header hashed_ip "
        "conversation_id conversation_hash message_id message_tree_id parent_id prompt_id "
        "dialogue_id question_id user_id created_date tool_call_id tree_id "
        "tree_state openai_moderation detoxify_moderation parallel_tool_calls annotations "
        "collection kinds",
    ),
    (
        Rule.TOLD,
        "",
        "tools functions toxic redacted flagged reasoning reasoning_content reasoning_details "
        "thinking thoughts name rank reward",
    ),
)
_RULES = {name: rule for rule, _, names in _GROUPS for name in names.split()}
_WHY = {name: why for _, why, names in _GROUPS for name in names.split()}

ROW_KEYS: Mapping[str, Rule] = MappingProxyType(_RULES)
MESSAGE_KEYS: Mapping[str, Rule] = MappingProxyType({**_RULES, "channel": Rule.FINAL})
_WHY["channel"] = "the text is what leads to an answer"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BAD_WORDS = _words(
    "bad rejected reject negative undesirable incorrect wrong invalid thumbs_down thumbsdown "
    "dislike disliked downvote downvoted deleted discarded spam fail failed poor"
)
_GOOD_WORDS = _words(
    "good accepted accept positive desirable correct valid thumbs_up thumbsup like liked upvote "
    "upvoted chosen approved pass passed"
)
_BOOLEAN_WORDS = _words("true false yes no y n on off 0 1")
_EMPTY_TEXTS = frozenset({"", "[]", "{}", "null", "none"})


def read_keys(
    owner: Mapping[str, Any],
    table: Mapping[str, Rule],
    *,
    read: Collection[str],
    where: str,
    passed_over: Counter[str],
) -> tuple[float, set[str]]:
    """Judges the keys of a row or of a message that hold no text of the dialogue.

    Args:
      owner: The row or the message.
      table: `ROW_KEYS` or `MESSAGE_KEYS`.
      read: Keys that were read already.
      where: `"row"`, or which message it is, e.g. `"message 2"`.
      passed_over: Counts, under `'key' of a row` or `'key' of a message`, what is passed over.

    Returns:
      The product of the loss weights, 1 where there is none, and the keys that gave them.

    Raises:
      BrokenRowError: A key refuses the row, or its value is of a type that the key cannot have.

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
            weight *= _read_weight(key, value, detail)
            honoured.add(key)
            continue
        verdict = "told" if rule is None else _verdict(rule, value)
        if verdict == "bad":
            seen = "not empty" if rule is Rule.EMPTY else _shown(value)
            raise BrokenRowError(f"{key!r} is {seen}, so {_WHY[name]}", detail)
        if verdict == "odd":
            raise BrokenRowError(f"{key!r} is {_shown(value)}, no boolean", detail)
        if verdict == "told":
            passed_over[f"{key!r} of a {where.split()[0]}"] += 1
    return weight, honoured


@functools.lru_cache(maxsize=4096)
def plain_key(key: str) -> str:
    """A key as it stands in the table.

    >>> plain_key("lossWeight"), plain_key("Thumbs-Down")
    ('loss_weight', 'thumbs_down')
    """
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return re.sub(r"[\s-]+", "_", snake.strip()).lower()


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, false, an empty text or list, or only such values.

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


def _verdict(rule: Rule, value: Any) -> str:
    """`fine`, `bad`, `odd` (of a type that the key cannot have) or `told` (passed over)."""
    if rule is Rule.HARMLESS:
        return "fine"
    if rule in (Rule.EMPTY, Rule.TOLD):
        return "fine" if is_empty(value) else "bad" if rule is Rule.EMPTY else "told"
    if rule is Rule.FINAL:
        return "fine" if value in ("", "final") else "bad"
    if isinstance(value, bool):
        return "bad" if value is (rule is Rule.BAD) else "fine"
    if isinstance(value, str):
        return _verdict_of_word(rule, value.strip().lower().replace(" ", "_"))
    if _is_number(value) and (rule is Rule.LABEL or (rule is Rule.BAD and value in (0, 1))):
        is_bad = value == 1 if rule is Rule.BAD else value <= 0
        return "bad" if is_bad else "fine" if value in (0, 1) else "told"
    return "told"


def _verdict_of_word(rule: Rule, word: str) -> str:
    if word in _BOOLEAN_WORDS:
        return "odd"
    if rule is Rule.BAD:
        return "told"
    return "bad" if word in _BAD_WORDS else "fine" if word in _GOOD_WORDS else "told"


def _read_weight(key: str, value: Any, detail: str) -> float:
    if isinstance(value, bool):
        return float(value)
    if not _is_number(value):
        raise BrokenRowError(f"{key!r} is {_shown(value)}, no number or boolean", detail)
    # A JSON integer may be larger than any float.
    if value < 0 or not math.isfinite(value if value < 1e300 else math.inf):
        raise BrokenRowError(f"{key!r} is not finite and >= 0", detail)
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """What a value is, in few words: there are no more of them than there are kinds of values."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        word = value.strip().lower()
        short = word in _BAD_WORDS | _BOOLEAN_WORDS or (len(word) <= 20 and word.isidentifier())
        return repr(value.strip()) if short else "a text"
    if _is_number(value):
        return str(value) if abs(value) < 1000 else "a large number"
    return "an object" if isinstance(value, Mapping) else "a list"
