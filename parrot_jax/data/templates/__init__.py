"""Chat templates: how a dialogue becomes text and ids in training, transformers and vLLM.

A new format is a subclass of `base.Template` with its Jinja template, and an entry in `TEMPLATES`.
Special tokens that it uses must exist in the tokenizer. `data/tokenizers` only reads SentencePiece
models as in LLaMA 1 and 2, so a format like Llama 3's also needs a reader of its tokenizer there.
"""

from parrot_jax.core.errors import UserError
from parrot_jax.data.templates.base import Template
from parrot_jax.data.templates.parrot import ParrotTemplate
from parrot_jax.data.tokenizers import Tokenizer

TEMPLATES: dict[str, type[Template]] = {ParrotTemplate.name: ParrotTemplate}
"""By the name in `data.template`; add a class here to use your own format."""


def make_template(name: str, tokenizer: Tokenizer) -> Template:
    """Creates a chat template for a tokenizer.

    Raises:
      UserError: There is no template of this name.
    """
    if name not in TEMPLATES:
        raise UserError(
            f"data.template is {name!r}; the templates are {', '.join(sorted(TEMPLATES))}."
        )
    return TEMPLATES[name](tokenizer)
