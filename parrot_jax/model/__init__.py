"""LLaMA in Flax NNX: config, rotary, attention, layers, generation. Knows no data, losses or files.

config.py       LlamaConfig, from and to HF's config.json; loads no jax
presets.py      published models by name; loads no jax
frequencies.py  those of rotary position embedding; loads no jax
rotary.py       rotary position embedding
attention.py    the registry of attention backends
llama.py        parameters and the forward pass, over a plain tree of arrays
sampling.py     how a token is chosen from logits
generate.py     batched generation with a key/value cache
"""
