"""Dtypes that weights are stored in, as configs name them. Does not import jax."""

from typing import Literal

Dtype = Literal["float32", "bfloat16", "float16"]

SAFETENSORS_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""Their names in safetensors files."""
