"""general.* keys from a card, an id and generation_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hubquant.convert.rules.general import experts_of, general_metadata
from hubquant.gguf_file import plan_layout

CARD = yaml.safe_load("""
license: other
license_name: qwen
license_link: https://huggingface.co/Qwen/Qwen3-8B/blob/main/LICENSE
language: [en, no]
tags: [chat, math]
pipeline_tag: text-generation
base_model: [Qwen/Qwen3-8B-Base, https://example.org/other]
datasets: HuggingFaceFW/fineweb-edu
library_name: transformers
widget: {text: hello}
""")


def values(*arguments: Any, **options: Any) -> dict[str, Any]:
    return {key: kv.value for key, kv in general_metadata(*arguments, **options).items()}


def test_card_id_and_generation_config(tmp_path: Path) -> None:
    settings = {"temperature": 0.5, "top_k": 20, "top_p": 0.75, "repetition_penalty": 1.5, "do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert values(
        tmp_path, CARD, "Qwen/Qwen3-8B-Instruct-v2", 8_190_000_000, quantized_by="me", repo_url="https://u"
    ) == {
        "general.type": "model",
        "general.sampling.top_k": 20,
        "general.sampling.top_p": 0.75,
        "general.sampling.temp": 0.5,
        "general.sampling.penalty_repeat": 1.5,
        "general.name": "Qwen3 8B Instruct v2",
        "general.version": "v2",
        "general.organization": "Qwen",
        "general.finetune": "Instruct",
        "general.basename": "Qwen3",
        "general.quantized_by": "me",
        "general.size_label": "8B",
        "general.license": "other",
        "general.license.name": "qwen",
        "general.license.link": "https://huggingface.co/Qwen/Qwen3-8B/blob/main/LICENSE",
        "general.repo_url": "https://u",
        "general.source.repo_url": "https://huggingface.co/Qwen/Qwen3-8B-Instruct-v2",
        "general.base_model.count": 2,
        "general.base_model.0.name": "Qwen3 8B Base",
        "general.base_model.0.organization": "Qwen",
        "general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen3-8B-Base",
        "general.base_model.1.repo_url": "https://example.org/other",
        "general.dataset.count": 1,
        "general.dataset.0.name": "Fineweb Edu",
        "general.dataset.0.organization": "HuggingFaceFW",
        "general.dataset.0.repo_url": "https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu",
        "general.tags": ("chat", "math", "text-generation"),
        "general.languages": ("en", "no"),
    }


def test_keys_are_known_to_the_gguf_package(tmp_path: Path) -> None:
    known = {value for name, value in vars(gguf.Keys.General).items() if name.isupper()}
    numbered = {
        key.replace(f".{n}.", ".{id}.")
        for key in values(tmp_path, CARD, "a/b-8B", 8 * 10**9)
        for n in (0, 1)
        if f".{n}." in key
    }
    plain = {key for key in values(tmp_path, CARD, "a/b-8B", 8 * 10**9) if ".0." not in key and ".1." not in key}
    assert plain <= known
    assert numbered <= known


@pytest.mark.parametrize(
    ("n_parameters", "experts", "label"),
    [
        (8_030_000_000, {}, "8.0B"),
        (270_000_000, {}, "270M"),
        (46_700_000_000, {"n_experts": 8, "n_expert_parameters": 5_637_000_000}, "8x7.2B"),
    ],
)
def test_size_label(tmp_path: Path, n_parameters: int, experts: dict[str, int], label: str) -> None:
    assert values(tmp_path, None, "my model", n_parameters, **experts)["general.size_label"] == label
    assert "general.source.repo_url" not in values(tmp_path, None, "my model", n_parameters)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"temperature": "hot", "top_k": 1e99, "top_p": NaN, "min_p": true}']
)
def test_generation_config_that_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    assert not [key for key in values(tmp_path, None, None, 10**6) if "sampling" in key]


def test_experts_are_counted_by_their_stacks() -> None:
    shapes = {"blk.0.ffn_up_exps.weight": (8, 64, 32), "blk.0.ffn_up_exps.bias": (8, 64), "output.weight": (9, 32)}
    assert experts_of(shapes) == (8, 64 * 32 + 64)
    assert experts_of({"output.weight": (9, 32)}) == (0, 0)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates()
entries = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
fields = [
    "license",
    "license_name",
    "language",
    "tags",
    "pipeline_tag",
    "base_model",
    "datasets",
    "model_name",
    "author",
]


@given(st.dictionaries(st.sampled_from(fields), entries), st.none() | st.text())
def test_any_card_can_be_written(card: dict[str, Any], model_id: str | None) -> None:
    metadata = general_metadata(Path("/nowhere"), card, model_id, 10**6)
    assert plan_layout(metadata, []).size < 1_000_000
