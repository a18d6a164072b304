"""Write answers that miss their context, as preference pairs for CaPO; run again to resume."""

from parrot_jax.negatives.negatives_config import NegativesConfig

Config = NegativesConfig


def run(config: NegativesConfig) -> None:
    """Makes the negatives, prints and writes the results."""
    from parrot_jax.core.errors import disk_full_is_a_user_error
    from parrot_jax.core.logs import console
    from parrot_jax.core.signals import as_ctrl_c
    from parrot_jax.negatives.building import build

    with as_ctrl_c(), disk_full_is_a_user_error(f"the pairs in {config.out}"):
        summary = build(config)
    for line in summary.lines():
        console.print(line, markup=False, highlight=False)
    if summary.problem is not None:
        raise summary.problem
