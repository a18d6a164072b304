"""Let a model answer a benchmark, turn by turn; run again to resume and to retry what failed."""

from parrot_jax.evaluate.answer_config import AnswerConfig

Config = AnswerConfig


def run(config: AnswerConfig) -> None:
    """Answers the benchmark, prints and writes the results."""
    from parrot_jax.core.errors import disk_full_is_a_user_error
    from parrot_jax.core.logs import console
    from parrot_jax.core.signals import as_ctrl_c
    from parrot_jax.evaluate.answering import answer

    with as_ctrl_c(), disk_full_is_a_user_error(f"the answers in {config.out}"):
        summary = answer(config)
    for line in summary.lines():
        console.print(line, markup=False, highlight=False)
    if summary.problem is not None:
        raise summary.problem
