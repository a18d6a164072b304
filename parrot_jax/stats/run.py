"""Computes the statistics of all files, then runs the judge."""

from collections.abc import Callable, Sequence
from pathlib import Path

from parrot_jax.core.config import load_config
from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import counting
from parrot_jax.core.paths import require_local_folder
from parrot_jax.core.published_names import without_folders
from parrot_jax.data.tokenizers import Tokenizer, load_tokenizer
from parrot_jax.stats.inputs import labels_of, source_of
from parrot_jax.stats.judge_config import JudgeConfig
from parrot_jax.stats.judging import check_judge, judge_sessions
from parrot_jax.stats.measure_file import measure_file
from parrot_jax.stats.sessions import draw_sessions
from parrot_jax.stats.summary import Statistics, TokenizerName


def compute_statistics(
    paths: str | Path | Sequence[str | Path],
    *,
    tokenizer: str | None = None,
    judge: str | None = None,
    sample: int = 200,
    out: str | None = None,
    seed: int = 0,
) -> Statistics:
    """Measures files of dialogues.

    Args:
      paths: See `source_of`.
      tokenizer: See `load_tokenizer`; None = tokens are not counted.
      judge: The YAML file of a `JudgeConfig`; None = no judge.
      sample: Number of sessions to judge in each file, >= 1.
      out: The folder of the judge's journal; required with a judge.
      seed: Seed of the sample and of the intervals.

    Returns:
      The statistics; if judging failed, the results so far and the problem.

    Raises:
      UserError: A path, the tokenizer or the judge is invalid; nothing was sent.

    >>> path = getfixture("tmp_path") / "dialogues.jsonl"
    >>> _ = path.write_text('{"messages": [{"role": "user", "content": "Why is the sea salt?"}]}')
    >>> (file,) = compute_statistics([str(path)]).files
    >>> file.label, file.sessions
    ('dialogues', 1)
    """
    names = [str(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if not names:
        raise UserError("no path was given; pass at least one file of dialogues.")
    if out is not None:
        require_local_folder(out, "out")
    judge_config = load_config(JudgeConfig, judge) if judge else None
    labels = labels_of(names)
    sources = [source_of(path) for path in names]
    loaded = load_tokenizer(tokenizer) if tokenizer else None
    if judge_config is not None:
        check_judge(judge_config)
    count_tokens = _counter(loaded) if loaded else None
    with counting("dialogues read") as advance:
        files = [
            measure_file(label, source, count_tokens=count_tokens, seed=seed, advance=advance)
            for label, source in zip(labels, sources, strict=True)
        ]
    sampled = {
        file.label: draw_sessions(file.source, min(sample, file.sessions), seed=seed)
        for file in files
        if judge_config is not None
    }
    judgments = None
    if judge_config is not None and out is not None:
        sessions = [session for drawn in sampled.values() for session in drawn]
        judgments = judge_sessions(judge_config, sessions, Path(out) / "judge.sqlite")
    return Statistics(
        files=files,
        tokenizer=_name(tokenizer, loaded) if tokenizer and loaded else None,
        judge=judge_config,
        judgments=judgments,
        sampled=sampled,
        seed=seed,
    )


def _counter(tokenizer: Tokenizer) -> Callable[[Sequence[str]], list[int]]:
    def count(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenizer.encode([text.strip() for text in texts])]

    return count


def _name(path: str, tokenizer: Tokenizer) -> TokenizerName:
    return TokenizerName(without_folders(path), tokenizer.vocab_size, tokenizer.fingerprint)
