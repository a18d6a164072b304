"""From the journal to what people use: a file of dialogues and a summary.

Both are functions of the journal: the same journal gives the same bytes.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from parrot_jax.api.budget import usd
from parrot_jax.api.journal_reader import SpeakerCounts
from parrot_jax.collect.config import CollectConfig
from parrot_jax.collect.dialogue_state import OnReasoning, StopReason
from parrot_jax.collect.folder import SUMMARY, Collection, JournaledDialogue
from parrot_jax.collect.transcript import parse_transcript
from parrot_jax.core.errors import disk_full_is_a_user_error
from parrot_jax.core.files import write_json
from parrot_jax.core.logs import visible
from parrot_jax.core.published_names import name_to_publish, value_to_publish
from parrot_jax.dialogue.reasoning import split_reasoning
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.writers import DIALOGUES, write_messages

MOST_ERRORS = 10
"""Different errors that a summary names."""


@dataclass(frozen=True, kw_only=True)
class SpeakerSummary:
    """What was sent to an endpoint, and what it cost."""

    requests: int
    """All that were sent; the next three add up to it."""
    answered: int
    """Those whose reply counts."""
    failed: int
    """Attempts that failed, or were rejected."""
    lost: int
    """Those without a reply, as the run ended before it."""
    rate_limited: int
    """Of the failed ones, those that were told "too many requests"."""
    prompt_tokens: int
    """As the server counts them."""
    completion_tokens: int
    uncertain_tokens: int
    """What those may have cost at most that may be billed, but of which nobody knows the tokens."""
    usd: float | None
    """The cost of the tokens that the server counts; None = the price is not known."""
    uncertain_usd: float | None
    """That of the others, at most."""

    def line(self) -> str:
        """The numbers for a person."""
        cost = "unknown" if self.usd is None else f"{self.usd:,.2f} USD"
        if self.uncertain_usd:
            cost += f" and up to {self.uncertain_usd:,.2f} more"
        return (
            f"{self.requests:,} requests, of which {self.failed:,} failed and {self.lost:,} were "
            f"lost; tokens {self.prompt_tokens:,} read, {self.completion_tokens:,} written, up to "
            f"{self.uncertain_tokens:,} uncertain; cost {cost}"
        )


@dataclass(frozen=True, kw_only=True)
class CollectionSummary:
    """A collection in numbers."""

    dialogues: int
    """All of them; the next three add up to it."""
    exported: int
    """Finished, with at least one collected turn: those in `dialogues.jsonl`."""
    empty: int
    """Finished without one: the first question, or the first answer, was of no use."""
    unfinished: int
    """Not ended yet: the same command goes on with them."""
    mean_turns: float | None
    """Questions with their answers in an exported dialogue, its beginning included; None where
    there is none."""
    stops: Mapping[str, int]
    """Finished dialogues by the reason of their end, the most frequent first."""
    errors: Mapping[str, int]
    """Of those that ended with an error, how many with which; the ten most frequent."""
    reasoning: Mapping[str, int]
    """By speaker, how many of its replies came with reasoning."""
    on_reasoning: OnReasoning
    """What was done with it."""
    speakers: Mapping[str, SpeakerSummary]
    """What was sent to each, and what it cost."""
    repeated: int
    """Requests that were sent again because the run had ended before their reply."""
    models: Mapping[str, Sequence[str]]
    """The models that answered, as the servers name them, by speaker."""
    wall_s: float
    """Seconds from each start to its last reply, summed over the starts."""

    def lines(self) -> list[str]:
        """The summary for a person."""
        stops = ", ".join(f"{reason} {count:,}" for reason, count in self.stops.items())
        mean = f"{self.mean_turns:.2f} turns each" if self.mean_turns is not None else "no turns"
        return [
            f"{self.exported:,} of {self.dialogues:,} dialogues exported, {mean}; "
            f"{self.empty:,} without a turn, {self.unfinished:,} unfinished",
            f"  stops     {stops or 'none'}",
            *(f"  error     {count:,}: {visible(error)}" for error, count in self.errors.items()),
            *reasoning_lines(self.reasoning, self.on_reasoning),
            *(f"  {name:9} {speaker.line()}" for name, speaker in self.speakers.items()),
            f"  repeated  {self.repeated:,}; {self.wall_s:,.0f} s",
        ]


def reasoning_lines(replies: Mapping[str, int], on_reasoning: OnReasoning) -> list[str]:
    """What is said of reasoning, where there was some."""
    if not replies:
        return []
    done = {"strip": "it was left out", "end": "it ended the dialogue", "keep": "it was kept"}
    counts = ", ".join(f"{speaker} {count:,}" for speaker, count in replies.items())
    return [f"  reasoning in replies: {counts}; {done[on_reasoning]}"]


def export(collection: Collection) -> CollectionSummary:
    """Writes the finished dialogues, by number, and the summary; each whole or not at all.

    Args:
      collection: What it holds decides every byte.

    Returns:
      What was written to `summary.json`.

    Raises:
      DiskFullError: There is no room.
    """
    stops: Counter[str] = Counter()
    turns: list[int] = []

    def finished() -> Iterator[Dialogue]:
        for journaled in finished_dialogues(collection):
            stops[str(journaled.state.stop)] += 1
            if num_collected_turns(journaled):
                dialogue = collected_dialogue(journaled)
                turns.append(dialogue.num_rounds)
                yield dialogue

    path = collection.folder / DIALOGUES
    with disk_full_is_a_user_error(f"the dialogues {path}"):
        exported = write_messages(path, finished())
        summary = CollectionSummary(
            dialogues=len(collection),
            exported=exported,
            empty=stops.total() - exported,
            unfinished=len(collection) - stops.total(),
            mean_turns=sum(turns) / len(turns) if turns else None,
            # By name where the numbers are equal, so that no order of dialogues shows through.
            stops=dict(sorted(stops.items(), key=lambda item: (-item[1], item[0]))),
            **_counted(collection),
        )
        write_json(collection.folder / SUMMARY, asdict(summary))
    return summary


def finished_dialogues(collection: Collection) -> Iterator[JournaledDialogue]:
    """The dialogues that have ended, by number; one at a time is in memory."""
    for journaled in collection:
        journaled = _with_end(collection, journaled)
        if journaled.state.stop is not None:
            yield journaled


def summarise_speakers(
    counts: Mapping[str, SpeakerCounts], config: CollectConfig
) -> dict[str, SpeakerSummary]:
    """What was sent to each endpoint, and what it cost."""
    prices = {name: speaker.price for name, speaker in config.speakers().items()}
    return {
        name: SpeakerSummary(
            requests=count.requests,
            answered=count.answered,
            failed=count.failed,
            lost=count.lost,
            rate_limited=count.rate_limited,
            prompt_tokens=count.known.prompt,
            completion_tokens=count.known.completion,
            uncertain_tokens=count.uncertain.total,
            usd=None if (price := prices.get(name)) is None else usd(count.known, price),
            uncertain_usd=None if price is None else usd(count.uncertain, price),
        )
        for name, count in counts.items()
    }


def _counted(collection: Collection) -> dict[str, Any]:
    counts = collection.journal.counts()
    return {
        "speakers": summarise_speakers(counts.speakers, collection.config),
        "errors": collection.journal.errors(most=MOST_ERRORS),
        "reasoning": count_reasoning(collection),
        "on_reasoning": collection.config.reasoning,
        "repeated": counts.repeated,
        "models": collection.journal.models(),
        "wall_s": round(counts.wall_s, 3),
    }


def collected_dialogue(journaled: JournaledDialogue) -> Dialogue:
    """The dialogue as it is exported, through its last answer.

    Its metadata has `collection`: the number of the dialogue, why it ended, whether it began with a
    `question` or with a `session`, how many turns were collected, and the models that spoke. What
    the source said of the beginning, its model among it, is not true of the whole: it stands under
    `beginning`. Of paths of this machine, in its id, its source and there, only the last part is
    exported.
    """
    beginning, state = journaled.beginning, journaled.state
    is_session = beginning.turns[-1].role == "assistant"
    about: dict[str, Any] = {
        "number": journaled.number,
        "stop": state.stop.value if state.stop else None,
        "part": "session" if is_session else "question",
        "collected_turns": num_collected_turns(journaled),
        "models": {
            speaker: [name_to_publish(name) for name in names]
            for speaker, names in sorted(journaled.models.items())
        },
    }
    if state.is_truncated:
        about["truncated_context"] = True
    if state.reasoning:
        about["turns_with_reasoning"] = state.reasoning
    said_of_it = value_to_publish(beginning.metadata)
    name = name_to_publish(beginning.id)
    return replace(
        beginning,
        # Files of one name in two folders may have given one id.
        id=name if name == beginning.id else f"{name}-{journaled.number}",
        turns=state.complete_turns,
        source=name_to_publish(beginning.source),
        metadata=MappingProxyType(
            ({"beginning": said_of_it} if said_of_it else {}) | {"collection": about}
        ),
    )


def _has_reasoning(speaker: str, text: str) -> bool:
    if speaker == "writer":
        with contextlib.suppress(ValueError):  # no transcript
            return parse_transcript(text).reasoning > 0
    return bool(split_reasoning(text).reasoning)


def _with_end(collection: Collection, journaled: JournaledDialogue) -> JournaledDialogue:
    """A dialogue that a budget or an error ended, as ended: such an end follows from no reply."""
    if journaled.state.stop is None:
        end = collection.journal.end(journaled.number)
        if end is not None and end.reason in (StopReason.BUDGET, StopReason.ERROR):
            state = replace(journaled.state, stop=StopReason(end.reason), detail=end.detail)
            return journaled._replace(state=state)
    return journaled


def count_reasoning(collection: Collection, newest: int | None = None) -> dict[str, int]:
    """How many replies of each speaker came with reasoning, of all or of so many newest ones."""
    found: Counter[str] = Counter()
    for speaker, text in collection.journal.texts(newest):
        found[speaker] += _has_reasoning(speaker, text)
    return {speaker: count for speaker, count in sorted(found.items()) if count}


def num_collected_turns(journaled: JournaledDialogue) -> int:
    """Answers that were collected, each with its question."""
    return len(journaled.state.complete_turns) // 2 - len(journaled.beginning.turns) // 2
