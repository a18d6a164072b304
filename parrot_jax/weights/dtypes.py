"""The types that weights are stored in, by the names they have in configs. Loads no jax."""

from typing import Literal

Dtype = Literal["float32", "bfloat16", "float16"]

SAFETENSORS_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""What a safetensors file calls them."""
