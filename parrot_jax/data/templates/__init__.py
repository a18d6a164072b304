"""Chat formats: how a dialogue becomes text and ids, for training, transformers and vLLM alike."""

from parrot_jax.core.errors import UserError
from parrot_jax.data.templates.base import Template
from parrot_jax.data.templates.parrot import ParrotTemplate
from parrot_jax.data.tokenizers import Tokenizer

TEMPLATES: dict[str, type[Template]] = {ParrotTemplate.name: ParrotTemplate}
"""By the name that `data.template` gives; add one to use a format of your own."""


def make_template(name: str, tokenizer: Tokenizer) -> Template:
    """A chat format over a tokenizer.

    Raises:
      UserError: There is no format of this name.
    """
    if name not in TEMPLATES:
        raise UserError(f"data.template is {name!r}; formats are {', '.join(sorted(TEMPLATES))}.")
    return TEMPLATES[name](tokenizer)
