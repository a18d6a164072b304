"""Compares the papers' three ways to make dialogues on the synthetic world with `parrot stats`.

    python scripts/bench/world_ways.py --out runs/world_ways [--seed 0]

Parrot-Ask is the quickstart's. The prompted model of the two baselines is a chat model of the same
size. It is trained to answer on the quickstart's collection, and on equally many examples of
following each of two prompts: to ask like a user, and to write a whole dialogue. In these examples
every question is self-contained, and one user turn in nine only says thanks. This is an assumption
about large chat models, based on published data (docs/benchmarks/world_ways.md); the benchmark
measures its consequences.

    parrot-ask            Parrot-Ask asks, the world's answerer answers
    iterative-self-chat   the chat model is prompted to ask, the world's answerer answers
    self-chat             the chat model is prompted to write the whole dialogue

Then runs the baselines with all stop rules off, so that bad turns stay: at a higher temperature,
and with a prompt that the chat model was not trained for, to which it responds with answers. For
each rule of `stops`, counts how many bad turns of each kind and how many good turns it catches.

Finished parts are not repeated.
"""

import argparse
import contextlib
import dataclasses
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parrot_jax.collect.collect_config import BeginningsConfig, CollectConfig, SpeakerConfig
from parrot_jax.collect.run import collect
from parrot_jax.collect.stops import StopConfig, StopJudge
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import SourceConfig, read_sources
from parrot_jax.dialogue.types import Dialogue, Turn
from parrot_jax.dialogue.words import normal_words
from parrot_jax.dialogue.writers import write_messages
from parrot_jax.loaded_run import load_run
from parrot_jax.serve.app import make_app
from parrot_jax.serve.background import BackgroundServer
from parrot_jax.stats.run import compute_statistics
from parrot_jax.stats.writing import write_statistics
from parrot_jax.train.loop import train
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.world.answerer import NO_ANSWER, Answerer
from parrot_jax.world.exam_measures import asked_kinds
from parrot_jax.world.people import next_question
from parrot_jax.world.questions import Context, Invalid, Language, Question, true_answer
from parrot_jax.world.quickstart import Loop, QuickstartScale
from parrot_jax.world.recipes import ASKER, chat_config
from parrot_jax.world.world_engine import MODEL as ANSWERER
from parrot_jax.world.world_engine import answerer_engine

USER_PROMPT = "What would you ask next?"
UNKNOWN_PROMPT = "Go on."
DIALOGUE_PROMPT = "Tell me all of it, from the first one: {{ first_question }}"
WRITTEN_ROUNDS = 4
THANKS_RATE = 1 / 9
THANKS = ("Thank you!", "Thanks a lot.", "Goodbye!")
ALL_OFF = StopConfig(
    refusals=False, most_thanks=None, repeated_question=None, fewest_question_letters=0,
    asker_answers=False, repeated_answer=None, most_counter_questions=None, language_switch=None,
    sensitive=(),
)  # fmt: skip
MEANINGLESS = (f"^{re.escape(NO_ANSWER)}$",)
# As in the quickstart, where people repeat questions for one place after another.
AS_QUICKSTART = StopConfig(
    meaningless_answers=MEANINGLESS, repeated_question=None, language_switch=None
)
WAYS = ("ways/parrot-ask", "ways/iterative-self-chat", "ways/self-chat")
# Each rule alone, with its default.
RULES = {
    name: dataclasses.replace(ALL_OFF, **{name: value})
    for name, value in dataclasses.asdict(StopConfig(meaningless_answers=MEANINGLESS)).items()
}


