"""Public benchmarks: where their owners publish them, their licences, and the files we write."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FileKind = Literal["questions", "references", "prompts", "difficulties"]
"""How a file is checked: `read_benchmark`, the same with these references, `load_judge_prompts`, or
AlpacaEval's df_gamed.csv."""


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """A file of a benchmark."""

    path: str
    """In the folder of the benchmark."""
    url: str
    kind: FileKind = "questions"


@dataclass(frozen=True, kw_only=True)
class PublicBenchmark:
    """A benchmark at its public home."""

    about: str
    home: str
    """The page of its owners."""
    licence: str
    files: tuple[PublicFile, ...]
    """Questions first."""


# A commit in an address fixes the content.
_FASTCHAT = "https://raw.githubusercontent.com/lm-sys/FastChat"
_LLM_JUDGE = f"{_FASTCHAT}/d04ce6453ae016d9e03626b679c07aa1388dcbee/fastchat/llm_judge/data"
# Pull request 3158, which corrects the references; it was never merged.
_CORRECTED = f"{_FASTCHAT}/962316eba4e9db86bc8002243290e4074dabf48e/fastchat/llm_judge/data"
_ALPACA_EVAL = (
    "https://huggingface.co/datasets/tatsu-lab/alpaca_eval/resolve/"
    "2edc6fad8be6b14ea7230aabfd08188da6b8b814"
)

PUBLIC_BENCHMARKS: Mapping[str, PublicBenchmark] = {
    "mt-bench": PublicBenchmark(
        about="80 dialogues of 2 turns; references by GPT-4, as published and corrected",
        home="https://github.com/lm-sys/FastChat/tree/main/fastchat/llm_judge",
        licence="Apache-2.0",
        files=(
            PublicFile(path="question.jsonl", url=f"{_LLM_JUDGE}/mt_bench/question.jsonl"),
            PublicFile(
                path="reference_answer/gpt-4.jsonl",
                url=f"{_LLM_JUDGE}/mt_bench/reference_answer/gpt-4.jsonl",
                kind="references",
            ),
            PublicFile(
                path="reference_answer/gpt-4-corrected.jsonl",
                url=f"{_CORRECTED}/mt_bench/reference_answer/gpt-4-0125-preview.jsonl",
                kind="references",
            ),
            PublicFile(
                path="judge_prompts.jsonl", url=f"{_LLM_JUDGE}/judge_prompts.jsonl", kind="prompts"
            ),
        ),
    ),
    "mt-bench-101": PublicBenchmark(
        about="1,388 dialogues of 2 to 7 turns in 13 tasks, with references",
        home="https://github.com/mtbench101/mt-bench-101",
        licence="Apache-2.0",
        files=(
            PublicFile(
                path="mtbench101.jsonl",
                url="https://raw.githubusercontent.com/mtbench101/mt-bench-101/main/data/"
                "subjective/mtbench101.jsonl",
            ),
        ),
    ),
    "mt-eval": PublicBenchmark(
        about="MT-Bench extended to 5 turns, with references by GPT-4",
        home="https://github.com/KwanWaiChung/MT-Eval",
        licence="MIT",
        files=(
            PublicFile(
                path="mt-bench_extended.jsonl",
                url="https://raw.githubusercontent.com/KwanWaiChung/MT-Eval/"
                "bfe3a46e41c9837a8ca2a9957c1b1699e5fffef1/raw_data/mt-bench_extended.jsonl",
            ),
        ),
    ),
    "alpaca-eval": PublicBenchmark(
        about="805 instructions with the baselines of AlpacaEval 2 and 1, and their difficulties",
        home="https://huggingface.co/datasets/tatsu-lab/alpaca_eval",
        licence="CC-BY-NC-4.0",
        files=(
            PublicFile(
                path="alpaca_eval_gpt4_baseline.json",
                url=f"{_ALPACA_EVAL}/alpaca_eval_gpt4_baseline.json",
            ),
            PublicFile(path="alpaca_eval.json", url=f"{_ALPACA_EVAL}/alpaca_eval.json"),
            PublicFile(
                path="df_gamed.csv", url=f"{_ALPACA_EVAL}/df_gamed.csv", kind="difficulties"
            ),
        ),
    ),
}
"""By the name that `parrot evaluate download` takes."""
