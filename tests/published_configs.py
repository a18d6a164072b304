"""`config.json` of published models, by their names on the hub, without what no reader looks at."""

from typing import Any

_COMMON: dict[str, Any] = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "use_cache": True,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_LLAMA = _COMMON | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
}
_LLAMA2 = _LLAMA | {
    "max_position_embeddings": 4096,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "vocab_size": 32000,
}
_LLAMA3 = _LLAMA | {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
    "vocab_size": 128256,
}
_LLAMA3_ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
_MISTRAL = _COMMON | {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
}
_QWEN25 = _COMMON | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
}
_QWEN25_7B = _QWEN25 | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "sliding_window": 131072,
    "vocab_size": 152064,
}
_YI = _LLAMA | {
    "attention_bias": False,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "rope_theta": 5000000.0,
    "vocab_size": 64000,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-2-7b-hf": _LLAMA2
    | {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
    },
    "meta-llama/Llama-2-13b-hf": _LLAMA2
    | {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_attention_heads": 40,
        "num_hidden_layers": 40,
        "num_key_value_heads": 40,
    },
    "meta-llama/Llama-3.1-8B": _LLAMA3
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "rope_scaling": _LLAMA3_ROPE,
    },
    "meta-llama/Llama-3.2-1B": _LLAMA3
    | {
        "head_dim": 64,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "rope_scaling": _LLAMA3_ROPE | {"factor": 32.0},
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-7B": _QWEN25_7B | {"max_position_embeddings": 131072, "use_mrope": False},
    "Qwen/Qwen2.5-7B-Instruct": _QWEN25_7B | {"eos_token_id": 151645},
    # As its card says to read more than 32,768 tokens.
    "Qwen/Qwen2.5-7B-Instruct with YaRN": _QWEN25_7B
    | {
        "eos_token_id": 151645,
        "rope_scaling": {
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
            "type": "yarn",
        },
    },
    "Qwen/Qwen2.5-0.5B": _QWEN25
    | {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "max_window_layers": 24,
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "use_mrope": False,
        "vocab_size": 151936,
    },
    "Qwen/Qwen3-8B": _COMMON
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "max_position_embeddings": 40960,
        "max_window_layers": 36,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "mistralai/Mistral-7B-v0.1": _MISTRAL
    | {"rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 32000},
    "mistralai/Mistral-7B-v0.3": _MISTRAL
    | {
        "attention_dropout": 0.0,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "vocab_size": 32768,
    },
    "HuggingFaceTB/SmolLM2-1.7B": _LLAMA
    | {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "num_attention_heads": 32,
        "num_hidden_layers": 24,
        "num_key_value_heads": 32,
        "rope_theta": 130000,
        "tie_word_embeddings": True,
        "vocab_size": 49152,
    },
    "01-ai/Yi-6B": _YI | {"num_hidden_layers": 32},
    "01-ai/Yi-1.5-9B": _YI
    | {"attention_dropout": 0.0, "num_hidden_layers": 48, "rms_norm_eps": 1e-06},
    "allenai/OLMo-2-1124-7B": _COMMON
    | {
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": "olmo2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "eos_token_id": 100257,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "pad_token_id": 100277,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 500000,
        "torch_dtype": "float32",
        "vocab_size": 100352,
    },
}

FAMILIES = (
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.2-1B",
    "Qwen/Qwen2.5-7B",
    "Qwen/Qwen2.5-7B-Instruct with YaRN",
    "Qwen/Qwen3-8B",
    "mistralai/Mistral-7B-v0.1",
    "mistralai/Mistral-7B-v0.3",
    "HuggingFaceTB/SmolLM2-1.7B",
    "01-ai/Yi-6B",
    "allenai/OLMo-2-1124-7B",
)
"""One of each kind, without models that differ only in sizes."""

SMALL_VOCABULARY = 320
"""Of the small models. The ids from 300 on are padding: no text has them."""


def small(name: str) -> dict[str, Any]:
    """The config of a published model with small sizes; texts of 40 tokens leave its window."""
    values = PUBLISHED[name]
    grouped = values["num_key_value_heads"] < values["num_attention_heads"]
    sizes = {
        "vocab_size": SMALL_VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2 if grouped else 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.1,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    if "head_dim" in values:
        sizes["head_dim"] = 64
    if values["model_type"] == "mistral" and values["sliding_window"]:
        sizes["sliding_window"] = 12
    if rope := values.get("rope_scaling"):
        sizes["rope_scaling"] = rope | {"original_max_position_embeddings": 16}
    return values | sizes