class Ways:
    """The three ways, in one folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.loop = Loop(folder, seed, QuickstartScale())
        self.language = Language(self.loop.world)
        self.dice = random.Random(f"ways {seed}")

    def prepare(self) -> None:
        """Makes the world, Parrot-Ask, its collection, and the prompted chat model."""
        if not (self.loop.files / "tokenizer.model").exists():
            self.loop.make_world()
        self.loop.train_ask()
        self.loop.collect()
        examples = self.folder / "prompted.jsonl"
        if not examples.exists():
            write_messages(examples, self._examples())
        train(self._prompted())

    def _prompted(self) -> TrainConfig:
        examples = self.folder / "prompted.jsonl"
        return chat_config(
            self.loop.files, examples, self.folder / "prompted",
            seed=self.seed, epochs=QuickstartScale().chat_epochs, max_turns=None,
        )  # fmt: skip

    def _examples(self) -> Iterator[Dialogue]:
        for dialogue in read(self.folder / "collect" / "dialogues.jsonl"):
            yield dialogue
            rounds = self.dice.randint(1, dialogue.num_rounds)
            before = [dataclasses.replace(t, weight=0.0) for t in dialogue.turns[: 2 * rounds]]
            context = self.language.context_after([t.text for t in before[::2]])
            thanks = self.dice.random() < THANKS_RATE
            said = self.dice.choice(THANKS) if thanks else self._full(context)[1]
            asked = Turn("assistant", said)
            yield Dialogue(turns=(*before, Turn("user", USER_PROMPT), asked))
            first = dialogue.turns[0].text
            prompt = DIALOGUE_PROMPT.replace("{{ first_question }}", first)
            yield Dialogue(turns=(Turn("user", prompt), Turn("assistant", self._transcript(first))))

    def _full(self, context: Context) -> tuple[Question, str]:
        """A self-contained question."""
        drawn = next_question(self.loop.world, context, set(), self.dice)
        question = Question("full", drawn.other or drawn.place, drawn.attribute)
        return question, self.language.say(question, context, self.dice)

    def _transcript(self, first: str) -> str:
        context, text, lines = Context(), first, []
        for _ in range(WRITTEN_ROUNDS):
            question = self.language.understand(text, context)
            assert isinstance(question, Question)
            answer = true_answer(self.loop.world, question)
            lines += [f"[|Human|] {text}", f"[|AI|] {answer}"]
            context = context.after(question)
            text = self._full(context)[1]
        return "\n".join(lines)

    def talk(self) -> dict[str, Path]:
        """Runs all collections; returns their folders by name."""
        prompts = self.folder / "prompts"
        prompts.mkdir(exist_ok=True)
        (prompts / "user.jinja").write_text(USER_PROMPT)
        (prompts / "unknown.jinja").write_text(UNKNOWN_PROMPT)
        (prompts / "dialogue.jinja").write_text(DIALOGUE_PROMPT)
        found = {}
        with contextlib.ExitStack() as stack:

            def serve(app: Any) -> str:
                return stack.enter_context(BackgroundServer(app)).url

            answerer = Answerer(self.loop.world, mistake_rate=QuickstartScale().mistake_rate)
            answers = SpeakerConfig(
                base_url=serve(make_app(answerer_engine(answerer))), model=ANSWERER
            )
            asks = SpeakerConfig(
                base_url=serve(make_app(load_run(self.loop.ask.out).engine(ASKER, batch_rows=8))),
                model=ASKER, temperature=1.0, top_p=0.99, max_tokens=64,
            )  # fmt: skip
            chat = serve(make_app(load_run(self._prompted().out).engine("chat", batch_rows=8)))

            def prompted(prompt: str, temperature: float, max_tokens: int = 64) -> SpeakerConfig:
                return dataclasses.replace(
                    asks, base_url=chat, model="chat", prompt=str(prompts / prompt),
                    temperature=temperature, max_tokens=max_tokens,
                )  # fmt: skip

            talks: dict[str, dict[str, Any]] = {
                "ways/parrot-ask": {"asker": asks, "answerer": answers},
                "ways/iterative-self-chat": {
                    "asker": prompted("user.jinja", 1.0), "answerer": answers,
                },
                "ways/self-chat": {"writer": prompted("dialogue.jinja", 1.0, 256)},
                "bad/iterative": {"asker": prompted("user.jinja", 1.0), "answerer": answers},
                "bad/hot-iterative": {"asker": prompted("user.jinja", 1.5), "answerer": answers},
                "bad/unknown-prompt": {
                    "asker": prompted("unknown.jinja", 1.0), "answerer": answers,
                },
                "bad/hot-self-chat": {"writer": prompted("dialogue.jinja", 1.5, 256)},
            }  # fmt: skip
            for name, speakers in talks.items():
                out = self.folder / name
                collect(self._config(out, AS_QUICKSTART if name in WAYS else ALL_OFF, speakers))
                found[name] = out
        return found

    def _config(self, out: Path, stops: StopConfig, speakers: dict[str, Any]) -> CollectConfig:
        first = BeginningsConfig(
            kind="messages", path=str(self.loop.files / "first_questions.jsonl"),
            take="first_question",
        )  # fmt: skip
        return CollectConfig(
            out=str(out), beginnings=(first,), max_turns=10, concurrency=48, stops=stops,
            when_context_is_full="truncate", seed=self.seed,
            **speakers,
        )  # fmt: skip

    def ends_table(self, folders: dict[str, Path]) -> str:
        """Stop reasons of each way, and its questions classified by ground truth."""
        lines = [
            "| way | ended by | questions | valid | context-dependent |",
            "|---|---|---:|---:|---:|",
        ]
        for name, folder in folders.items():
            path = folder / "dialogues.jsonl" if folder.is_dir() else folder
            dialogues = list(read(path))
            texts = [([turn.text for turn in d.turns[::2]], 1) for d in dialogues]
            asked = asked_kinds(self.language, texts)
            kinds = sum(asked.by_turn.values(), Counter[str]())
            alone = kinds["full"] + kinds["shift"] + kinds["invalid"]
            stops = Counter(d.metadata.get("collection", {}).get("stop", "–") for d in dialogues)
            ended = ", ".join(f"{reason} {count}" for reason, count in stops.most_common())
            lines.append(
                f"| {name} | {ended} | {kinds.total():,} | {asked.valid_rate:.1%} | "
                f"{1 - alone / kinds.total():.1%} |"
            )
        return "\n".join(lines)

    def rules_table(self, paths: list[Path]) -> str:
        """For each rule, the number of bad turns of each kind and of good turns that it catches."""
        judges = {name: StopJudge(rule) for name, rule in RULES.items()}
        total, caught = Counter[str](), Counter[tuple[str, str]]()
        for path in paths:
            for dialogue in read(path):
                for place, kind in enumerate(self._kinds(dialogue)):
                    if place < 2:
                        continue
                    total[kind] += 1
                    turns, text = dialogue.turns[:place], dialogue.turns[place].text
                    hits = [name for name, judge in judges.items() if judge(turns, text)]
                    caught.update((name, kind) for name in (*hits, *(["any"] if hits else [])))
        kinds = sorted(total)
        lines = [
            "| rule | " + " | ".join(f"{kind} ({total[kind]:,})" for kind in kinds) + " |",
            "|---" + "|---:" * len(kinds) + "|",
        ]
        for name in (*RULES, "any"):
            lines.append(f"| {name} | " + " | ".join(f"{caught[name, k]:,}" for k in kinds) + " |")
        return "\n".join(lines)

    def _kinds(self, dialogue: Dialogue) -> Iterator[str]:
        """Classifies each turn as good, or by why it is bad."""
        context, seen, question = Context(), set(), None
        for turn in dialogue.turns:
            if turn.role == "assistant":
                yield self._kind_of_answer(turn.text, question)
                continue
            question = self.language.understand(turn.text, context)
            words = tuple(normal_words(turn.text))
            if isinstance(question, Question):
                yield "asked before" if words in seen else "good question"
                context = context.after(question)
            elif turn.text in THANKS:
                yield "thanks"
            else:
                yield "an answer" if _ANSWER.search(turn.text) else "no question"
            seen.add(words)

    def _kind_of_answer(self, text: str, question: Question | Invalid | None) -> str:
        if text.strip() == NO_ANSWER:
            return "not understood"
        if isinstance(question, Question) and text == true_answer(self.loop.world, question):
            return "right answer"
        return "wrong answer"


_ANSWER = re.compile(r"^The \w+ of \w+ is ")


def read(path: Path) -> Iterator[Dialogue]:
    source = SourceConfig(kind="messages", path=str(path))
    return read_sources([source], seed=0, report=ReadReport())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/world_ways")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(options.out)
    ways = Ways(folder, options.seed)
    ways.prepare()
    folders = ways.talk()
    compared = {
        "people": ways.loop.files / "held_out.jsonl",
        **{name: folders[name] for name in WAYS},
    }
    statistics = compute_statistics(
        [str(path) for path in compared.values()], tokenizer=str(ways.loop.files)
    )
    written = write_statistics(statistics, folder / "stats")
    print(ways.ends_table(compared), end="\n\n")
    bad = [path / "dialogues.jsonl" for name, path in folders.items() if name not in WAYS]
    print(ways.rules_table(bad))
    print("\nsee", *written)


if __name__ == "__main__":
    main()
