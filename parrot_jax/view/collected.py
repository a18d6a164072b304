"""Reads a collection into an index, from its journal, also while `parrot collect` runs."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from parrot_jax.api.budget import usd
from parrot_jax.api.journal_reader import Attempt
from parrot_jax.api.replies import Outcome
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.export import with_end
from parrot_jax.collect.filters import Cut
from parrot_jax.collect.folder import Collection, JournaledDialogue, journal_path
from parrot_jax.collect.moderation import Moderation
from parrot_jax.core.errors import RunError, UserError
from parrot_jax.view.shown import WHY, Note, Shown, ShownTurn, as_json, speaker_models
from parrot_jax.view.writing import IndexWriter

_AT_ONCE = 100
"""Dialogues that are saved together."""
_MODERATION = "moderation.sqlite"
_NOT_MODERATED = "moderation: not moderated"


class CollectedDialogues:
    """The begun dialogues of a collection, each under its number."""

    kind = "collection"

    def __init__(self, folder: str) -> None:
        """Args: folder: Of the collection."""
        self._folder = Path(folder).expanduser()
        self._seen: object = None
        self._share: float | None = None

    @property
    def key(self) -> str:
        """Identifies the folder."""
        return f"collection:{self._folder.absolute()}"

    def progress(self) -> float | None:
        """The share that was read; None = unknown."""
        return self._share

    def live_text(self, shown: Shown) -> None:
        """A collection does not say what is trained on."""

    def update(self, index: IndexWriter) -> Iterator[None]:
        """Reads the dialogues that have changed; each step is saved.

        Raises:
          UserError: There is no collection, or its journal is damaged.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return
        with contextlib.ExitStack() as stack:
            # Closed after each pass: an open journal cannot be put aside by a restart.
            collection = Collection(self._folder)
            stack.callback(collection.close)
            moderation = None
            if (self._folder / _MODERATION).exists():
                moderation = Moderation(self._folder)
                stack.callback(moderation.close)
            # A restarted collection has other dialogues under the same numbers.
            index.belong_to(f"{collection.journal.begun_at()}")
            changed = _changed(collection, moderation, index)
            for start in range(0, len(changed), _AT_ONCE):
                with index.saving():
                    for number, version in changed[start : start + _AT_ONCE]:
                        _read(collection, moderation, index, number, version)
                self._share = min(1.0, (start + _AT_ONCE) / len(changed))
                yield
        self._seen, self._share = stamp, 1.0

    def _stamp(self) -> object:
        """Changes when a journal does."""
        journals = (journal_path(self._folder), self._folder / _MODERATION)
        files = [file for one in journals for file in (one, one.with_name(f"{one.name}-wal"))]
        stats = [file.stat() for file in files if file.exists()]
        return [(stat.st_ino, stat.st_size, stat.st_ctime_ns) for stat in stats]


def _changed(
    collection: Collection, moderation: Moderation | None, index: IndexWriter
) -> list[tuple[int, str]]:
    """The dialogues whose version is not that of the index."""
    moderated = dict(moderation.versions()) if moderation else {}
    # A start with another limit of turns, or another price, changes what is shown.
    prices = [(name, speaker.price) for name, speaker in collection.config.speakers().items()]
    settings = hashlib.sha256(repr((collection.rules, prices)).encode()).hexdigest()[:8]
    there = index.versions()
    known = next(there, None)
    changed = []
    for number, version in collection.journal.versions():
        version = f"{settings} {version} {moderated.get(number, '')}".strip()
        while known is not None and known[0] < number:
            known = next(there, None)
        if known != (number, version):
            changed.append((number, version))
    return changed


def _read(
    collection: Collection,
    moderation: Moderation | None,
    index: IndexWriter,
    number: int,
    version: str,
) -> None:
    place = f"dialogue {number}"
    index.forget_rejected(place)
    try:
        journaled = with_end(collection, collection.dialogue(number))
        cut = moderation(number, journaled.beginning, 0) if moderation else None
        attempts = collection.journal.attempts(number)
    except (UserError, RunError) as error:
        index.reject(place, str(error))
        return
    if cut is not None and cut.reason.startswith(_NOT_MODERATED):
        cut = None
    shown = show_collected(journaled, attempts, collection.config, cut)
    index.put(shown, number=number, version=version)


