"""Mistral from 0.2 on: LLaMA's layer under another name. Loads no jax."""

from dataclasses import replace

from parrot_jax.model.families.llama import LLAMA

MISTRAL = replace(LLAMA, name="mistral", architecture="MistralForCausalLM", hf_values={})
