"""Let a judge grade or compare answers, turn by turn; run again to resume."""

from parrot_jax.evaluate.judge_config import JudgeConfig

Config = JudgeConfig


def run(config: JudgeConfig) -> None:
    """Judges the answers, prints and writes the results."""
    from parrot_jax.core.errors import disk_full_is_a_user_error
    from parrot_jax.core.logs import console
    from parrot_jax.core.signals import as_ctrl_c
    from parrot_jax.evaluate.judging import judge

    with as_ctrl_c(), disk_full_is_a_user_error(f"the judgments in {config.out}"):
        summary = judge(config)
    for line in summary.lines():
        console.print(line, markup=False, highlight=False)
    if summary.problem is not None:
        raise summary.problem
