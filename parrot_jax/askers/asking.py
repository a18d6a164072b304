"""Asks an endpoint for a question at every place; killed at any time, it continues."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from parrot_jax.api.asking import Answers, Asked, Asking, ask_until_enough
from parrot_jax.api.endpoint_config import changes_of_replies
from parrot_jax.api.journal import Start
from parrot_jax.api.prompts import Prompt, changed_prompts, load_prompt, records_of
from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.api.run_async import run_async
from parrot_jax.askers.asker_config import AskerEndpointConfig
from parrot_jax.askers.reference import Place, Reference, Said
from parrot_jax.core.config import config_from_dict, config_to_dict
from parrot_jax.core.errors import ParrotError, UserError
from parrot_jax.core.files import atomic_write
from parrot_jax.dialogue.reasoning import split_reasoning

JOURNAL = "journal.sqlite"
QUESTIONS = "questions.jsonl"
_ASKER = "asker"
_PROMPT = "prompt"


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What an asker said at the places of a reference."""

    name: str
    said: Sequence[Said]
    """One for each place, in order."""
    first_turn: bool
    """Whether the first question is among the places."""
    requests: str
    """The requests as text."""
    problem: ParrotError | None = None
    """Why places are open; None = no endpoint is at fault."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What decides the replies."""

    asker: AskerEndpointConfig
    seed: int


class _Item(NamedTuple):
    place: Place
    dialogue: str
    """Hash of the dialogue: dialogues may begin alike."""
    messages: list[dict[str, str]]
    group: str = ""

    def input(self) -> str:
        content = {"dialogue": self.dialogue, "turn": self.place.turn, "messages": self.messages}
        return json.dumps(content, ensure_ascii=False)

    def requests(self) -> list[list[dict[str, str]]]:
        return [self.messages]


def ask_questions(
    name: str, config: AskerEndpointConfig, reference: Reference, out: Path, *, seed: int
) -> Questions:
    """Asks for a question at each place, or continues; writes `questions.jsonl`.

    Args:
      name: The asker's name in tables.
      config: Its endpoint.
      reference: People's dialogues.
      out: Its folder.
      seed: Seed of the requests.

    Raises:
      UserError: The prompt is invalid, a key is not set, or the folder holds another asker's
        questions.
      KeyboardInterrupt: See `Job.run`.
    """
    prompts = {}
    if config.prompt is not None:
        prompts[_PROMPT] = load_prompt(config.prompt, first_question="?")
    items = [
        _Item(
            place,
            reference.dialogues[place.dialogue].content_hash().hex()[:16],
            _messages(config, reference, place, prompts.get(_PROMPT)),
        )
        for place in reference.places(first_turn=config.first_turn)
    ]
    start = Start(config_to_dict(_Run(asker=config, seed=seed)), records_of(prompts))
    found: list[Questions] = []

    def read(reply: Reply) -> str:
        return _read(config, reply)[2]

    def write(answers: Answers) -> None:
        said = _all_said(config, items, answers.asked)
        with atomic_write(out / QUESTIONS) as file:
            for one in said:
                file.write(json.dumps(_row(reference, one), ensure_ascii=False) + "\n")
        found.append(
            Questions(
                name=name,
                said=said,
                first_turn=config.first_turn,
                requests=answers.line(name),
                problem=answers.problem,
            )
        )

    asking = Asking(
        speaker=_ASKER,
        endpoint=config,
        items=items,
        enough=len(items),
        judge=lambda _, replies: read(replies[0]),
        useless=read,
        seed=seed,
    )
    path = out / JOURNAL
    run_async(
        ask_until_enough(asking, path, start, lambda old: _check_same(old, start, path), write)
    )
    return found[-1]


def _messages(
    config: AskerEndpointConfig, reference: Reference, place: Place, prompt: Prompt | None
) -> list[dict[str, str]]:
    dialogue = reference.dialogues[place.dialogue]
    system = reference.intent(place.dialogue) if config.intent else dialogue.system
    messages = [{"role": "system", "content": system}] if system else []
    turns = replace(dialogue, system="").messages()
    messages += turns[: 2 * place.turn - 2]
    if prompt is not None:
        instruction = prompt.render(first_question=reference.questions_of(place.dialogue)[0])
        messages.append({"role": "user", "content": instruction})
    return messages


def _all_said(
    config: AskerEndpointConfig, items: Sequence[_Item], asked: Sequence[Asked]
) -> list[Said]:
    by_place = {one.item.place: one for one in asked}
    found = []
    for item in items:
        one = by_place.get(item.place)
        if one is None:
            found.append(Said(item.place, None, reason="not asked"))
        elif not one.replies:
            found.append(Said(item.place, None, reason=one.why_not))
        else:
            text, ended, reason = _read(config, one.replies[0])
            is_cut = one.replies[0].outcome is Outcome.CUT
            found.append(Said(item.place, text, ended, reason, is_cut and text is not None))
    return found


def _read(config: AskerEndpointConfig, reply: Reply) -> tuple[str | None, bool, str]:
    """The question, whether the dialogue was ended, and why there is neither."""
    if reply.outcome not in (Outcome.COMPLETE, Outcome.CUT):
        return None, False, reply.outcome.value
    text = split_reasoning(reply.text).text.strip()
    if config.end_token is not None and config.end_token in text:
        return None, True, ""
    if text:
        return text, False, ""
    if reply.outcome is Outcome.CUT or reply.text.strip():
        return None, False, "only reasoning"
    return None, True, ""


def _row(reference: Reference, said: Said) -> dict[str, object]:
    return {
        "dialogue": reference.dialogues[said.place.dialogue].id,
        "turn": said.place.turn,
        "question": said.text,
        "ended": said.ended,
        "cut": said.is_cut,
        "reason": said.reason,
        "person": reference.question(said.place),
    }


def _check_same(old: Start, new: Start, path: Path) -> None:
    before, after = (
        config_from_dict(_Run, start.config, where=f"the run of {path}") for start in (old, new)
    )
    changes = [
        *changes_of_replies(before.asker, after.asker), *changed_prompts(old.prompts, new.prompts),
    ]  # fmt: skip
    if before.seed != after.seed:
        changes.append(f"seed: {before.seed} -> {after.seed}")
    if changes:
        raise UserError(
            f"{path} has questions of another asker or other settings ({'; '.join(changes)}); "
            "choose another --out, or restore the old values."
        )