def show_collected(
    journaled: JournaledDialogue,
    attempts: Sequence[Attempt],
    config: CollectConfig,
    cut: Cut | None = None,
) -> Shown:
    """Shows a dialogue of a collection, with the origin of each turn.

    Args:
      journaled: The dialogue, with its end.
      attempts: All its requests.
      config: Of the collection; knows the prices.
      cut: What a moderator has flagged.
    """
    state, beginning = journaled.state, journaled.beginning
    given = len(beginning.turns)
    turns = []
    for place, turn in enumerate(state.turns):
        of_turn = [one for one in attempts if one.step == place and place >= given]
        facts = ("given",) if place < given else _origin(of_turn, config)
        notes = _notes(of_turn)
        if cut is not None and cut.turn == place:
            notes = (Note(title="flagged by the moderator", text=cut.reason), *notes)
        turns.append(
            ShownTurn(
                role=turn.role, text=turn.text, context=turn.context, facts=facts, notes=notes
            )
        )
    last = [one for one in attempts if one.step >= len(state.turns)]
    if last and state.stop is not None and not config.writer:
        turns.append(_left_out(last, len(state.turns), state.stop, config))
    total = sum(_cost(one, config) or 0.0 for one in attempts)
    return Shown(
        id=beginning.id,
        place=f"dialogue {journaled.number}",
        source=beginning.source,
        system=beginning.system,
        turns=tuple(turns),
        facts=tuple(_facts(journaled, attempts, total)),
        metadata=as_json(beginning.metadata),
        stop=str(state.stop or ""),
        models=tuple(dict.fromkeys(speaker_models(journaled.models))),
        flags=tuple(_flags(journaled, attempts, cut)),
    )


def _origin(attempts: Sequence[Attempt], config: CollectConfig) -> tuple[str, ...]:
    """Model, tokens, cost, time and number of attempts of a turn."""
    valid = [one for one in attempts if one.outcome is Outcome.COMPLETE]
    if not valid:
        return ()
    last, facts = valid[-1], []
    facts.append(f"{last.speaker}: {last.model or 'model not named'}")
    if last.usage is not None:
        facts.append(f"{last.usage.prompt:,} tokens read, {last.usage.completion:,} written")
    if cost := _cost(last, config):
        facts.append(f"{cost:.6f} USD")
    if last.seconds is not None:
        facts.append(f"{last.seconds:.2f} s")
    if len(attempts) > 1:
        facts.append(f"{len(attempts)} attempts")
    return tuple(facts)


def _notes(attempts: Sequence[Attempt]) -> tuple[Note, ...]:
    """The attempts that gave no turn."""
    failed = [
        f"attempt {number}: {'no reply' if one.outcome is None else one.outcome.value}"
        + "".join(f"\n{text}" for text in (one.error, one.text) if text)
        for number, one in enumerate(attempts, 1)
        if one.outcome is not Outcome.COMPLETE
    ]
    if not failed:
        return ()
    title = f"{len(failed)} failed {'attempt' if len(failed) == 1 else 'attempts'}"
    return (Note(title=title, text="\n\n".join(failed), is_private=True),)


def _left_out(
    attempts: Sequence[Attempt], place: int, stop: str, config: CollectConfig
) -> ShownTurn:
    """The reply that ended the dialogue."""
    last = attempts[-1]
    return ShownTurn(
        role="user" if place % 2 == 0 else "assistant",
        name=f"left out: {stop}",
        text=last.text or "(no text)",
        facts=(
            f"{last.speaker}: {last.model or 'model not named'}",
            *((last.verdict,) if last.verdict else ()),
            *_origin(attempts, config)[1:],
        ),
        notes=_notes(attempts if last.error else attempts[:-1]),
        is_left_out=True,
    )


def _facts(
    journaled: JournaledDialogue, attempts: Sequence[Attempt], total: float
) -> Iterator[tuple[str, str]]:
    if journaled.state.detail:
        yield WHY, journaled.state.detail
    yield "requests", f"{len(attempts):,}"
    if total:
        yield "cost", f"{total:.6f} USD"
    if journaled.state.reasoning:
        yield "turns with reasoning", f"{journaled.state.reasoning:,}"


def _flags(
    journaled: JournaledDialogue, attempts: Sequence[Attempt], cut: Cut | None
) -> Iterator[str]:
    state = journaled.state
    if state.stop is None:
        yield "not ended"
    if any(one.outcome in (Outcome.FAILED, Outcome.REJECTED) for one in attempts):
        yield "failed attempts"
    if state.is_truncated:
        yield "truncated"
    if state.reasoning:
        yield "reasoning"
    if state.turns[-1].role == "user":
        yield "unanswered"
    if cut is not None:
        yield "moderated"


def _cost(attempt: Attempt, config: CollectConfig) -> float | None:
    """Cost of a request; None = price or tokens are unknown."""
    speaker = config.speakers().get(attempt.speaker)
    if speaker is None or speaker.price is None or attempt.usage is None:
        return None
    return usd(attempt.usage, speaker.price)
