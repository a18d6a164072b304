"""Chat templates: how a dialogue becomes text and ids in training, transformers and vLLM.

- `formats`: the formats as tables; a new one is an entry in `FORMATS`.
- `base`: renders them with any tokenizer.
- `jinja`: writes them as Jinja templates, from `chat.jinja`.
- `published`: compares them with the template that a folder brings along, which
  `rendering` renders in a process of its own.
"""

from parrot_jax.core.errors import UserError
from parrot_jax.data.templates.base import Template
from parrot_jax.data.templates.formats import FORMATS, Format
from parrot_jax.data.tokenizers import Tokenizer


def format_of(name: str) -> Format:
    """The chat format of a name.

    Raises:
      UserError: No format has this name.
    """
    if name not in FORMATS:
        raise UserError(f"data.template is {name!r}; the templates are {', '.join(FORMATS)}.")
    return FORMATS[name]


def make_template(name: str, tokenizer: Tokenizer) -> Template:
    """Creates a chat template for a tokenizer.

    Raises:
      UserError: There is no template of this name, or the tokenizer lacks its special tokens.
    """
    return Template(name, format_of(name), tokenizer)
