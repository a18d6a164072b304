"""Forecasts calls, tokens, cost, hours and disk of a collection, before and during it.

A prompt has the whole dialogue so far, so prompts grow with each turn, and their sum grows with the
square of the number of turns. Measured calls replace the assumptions, turn by turn.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from parrot_jax.api.budget import usd
from parrot_jax.api.endpoint_config import EndpointConfig
from parrot_jax.api.journal_reader import MeanCall
from parrot_jax.api.replies import Usage

_BYTES_A_TOKEN = 4.4
_REQUEST_BYTES = 200
"""Bytes of a request or a reply besides its texts: settings, counts, indices."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Assumptions about calls, used until they are measured."""

    question_tokens: float = 45.0
    """Mean tokens of a question."""

    answer_tokens: float = 310.0
    """Mean tokens of an answer."""

    latency_s: float = 5.0
    """Mean seconds from a request to its reply."""


Seen = Mapping[tuple[str, int], MeanCall]
"""Mean calls so far, by speaker and turn (from 0)."""


@dataclass(frozen=True, kw_only=True)
class SpeakerForecast:
    """The remaining calls to an endpoint."""

    calls: int
    usage: Usage
    usd: float | None
    """None = the price is unknown."""
    hours: float
    """Hours that its limits on requests and tokens per minute imply."""
    beyond_budget: str | None = None
    """The budget that is too low, e.g. `budget_usd 5.00`; None if none is."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The remaining work, if every dialogue reaches `max_turns`."""

    dialogues: int
    speakers: Mapping[str, SpeakerForecast]
    hours: float
    """At full concurrency, within each endpoint's limits."""
    disk_bytes: float
    """Growth of the journal."""


def forecast(
    turns: Iterable[int],
    *,
    max_turns: int,
    speakers: Mapping[str, EndpointConfig],
    concurrency: int,
    assumed: Assumptions,
    seen: Seen,
    spent: Mapping[str, Usage] = MappingProxyType({}),
) -> Forecast:
    """Adds up the remaining calls.

    Args:
      turns: For each unfinished dialogue, its number of messages.
      max_turns: Most question-answer turns of a dialogue.
      speakers: The endpoints by name, with their prices.
      concurrency: Dialogues in progress at the same time.
      assumed: For calls that were not measured yet.
      seen: Measured calls.
      spent: Tokens already counted against the budgets.
    """
    lengths = _Lengths.of(assumed, speakers, max_turns)
    at_turn = Counter(turns)
    num_dialogues = at_turn.total()
    calls: Counter[str] = Counter()
    tokens: dict[str, list[float]] = {name: [0.0, 0.0] for name in speakers}
    waited_s, disk_bytes = 0.0, 0.0
    num_open = 0
    for turn in range(min(at_turn, default=0), 2 * max_turns):
        num_open += at_turn[turn]
        name: str = "writer" if "writer" in speakers else _speaker_of(turn)
        if name == "writer" and at_turn[turn] == 0:
            continue
        count = at_turn[turn] if name == "writer" else num_open
        prompt, completion, seconds = _call(name, turn, lengths, assumed.latency_s, seen)
        calls[name] += count
        tokens[name][0] += count * prompt
        tokens[name][1] += count * completion
        waited_s += count * seconds
        disk_bytes += count * (2 * _REQUEST_BYTES + _BYTES_A_TOKEN * (prompt + 2 * completion))
    found = {}
    for name, speaker in speakers.items():
        usage = Usage(*(round(number) for number in tokens[name]))
        price = speaker.price
        minutes = max(
            calls[name] / (speaker.requests_per_minute or float("inf")),
            usage.total / (speaker.tokens_per_minute or float("inf")),
        )
        found[name] = SpeakerForecast(
            calls=calls[name],
            usage=usage,
            usd=None if price is None else usd(usage, price),
            hours=minutes / 60,
            beyond_budget=_beyond_budget(speaker, usage.plus(spent.get(name, Usage()))),
        )
    at_once = max(1, min(concurrency, num_dialogues))
    hours = max([waited_s / at_once / 3600, *(speaker.hours for speaker in found.values())])
    return Forecast(dialogues=num_dialogues, speakers=found, hours=hours, disk_bytes=disk_bytes)


def _speaker_of(turn: int) -> str:
    return "answerer" if turn % 2 else "asker"


class _Lengths(NamedTuple):
    """Assumed tokens of a text, limited by the speaker's `max_tokens`."""

    question: float
    answer: float
    dialogue: float
    """A writer's reply."""
    turns: int

    @classmethod
    def of(
        cls, assumed: Assumptions, speakers: Mapping[str, EndpointConfig], max_turns: int
    ) -> "_Lengths":
        def limited(tokens: float, name: str) -> float:
            speaker = speakers.get(name)
            most = None if speaker is None else speaker.max_tokens
            return tokens if most is None else min(tokens, float(most))

        whole = max_turns * (assumed.question_tokens + assumed.answer_tokens)
        return cls(
            limited(assumed.question_tokens, "asker"),
            limited(assumed.answer_tokens, "answerer"),
            limited(whole, "writer"),
            max_turns,
        )


def _beyond_budget(speaker: EndpointConfig, usage: Usage) -> str | None:
    if speaker.budget_tokens is not None and usage.total > speaker.budget_tokens:
        return f"budget_tokens {speaker.budget_tokens:,}"
    price, most_usd = speaker.price, speaker.budget_usd
    if price is not None and most_usd is not None and usd(usage, price) > most_usd:
        return f"budget_usd {most_usd:,.2f}"
    return None


def _call(
    name: str, turn: int, assumed: _Lengths, latency_s: float, seen: Seen
) -> tuple[float, float, float]:
    """Prompt tokens, completion tokens and seconds of a call for this turn."""
    if (found := seen.get((name, turn))) is not None:
        return found.prompt, found.completion, found.seconds
    lengths = (assumed.question, assumed.answer)
    round_tokens = sum(lengths)
    if name == "writer":
        return assumed.question, assumed.dialogue, latency_s * assumed.turns
    prompt = turn // 2 * round_tokens + turn % 2 * assumed.question
    # The prompt grows from the last measured turn, if there is one.
    before = max((t for speaker, t in seen if speaker == name and t < turn), default=None)
    completion, seconds = lengths[turn % 2], latency_s
    if before is not None:
        last = seen[name, before]
        prompt = last.prompt + (turn - before) // 2 * round_tokens
        completion, seconds = last.completion, last.seconds
    return prompt, completion, seconds


def forecast_lines(left: Forecast) -> list[str]:
    """The forecast as text."""
    lines = [
        f"{left.dialogues:,} dialogues left, each to its last turn: {left.hours:,.1f} h, "
        f"{left.disk_bytes / 1e9:,.2f} GB of journal"
    ]
    for name, speaker in left.speakers.items():
        cost = "price unknown" if speaker.usd is None else f"{speaker.usd:,.2f} USD"
        lines.append(
            f"  {name:9} {speaker.calls:,} calls, {speaker.usage.prompt:,} tokens read, "
            f"{speaker.usage.completion:,} written: {cost}"
        )
        if speaker.beyond_budget is not None:
            lines.append(f"  {name:9} {speaker.beyond_budget} is too low and will stop the run")
    return lines
