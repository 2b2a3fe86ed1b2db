"""Grok 1, of which transformers has no code: the formula stands for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import gelu, rms_norm

from hubquant.convert.restore import read_state_dict
from hubquant.errors import HubquantError
from hubquant.gguf_file import GGUFFile
from hubquant.models.tiny import build
from tests.convert.test_published_configs import code
from tests.convert.test_published_configs import model as model_config
from tests.convert.test_published_older_configs import read
from tests.support.conversion import Weights, configure, plan, relative_error, write_gguf
from tests.support.llamacpp import LlamaCpp
from tests.support.plamo import SIZE, frequencies, rotated

pytest.importorskip("xllamacpp")

WIDTH, HEADS, KV_HEADS, FORWARD, LAYERS, VOCABULARY, EXPERTS, USED = 128, 4, 2, 64, 2, 384, 4, 2
EPSILON, CAP = 1e-5, 2.0
CONFIG: dict[str, Any] = {
    "architectures": ["GrokForCausalLM"],
    "attn_output_multiplier": 0.3,
    "embedding_multiplier_scale": 11.0,
    "hidden_size": WIDTH,
    "intermediate_size": FORWARD,
    "max_attn_value": CAP,
    "max_position_embeddings": 512,
    "model_type": "grok",
    "num_attention_heads": HEADS,
    "num_experts": EXPERTS,
    "num_experts_per_tok": USED,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "output_multiplier_scale": 0.57,
    "rms_norm_eps": EPSILON,
    "vocab_size": VOCABULARY,
}


def made() -> Weights:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        x = 0.2 * torch.randn(shape, generator=generator)
        return x + 1 if len(shape) == 1 else x

    weights = {"in_out_embed": random(VOCABULARY, WIDTH), "rms_norm": random(WIDTH)}
    for layer in range(LAYERS):
        sizes = {"query": (HEADS, WIDTH), "key": (KV_HEADS, WIDTH), "value": (KV_HEADS, WIDTH)}
        parts = {f"multi_head_attention.{name}": random(n * SIZE, width) for name, (n, width) in sizes.items()}
        parts |= {"multi_head_attention.linear": random(WIDTH, HEADS * SIZE), "router": 3 * random(EXPERTS, WIDTH)}
        parts |= {name: random(WIDTH) for name in ("rms_norm", "rms_norm_1", "rms_norm_2", "rms_norm_3")}
        for expert in range(EXPERTS):
            parts |= {f"moe.{expert}.{name}": random(FORWARD, WIDTH) for name in ("linear", "linear_v")}
            parts[f"moe.{expert}.linear_1"] = random(WIDTH, FORWARD)
        weights |= {f"decoder_layer.{layer}.{name}": x for name, x in parts.items()}
    return {f"transformer.{name}.weight": x for name, x in weights.items()}


def logits(weights: Weights, ids: list[int]) -> torch.Tensor:
    """As the model's code has it: the weights of the chosen experts keep the sum that the softmax over all gave."""

    def w(name: str) -> torch.Tensor:
        return weights[f"transformer.{name}.weight"]

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        return rms_norm(x, (WIDTH,), w(name), EPSILON)

    x = CONFIG["embedding_multiplier_scale"] * w("in_out_embed")[ids]
    future = torch.full((len(ids), len(ids)), float("-inf")).triu(1)
    for layer in range(LAYERS):
        at = f"decoder_layer.{layer}"
        y = normed(x, f"{at}.rms_norm")
        q, k, v = (
            (y @ w(f"{at}.multi_head_attention.{name}").T).view(len(ids), -1, SIZE)
            for name in ("query", "key", "value")
        )
        q, k = (rotated(each, frequencies(10000.0)) for each in (q, k))
        q, k, v = (each.repeat_interleave(HEADS // each.shape[1], 1).transpose(0, 1) for each in (q, k, v))
        scores = CAP * torch.tanh(CONFIG["attn_output_multiplier"] / CAP * (q @ k.mT)) + future
        seen = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + normed(seen @ w(f"{at}.multi_head_attention.linear").T, f"{at}.rms_norm_1")
        y = normed(x, f"{at}.rms_norm_2")
        shares, chosen = (y @ w(f"{at}.router").T).softmax(-1).topk(USED)
        made = torch.stack(
            [
                (gelu(y @ w(f"{at}.moe.{i}.linear").T, approximate="tanh") * (y @ w(f"{at}.moe.{i}.linear_v").T))
                @ w(f"{at}.moe.{i}.linear_1").T
                for i in range(EXPERTS)
            ],
            1,
        )
        y = (shares[..., None] * made.gather(1, chosen[..., None].expand(-1, -1, WIDTH))).sum(1)
        x = x + normed(y, f"{at}.rms_norm_3")
    return CONFIG["output_multiplier_scale"] * (normed(x, "rms_norm") @ w("in_out_embed").T)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With another model's tokenizer."""
    folder = build("llama", tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(made(), folder / "model.safetensors", {"format": "pt"})
    return folder


def test_logits_and_what_is_read_back(folder: Path, tmp_path: Path) -> None:
    file, weights = tmp_path / "model.gguf", made()
    conversion = write_gguf(folder, file, "F32")
    assert conversion.architecture == "grok"
    assert "transformers lacks its code" in str(conversion.cannot_run)
    ids = [(7 * i * i + 3 * i) % 380 + 1 for i in range(80)]
    expected = logits(weights, ids)
    with LlamaCpp(file) as llama:
        found = torch.from_numpy(llama.logits(ids))
    assert relative_error(found, expected) <= 1e-3
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    restored = dict(read_state_dict(GGUFFile.open(file)))
    assert restored.keys() - {"lm_head.weight"} == weights.keys()
    assert all(torch.equal(restored[key], x) for key, x in weights.items())


def test_the_published_settings() -> None:
    published = model_config(
        *("GrokForCausalLM", 64, 6144, 48, 8, 32768),
        max_position_embeddings=8192,
        model_type="grok",
        num_experts=8,
        num_experts_per_tok=2,
        rms_norm_eps=1e-5,
        **code("grok", "GrokForCausalLM"),
    )
    found = {key.removeprefix("grok."): kv.value for key, kv in read(published).items()}
    assert (found["expert_count"], found["expert_used_count"]) == (8, 2)
    assert (found["embedding_scale"], found["logit_scale"]) == pytest.approx((78.38367176906169, 0.5773502691896257))
    assert (found["attention.output_scale"], found["attn_logit_softcapping"]) == pytest.approx((128**-0.5, 30))


WRONG: list[dict[str, Any]] = [{"num_experts": "8"}, {"max_attn_value": 0}, {"rope_parameters": {"rope_type": "yarn"}}]


@pytest.mark.parametrize("changes", WRONG)
def test_settings_that_no_model_has(changes: dict[str, Any], folder: Path) -> None:
    with pytest.raises(HubquantError):
        plan(configure(folder, **changes))
