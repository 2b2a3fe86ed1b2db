"""DeciLM, whose layers differ, against transformers' own Llama layers put together as its code does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from hubquant.convert.restore import read_config, read_state_dict
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet
from hubquant.gguf_file.reader import GGUFFile
from tests.support.conversion import Weights, assert_same, build_uneven, configure, edit_weights, plan, write_gguf
from tests.support.llamacpp import LlamaCpp

pytest.importorskip("xllamacpp")

IDS = list(range(3, 53))
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def block(group: int | None, factor: float | None, linear: bool = False, **more: Any) -> dict[str, Any]:
    attention = {"n_heads_in_group": group, "no_op": group is None and not linear, "replace_with_linear": linear}
    rest = {"num_sink_tokens": None, "sparsify": None, "unshifted_sink": False, "window_length": None}
    network = {"ffn_mult": factor, "no_op": factor is None, "replace_with_linear": False, "sparsify": None}
    return {"attention": {**attention, **rest, **more}, "ffn": network}


BLOCKS = [block(2, 3.0), block(None, 1.3125, linear=True), block(None, 4.5), block(None, None), block(4, 2.0)]
SIZES = [(4, 2, 512), (4, 0, 256), (0, 0, 768), (0, 0, 0), (4, 1, 512)]


class Matrix(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_attn = torch.nn.Linear(width, width, bias=False)

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return self.linear_attn(hidden_states), None


class Nothing(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor, **_: Any) -> Any:
        return torch.zeros_like(hidden_states), None


class NoNetwork(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def searched(folder: Path) -> tuple[Path, Weights, np.ndarray]:
    """A tiny Nemotron-NAS, its weights, and its logits [tokens, vocabulary]."""
    scaled = LLAMA3 | {"original_max_position_embeddings": 64}
    build_uneven("llama", folder, num_hidden_layers=len(SIZES), rope_parameters=scaled)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(3)
    for i, (heads, kv_heads, width) in enumerate(SIZES):
        config = copy.copy(model.config)
        config.num_key_value_heads, config.intermediate_size = kv_heads or 1, width or 1
        layer = LlamaDecoderLayer(config, i)
        for x in layer.parameters():
            torch.nn.init.normal_(x, 1.0 if x.dim() == 1 else 0.0, 0.2)
        if not kv_heads:
            layer.self_attn = Matrix(config.hidden_size) if heads else Nothing()
        layer.mlp = layer.mlp if width else NoNetwork()
        model.model.layers[i] = layer
    with torch.no_grad():
        logits = model(torch.tensor([IDS]), use_cache=False).logits[0].numpy()
    unused = {f"model.layers.{i}.input_layernorm.weight" for i, size in enumerate(SIZES) if not size[0]}
    unused |= {f"model.layers.{i}.post_attention_layernorm.weight" for i, size in enumerate(SIZES) if not size[2]}
    kept = {name: x.clone() for name, x in model.state_dict().items() if name not in unused}

    def edit(weights: Weights) -> None:
        weights.clear()
        weights |= kept

    configure(edit_weights(folder, edit), **settings())
    return folder, kept, logits


def settings() -> dict[str, Any]:
    own = dict.fromkeys(("num_key_value_heads", "intermediate_size"))
    return {"architectures": ["DeciLMForCausalLM"], "model_type": "nemotron-nas", "block_configs": BLOCKS} | own


def test_layers_of_every_kind(tmp_path: Path) -> None:
    folder, weights, expected = searched(tmp_path / "model")
    file = tmp_path / "model.gguf"
    assert "transformers lacks its code" in str(write_gguf(folder, file, "F32").cannot_run)
    with LlamaCpp(file) as llama:
        found = llama.logits(IDS)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
    gguf = GGUFFile.open(file)
    assert_same(dict(read_state_dict(gguf)), weights)
    assert [*read_config(gguf)[1].heads_and_widths] == SIZES
    keys = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
    assert [*zip(*(gguf.metadata[f"deci.{key}"].value for key in keys), strict=True)] == SIZES


REFUSED: dict[str, tuple[Any, type[HubquantError], str]] = {
    "attention alone": ([block(2, None), *BLOCKS[1:]], NotSupportedYet, "layer 0 with attention and no feed-forward"),
    "no attention first": ([BLOCKS[2], *BLOCKS[1:]], NotSupportedYet, "layer 0 with no attention"),
    "nothing last": ([*BLOCKS[:2], block(2, 1.0), block(2, 1.0), BLOCKS[3]], NotSupportedYet, "layer 4 with no feed-"),
    "a window": ([block(2, 1.0, window_length=64), *BLOCKS[1:]], NotSupportedYet, "layer 0 with window_length '64'"),
    "two layers less": (BLOCKS[:3], CheckpointError, "it must be one of 5"),
    "no list": ({"0": BLOCKS[0]}, CheckpointError, "a list of tables"),
    "no tables": ([{"attention": None, "ffn": {}}], CheckpointError, 'tables with "attention"'),
    "half a head": ([block(0, 1.0)], CheckpointError, "n_heads_in_group"),
    "a negative width": ([block(2, -1.0)], CheckpointError, "ffn_mult"),
    "nothing told": (None, CheckpointError, "num_key_value_heads_per_layer"),
}


@pytest.fixture(scope="module")
def nas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_uneven("llama", tmp_path_factory.mktemp("deci"), num_hidden_layers=5)
    return configure(folder, **settings())


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_does_not_compute_and_what_is_no_layer(name: str, nas: Path) -> None:
    blocks, error, message = REFUSED[name]
    configure(nas, block_configs=blocks)
    with pytest.raises(error) as refused:
        plan(nas)
    assert message in f"{refused.value} {refused.value.why}"


def test_a_matrix_for_a_network_is_refused(nas: Path) -> None:
    replaced = block(2, None)
    replaced["ffn"]["replace_with_linear"] = True
    configure(nas, block_configs=[replaced, *BLOCKS[1:]])
    with pytest.raises(NotSupportedYet, match="a matrix in the place of the feed-forward network"):
        plan(nas)
