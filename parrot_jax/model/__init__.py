"""The decoder in Flax NNX: families, attention, layers, generation. Knows no data, losses or files.

config.py            ModelConfig, the sizes of a model; loads no jax
families/            a folder a family: its layer, its tensors, what it refuses; loads no jax
hf_config.py         from and to HF's config.json; loads no jax
presets.py           published models by name; loads no jax
frequencies.py       those of rotary position embedding; loads no jax
rotary.py            rotary position embedding
attention.py         the registry of attention backends
attention_xla.py     attention in plain XLA
attention_gpu.py     attention on NVIDIA GPUs: which rows Pallas and cuDNN take
attention_pallas.py  our Pallas kernel
attention_tpu.py     JAX's kernel for TPUs
einsum.py            products with weights, written for XLA's CPU backend
blocks.py            what the layers of families are built of
decoder.py           parameters, the loop over layers, the forward pass, over plain arrays
cache.py             the key/value cache of generation
decode.py            one step of generation
sampling.py          how a token is chosen from logits
generate.py          batched generation, the loop on the device
"""
