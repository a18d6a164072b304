"""The next turn of a dialogue as text: prompts in, replies out, as a server would give them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from parrot_jax.data.templates.base import Template
from parrot_jax.model.config import ModelConfig
from parrot_jax.model.generate import generate


class Sample(NamedTuple):
    """What the model said."""

    text: str
    """Trimmed; empty where the model ended the dialogue."""
    finish_reason: str
    """`stop` = it ended its turn, `length` = it was cut."""
    num_tokens: int


def sample_next_turns(
    config: ModelConfig,
    params: Any,
    template: Template,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    seed: int,
    compute_dtype: Any,
    mesh: Mesh | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> list[Sample]:
    """Generates the turn behind each prompt.

    Args:
      config: Sizes of the model.
      params: Its weights.
      template: Turns ids into text, and says what ends a turn.
      prompts: Ids that end with the next speaker's header, see `Template.prompt`.
      max_new_tokens: Most tokens of a reply.
      seed: Sampling is a function of it, the prompt and its place in the list.
      compute_dtype: As in training.
      mesh: What the weights are split over; None = one device.
      temperature: 0 = the likeliest token each time.
      top_p: Sample among the likeliest tokens that hold this probability, in (0, 1].
    """
    if not prompts:
        return []
    generated = generate(
        config,
        params,
        [list(prompt) for prompt in prompts],
        max_new_tokens=max_new_tokens,
        stop_ids=template.stop_ids,
        temperature=temperature,
        top_p=top_p,
        seeds=[seed + place for place in range(len(prompts))],
        compute_dtype=compute_dtype,
        mesh=mesh,
    )
    return [
        Sample(
            template.tokenizer.decode(g.ids).strip(),
            g.finish_reason,
            len(g.ids),
        )
        for g in generated
    ]
