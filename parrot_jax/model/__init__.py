"""The decoder in Flax NNX: families, attention, layers, generation. Uses no data, losses or files.

model_config.py      ModelConfig, the sizes of a model; loads no jax
families/            one folder per family: layer, tensor names, limits; loads no jax
hf_config.py         conversion from and to HF's config.json; loads no jax
lora_config.py       LoraConfig, and the weights that get adapters; loads no jax
presets.py           published models by name; loads no jax
frequencies.py       frequencies of rotary position embedding; loads no jax
rotary.py            rotary position embedding
attention.py         the registry of attention backends
attention_xla.py     attention in plain XLA
attention_gpu.py     attention on NVIDIA GPUs: Pallas and cuDNN, and the sizes they support
attention_pallas.py  our Pallas kernel
attention_tpu.py     JAX's kernel for TPUs
einsum.py            products with weights, tuned for XLA's CPU backend
layered.py           weights by layer, for generation on a CPU
quantized.py         frozen weights in 4 or 8 bits
lora.py              LoRA adapters
blocks.py            building blocks of the families' layers
decoder.py           parameters, the loop over layers and the forward pass, on plain arrays
cache.py             the key/value cache of generation
decode.py            prefill, and one step of generation
sampling.py          chooses a token from logits
generate.py          batched generation, the loop on the device
"""
