"""Published `config.json` files are read right, and keep their meaning in an export."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.model.families import num_parameters
from parrot_jax.model.hf_config import from_hf, to_hf
from parrot_jax.model.presets import PRESETS

from ..published_configs import PUBLISHED

# The preset, and the number of parameters that the hub shows.
KNOWN = {
    "meta-llama/Llama-2-7b-hf": ("llama2-7b", 6_738_415_616),
    "meta-llama/Llama-2-13b-hf": ("llama2-13b", 13_015_864_320),
    "meta-llama/Llama-3.1-8B": ("llama3.1-8b", 8_030_261_248),
    "meta-llama/Llama-3.2-1B": ("llama3.2-1b", 1_235_814_400),
    "Qwen/Qwen2.5-7B": ("qwen2.5-7b", 7_615_616_512),
    "Qwen/Qwen2.5-7B-Instruct": ("qwen2.5-7b-instruct", 7_615_616_512),
    "Qwen/Qwen2.5-0.5B": ("qwen2.5-0.5b", 494_032_768),
    "Qwen/Qwen3-8B": ("qwen3-8b", 8_190_735_360),
    "mistralai/Mistral-7B-v0.1": ("mistral-7b-v0.1", 7_241_732_096),
    "mistralai/Mistral-7B-v0.3": ("mistral-7b-v0.3", 7_248_023_552),
    "HuggingFaceTB/SmolLM2-1.7B": ("smollm2-1.7b", 1_711_376_384),
    "01-ai/Yi-6B": ("yi-6b", 6_061_035_520),
    "01-ai/Yi-1.5-9B": ("yi-1.5-9b", 8_829_407_232),
    "allenai/OLMo-2-1124-7B": ("olmo2-7b", 7_298_617_344),
}


def filled(config: Any) -> Any:
    """The config with the defaults of heads filled in."""
    heads = {"num_key_value_heads": config.num_kv_heads, "head_dim": config.head_width}
    return dataclasses.replace(config, **heads)


@pytest.mark.parametrize("name", KNOWN)
def test_a_published_file_is_the_preset_and_has_the_published_size(name: str) -> None:
    preset, size = KNOWN[name]
    config = from_hf(PUBLISHED[name])
    assert filled(config) == filled(PRESETS[preset])
    assert num_parameters(config) == size


# Not part of the mathematics, or of our `generation_config.json`.
IGNORED = {
    "_name_or_path", "architectures", "attention_dropout", "bos_token_id", "dtype", "eos_token_id",
    "pad_token_id", "pretraining_tp", "transformers_version", "use_mrope",
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.filterwarnings("default")
def test_transformers_reads_the_same_from_our_export(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    for folder, values in (
        ("theirs", PUBLISHED[name]),
        ("ours", to_hf(from_hf(PUBLISHED[name]))),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(values))
    theirs, ours = (AutoConfig.from_pretrained(tmp_path / each) for each in ("theirs", "ours"))
    assert type(ours) is type(theirs)
    wanted = {key: getattr(theirs, key) for key in theirs.to_dict().keys() - IGNORED}
    # Layers without a window do not read these.
    if getattr(theirs, "use_sliding_window", None) is False:
        wanted.pop("max_window_layers")
    found = {key: getattr(ours, key, None) for key in wanted}
    # Their yarn says only what differs from the defaults; ours says all.
    defaults = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
    if wanted["rope_parameters"]["rope_type"] == "yarn":
        wanted["rope_parameters"] = defaults | wanted["rope_parameters"]
        wanted["rope_parameters"].pop("type", None)
    # A width of heads that is left out means D / N.
    wanted["head_dim"] = wanted.get("head_dim") or theirs.hidden_size // theirs.num_attention_heads
    found["head_dim"] = ours.head_dim
    assert found == wanted
