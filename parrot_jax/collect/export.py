"""From the journal to what people use: a file of dialogues and a summary.

Both are functions of the journal: the same journal gives the same bytes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

from parrot_jax.collect.folder import Collection, JournaledDialogue
from parrot_jax.core.errors import disk_full_is_a_user_error
from parrot_jax.core.files import write_json
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.writers import write_messages


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
    requests: int
    """All that were sent, the following two included."""
    repeated: int
    """Sent again because the run had ended before their reply."""
    failed_attempts: int
    """Sent in vain."""
    tokens: Mapping[str, Mapping[str, int]]
    """`prompt` and `completion` tokens by speaker, as the servers count them."""
    wall_s: float
    """Seconds from each start to its last reply, summed over the starts."""

    def lines(self) -> list[str]:
        """The summary for a person."""
        stops = ", ".join(f"{reason} {count:,}" for reason, count in self.stops.items())
        mean = f"{self.mean_turns:.2f} turns each" if self.mean_turns is not None else "no turns"
        tokens = "; ".join(
            f"{speaker} {count['prompt']:,} read, {count['completion']:,} written"
            for speaker, count in self.tokens.items()
        )
        return [
            f"{self.exported:,} of {self.dialogues:,} dialogues exported, {mean}; "
            f"{self.empty:,} without a turn, {self.unfinished:,} unfinished",
            f"  stops     {stops or 'none'}",
            f"  requests  {self.requests:,}, of which {self.repeated:,} repeated and "
            f"{self.failed_attempts:,} failed; {self.wall_s:,.0f} s",
            f"  tokens    {tokens or 'none'}",
        ]


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
        for journaled in collection:
            if journaled.state.stop is None:
                continue
            stops[journaled.state.stop.value] += 1
            if num_collected_turns(journaled):
                dialogue = collected_dialogue(journaled)
                turns.append(dialogue.num_rounds)
                yield dialogue

    path = collection.folder / "dialogues.jsonl"
    with disk_full_is_a_user_error(f"the dialogues {path}"):
        exported = write_messages(path, finished())
        counts = collection.journal.counts()
        summary = CollectionSummary(
            dialogues=len(collection),
            exported=exported,
            empty=stops.total() - exported,
            unfinished=len(collection) - stops.total(),
            mean_turns=sum(turns) / len(turns) if turns else None,
            # By name where the numbers are equal, so that no order of dialogues shows through.
            stops=dict(sorted(stops.items(), key=lambda item: (-item[1], item[0]))),
            requests=counts.requests,
            repeated=counts.repeated,
            failed_attempts=counts.failed,
            tokens=counts.tokens,
            wall_s=round(counts.wall_s, 3),
        )
        write_json(collection.folder / "summary.json", asdict(summary))
    return summary


def collected_dialogue(journaled: JournaledDialogue) -> Dialogue:
    """The dialogue as it is exported, through its last answer.

    Its metadata has `collection`: the number of the dialogue, why it ended, whether it began with a
    `question` or with a `session`, and how many turns were collected.
    """
    beginning, state = journaled.beginning, journaled.state
    is_session = beginning.turns[-1].role == "assistant"
    about = {
        "number": journaled.number,
        "stop": state.stop.value if state.stop else None,
        "part": "session" if is_session else "question",
        "collected_turns": num_collected_turns(journaled),
    }
    return replace(
        beginning,
        turns=state.complete_turns,
        metadata=MappingProxyType({**beginning.metadata, "collection": about}),
    )


def num_collected_turns(journaled: JournaledDialogue) -> int:
    """Answers that were collected, each with its question."""
    return len(journaled.state.complete_turns) // 2 - len(journaled.beginning.turns) // 2
