"""Known families that are not supported, by `model_type`, each with the reason. Loads no jax."""

_EXPERTS = "its MLPs are mixtures of experts"
_LATENT = "its attention has latent keys and its MLPs are mixtures of experts"
_FUSED = "it joins the weights of queries, keys and values, and those of gate and up"
_GEMMA = "its norms, activation and embedding are scaled otherwise"
_LAYER_NORM = "it has layer norms with biases"
_IMAGES = "it also reads images or sound; take its text model"

REFUSED = {
    "baichuan": "it joins the weights of queries, keys and values",
    "bloom": "it has ALiBi positions and layer norms",
    "chatglm": _FUSED,
    "cohere": "attention and MLP are parallel, and its logits are scaled",
    "cohere2": "attention and MLP are parallel, and its logits are scaled",
    "dbrx": _EXPERTS,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "falcon": "attention and MLP are parallel, and it has layer norms",
    "gemma": _GEMMA,
    "gemma2": f"{_GEMMA}, and its logits are capped",
    "gemma3": _IMAGES,
    "gemma3_text": f"{_GEMMA}, and only some layers have a window",
    "glm4": "it rotates only a part of each head",
    "gpt2": "it has learned positions and layer norms",
    "gpt_neox": "attention and MLP are parallel, and it has layer norms",
    "gpt_oss": _EXPERTS,
    "gptj": "attention and MLP are parallel, and it has layer norms",
    "granite": "it scales embeddings, attention and residuals",
    "internlm2": "it joins the weights of queries, keys and values",
    "llama4": _IMAGES,
    "mamba": "it has no attention",
    "minicpm": "it scales embeddings, residuals and logits",
    "mistral3": _IMAGES,
    "mixtral": _EXPERTS,
    "mllama": _IMAGES,
    "mpt": "it has ALiBi positions and layer norms",
    "olmo": "its norms have no weights",
    "olmo3": "only some of its layers have a sliding window",
    "olmoe": _EXPERTS,
    "opt": "it has learned positions and layer norms",
    "phi": "attention and MLP are parallel, and it has layer norms",
    "phi3": _FUSED,
    "phimoe": _EXPERTS,
    "qwen": "it joins the weights of queries, keys and values",
    "qwen2_moe": _EXPERTS,
    "qwen2_vl": _IMAGES,
    "qwen2_5_vl": _IMAGES,
    "qwen3_moe": _EXPERTS,
    "qwen3_next": "only some of its layers have attention",
    "qwen3_vl": _IMAGES,
    "smollm3": "only some of its layers have rotary positions",
    "stablelm": _LAYER_NORM,
    "starcoder2": _LAYER_NORM,
}
"""Why a family is refused, as the end of a sentence."""
