"""Mistral: LLaMA's layer; up to version 0.1 with a sliding window. Loads no jax."""

from dataclasses import replace

from parrot_jax.model.families.llama import LLAMA

MISTRAL = replace(
    LLAMA,
    name="mistral",
    architecture="MistralForCausalLM",
    sliding_window="yes",
    hf_values={},
)
