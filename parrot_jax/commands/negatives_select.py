"""Select questions that depend on their dialogue; run again to resume."""

from parrot_jax.negatives.select_config import SelectConfig

Config = SelectConfig


def run(config: SelectConfig) -> None:
    """Selects the questions, prints and writes the results."""
    from parrot_jax.core.errors import disk_full_is_a_user_error
    from parrot_jax.core.logs import console
    from parrot_jax.core.signals import as_ctrl_c
    from parrot_jax.negatives.selecting import select

    with as_ctrl_c(), disk_full_is_a_user_error(f"the selection in {config.out}"):
        summary = select(config)
    for line in summary.lines():
        console.print(line, markup=False, highlight=False)
    if summary.problem is not None:
        raise summary.problem
