"""The decoder in Flax NNX: families, attention, layers, generation. Knows no data, losses or files.

config.py            ModelConfig, the sizes of a model; loads no jax
families/            a folder a family: its layer, its tensors, what it refuses; loads no jax
hf_config.py         from and to HF's config.json; loads no jax
presets.py           published models by name; loads no jax
frequencies.py       those of rotary position embedding; loads no jax
rotary.py            rotary position embedding
attention.py         the registry of attention backends
attention_xla.py     attention in plain XLA
attention_gpu.py     kernels for NVIDIA GPUs: Pallas and cuDNN
attention_pallas.py  our Pallas kernel
attention_tpu.py     the kernel for TPUs
einsum.py            the products with weights, as XLA's CPU backend likes them
blocks.py            what layers are built of
decoder.py           parameters and the forward pass, over a plain tree of arrays
sampling.py          how a token is chosen from logits
cache.py             the key/value cache
decode.py            one step of generation
generate.py          batched generation with a key/value cache
"""
