"""Generates the next turn of dialogues as text, as the server does."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from parrot_jax.data.templates.base import Template
from parrot_jax.model.generate import generate
from parrot_jax.model.model_config import ModelConfig


class Sample(NamedTuple):
    """A generated turn."""

    text: str
    """Stripped; empty if the model ended the dialogue."""
    finish_reason: str
    """`stop` = the turn ended, `length` = it was cut at `max_new_tokens`."""
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
    """Generates the turn after each prompt.

    Args:
      config: Sizes of the model.
      params: Its weights.
      template: Decodes ids; has the token that ends a turn.
      prompts: Token ids that end with the next speaker's header, see `Template.prompt`.
      max_new_tokens: Most tokens of a reply.
      seed: Sampling depends on it, the prompt and its index only.
      compute_dtype: As in training.
      mesh: The mesh of the weights; None = one device.
      temperature: 0 = greedy.
      top_p: Nucleus sampling: smallest set of tokens with this probability, in (0, 1].
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
