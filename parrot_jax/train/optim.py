"""The learning rate over the steps, and AdamW. Clipping and division are the train step's."""

import optax

from parrot_jax.train.config import OptimConfig


def learning_rate(config: OptimConfig, *, steps_per_epoch: float, num_steps: int) -> optax.Schedule:
    """Linear warm-up, then half a cosine down to `final_lr_fraction`.

    Args:
      config: The rates.
      steps_per_epoch: Optimizer steps in one pass over the sessions; need not be whole.
      num_steps: Steps of the whole schedule.

    Returns:
      step -> rate. Step 0, the first update, has the rate `lr / warm-up steps`, as in
      transformers' schedules shifted by one: an update at rate 0 would be wasted.
    """
    warmup = min(round(config.warmup_epochs * steps_per_epoch), num_steps - 1)
    decay = optax.cosine_decay_schedule(
        config.lr, max(num_steps - warmup, 1), alpha=config.final_lr_fraction
    )
    if warmup < 1:
        return decay
    rise = optax.linear_schedule(config.lr / warmup, config.lr, max(warmup - 1, 1))
    return optax.join_schedules([rise, decay], [warmup])


def adamw(config: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """AdamW as torch has it: decoupled decay of every parameter, times the rate.

    Source: Loshchilov and Hutter, arXiv:1711.05101.
    """
    return optax.adamw(
        schedule,
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
