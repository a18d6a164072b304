"""The mapping of tensors and of slices between our layout and Hugging Face's."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.model.decoder import abstract_params
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.presets import PRESETS
from parrot_jax.sharding import MeshConfig, make_mesh
from parrot_jax.weights.layers import abstract_parts
from parrot_jax.weights.model_folder import abstract_params as placed_params
from parrot_jax.weights.names import Tensor, tensors

TINY = ModelConfig(
    vocab_size=7,
    hidden_size=6,
    intermediate_size=5,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=2,
)
BY_NAME = {tensor.ours: tensor for tensor in tensors(TINY)}


def test_a_query_matrix_by_hand() -> None:
    # Their rows are outputs: two of head 0, then two of head 1, ...
    query = BY_NAME["layers.01.attention.q"]
    theirs = np.arange(8 * 6).reshape(8, 6)
    ours = query.to_ours(theirs)
    assert query.theirs == "model.layers.1.self_attn.q_proj.weight"
    assert ours.shape == (6, 4, 2)
    assert ours[3, 2, 1] == theirs[2 * 2 + 1, 3]
    np.testing.assert_array_equal(query.to_theirs(ours), theirs)


def test_an_output_matrix_by_hand() -> None:
    output = BY_NAME["layers.00.attention.o"]
    theirs = np.arange(6 * 8).reshape(6, 8)
    ours = output.to_ours(theirs)
    assert ours.shape == (4, 2, 6)
    assert ours[2, 1, 3] == theirs[3, 2 * 2 + 1]
    np.testing.assert_array_equal(output.to_theirs(ours), theirs)


@pytest.mark.parametrize("name", ["llama2-13b", "llama3.1-8b"])
def test_the_table_has_every_tensor_of_a_checkpoint_and_no_other(name: str) -> None:
    config = PRESETS[name]
    stored = abstract_parts(placed_params(config, make_mesh(MeshConfig())))
    found = {tensor.ours: tensor.our_shape for tensor in tensors(config)}
    assert found == {key: array.shape for key, array in stored.items()}
    assert len(tensors(config)) == 3 + 9 * config.num_hidden_layers


def test_a_tied_head_is_no_tensor() -> None:
    tied = ModelConfig(**{**vars_of(TINY), "tie_word_embeddings": True})
    assert "lm_head" not in abstract_params(tied)
    assert "lm_head" not in {tensor.ours for tensor in tensors(tied)}


def vars_of(config: ModelConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


@st.composite
def parts(draw: st.DrawFn) -> tuple[Tensor, tuple[slice, ...]]:
    tensor = draw(st.sampled_from(list(BY_NAME.values())))
    index = []
    for dim, size in enumerate(tensor.our_shape):
        if dim == tensor.whole_dim:
            index.append(slice(None))
            continue
        first = draw(st.integers(0, size - 1))
        index.append(slice(first, draw(st.integers(first + 1, size))))
    return tensor, tuple(index)


@given(parts())
def test_a_part_is_read_where_it_stands(drawn: tuple[Tensor, tuple[slice, ...]]) -> None:
    tensor, index = drawn
    theirs = np.arange(np.prod(tensor.their_shape)).reshape(tensor.their_shape)
    part = tensor.part(index).to_ours(theirs[tensor.their_slice(index)])
    np.testing.assert_array_equal(part, tensor.to_ours(theirs)[index])


def test_the_width_of_a_head_is_never_cut() -> None:
    with pytest.raises(ValueError, match="the head dim is split"):
        BY_NAME["layers.00.attention.q"].their_slice([slice(0, 6), slice(0, 4), slice(0, 1)])


def test_jax_takes_a_turned_matrix_without_a_copy() -> None:
    # A copy would take as long as the transpose, and the same memory again.
    turned = BY_NAME["layers.00.mlp.gate"].to_ours(np.ones((5, 6), np.float32))
    assert jax.device_put(turned).unsafe_buffer_pointer() == turned.ctypes.data
