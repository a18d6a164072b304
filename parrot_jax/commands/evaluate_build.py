"""Continue the dialogues of a benchmark with new questions; run again to resume or to refill."""

from parrot_jax.evaluate.build_config import BuildConfig

Config = BuildConfig


def run(config: BuildConfig) -> None:
    """Builds the benchmark, prints and writes the results."""
    from parrot_jax.core.errors import disk_full_is_a_user_error
    from parrot_jax.core.logs import console
    from parrot_jax.core.signals import as_ctrl_c
    from parrot_jax.evaluate.building import build

    with as_ctrl_c(), disk_full_is_a_user_error(f"the questions in {config.out}"):
        summary = build(config)
    for line in summary.lines():
        console.print(line, markup=False, highlight=False)
    if summary.problem is not None:
        raise summary.problem
