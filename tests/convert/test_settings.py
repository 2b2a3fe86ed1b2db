"""Every setting of every family is answered for: read, without effect, or refused."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, LlamaConfig, PreTrainedConfig

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import ARCHITECTURES
from hubquant.convert.config import read_architecture
from hubquant.convert.conversion import architecture_metadata
from hubquant.convert.settings import WITHOUT_EFFECT, canonical, check_answered, setting_notes, unanswered
from hubquant.errors import HubquantError, NotSupportedYet
from hubquant.models.classes import causal_classes, model_class
from tests.convert.test_defaults import CONFIGS, config_of, written

every = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: next(iter(each.classes)))


def default(architecture: Architecture) -> PreTrainedConfig:
    kind = CONFIG_MAPPING[next(iter(architecture.classes.values()))]
    return kind()


@every
def test_every_field_of_the_config_class_is_answered_for(architecture: Architecture) -> None:
    """A field that a later transformers adds fails here: see what it does, then read it or write it into a table."""
    assert unanswered(architecture, default(architecture)) == ()


def test_tables_name_nothing_that_no_class_has() -> None:
    configs = [(each, default(each)) for each in ARCHITECTURES]
    known = {each.name for _, config in configs for each in fields(config)}
    assert known >= WITHOUT_EFFECT
    for each, config in configs:
        names = {canonical(config, field.name) for field in fields(config)}
        assert {canonical(config, name) for name in (*each.layout, *each.without_effect)} <= names


TOGETHER = {  # of no effect alone
    *("sliding_window", "use_sliding_window", "max_window_layers"),
    *("num_experts", "top_k_experts", "moe_intermediate_size"),  # of Gemma 4 without experts
    *("use_double_wide_mlp", "vocab_size_per_layer_input"),  # of Gemma 4 without shared keys and layers' embeddings
    *("mamba_expand",),  # where mamba_d_ssm tells the width
    *("feed_forward_proj",),  # of T5 where dense_act_fn and is_gated_act are told too
    *("num_kv_heads",),  # of the older Falcon
    *("tie_word_embeddings",),  # of encoders
    *("rope_theta", "compress_rope_theta", "partial_rotary_factor"),  # of DeepSeek V4 where rope_parameters tells both
    *("position_embedding_type",),  # of Granite 4, which layer_types may contradict
}


def outcome(settings: dict[str, Any]) -> Any:
    try:
        architecture, config = read_architecture(settings)
        metadata = architecture_metadata(architecture, config)
        check_answered(architecture, config)
        bundles = [(each.sources, each.targets, each.values, each.operations) for each in architecture.bundles(config)]
        return metadata, bundles, architecture.notes(config)
    except HubquantError as error:
        return f"{error} ({error.hint})"


def others(value: object) -> list[Any]:
    """Values that the setting may have instead."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [2 * value, value + 1, 1]
    if isinstance(value, float):
        return [2 * value + 0.5]
    return [True, 1, 2.0] if value is None else ["relu"] if isinstance(value, str) else []


@pytest.mark.parametrize("name", CONFIGS)
def test_every_setting_changes_the_file_or_is_refused(name: str) -> None:
    whole = written(config_of(name))
    architecture, config = read_architecture(whole)
    before = outcome(whole)
    assert not isinstance(before, str)
    rest = WITHOUT_EFFECT | {*architecture.without_effect} | TOGETHER | {each.name for each in fields(PreTrainedConfig)}
    names = {canonical(config, each.name) for each in fields(config)} - {canonical(config, name) for name in rest}
    for field in sorted(names):
        changed = [value for value in others(whole.get(field)) if value != whole.get(field)]
        assert not changed or any(outcome(whole | {field: value}) != before for value in changed), field


@dataclass
class LaterConfig(LlamaConfig):
    """Llama's settings as a later transformers might have them."""

    attention_gate: bool = False


def test_a_setting_that_no_table_knows_is_refused_unless_it_is_the_default() -> None:
    llama, _ = read_architecture({"model_type": "llama"})
    assert unanswered(llama, LaterConfig()) == ("attention_gate",)
    check_answered(llama, LaterConfig())
    with pytest.raises(NotSupportedYet, match=r"attention_gate 'True' in config\.json") as caught:
        check_answered(llama, LaterConfig(attention_gate=True))
    assert caught.value.hint is not None


ROPE = {"rope_type": "default", "rope_theta": 1e4}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "is_causal": ("LlamaForCausalLM", {"is_causal": False}),
    "per_layer_config": ("LlamaForCausalLM", {"per_layer_config": {"1": {"intermediate_size": 64}}}),
    "use_bidirectional_attention": ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}),
    "attention_bias": ("SmolLM3ForCausalLM", {"attention_bias": True}),
    "rope": ("Cohere2ForCausalLM", {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}}),
    "qkv_bias": ("Qwen2MoeForCausalLM", {"qkv_bias": False}),
    "layer_types": ("Llama4ForCausalLM", {"layer_types": ["full_attention"] * 4}),
    "head_dim": ("NomicBertModel", {"head_dim": 32}),
    "position_embedding_type": ("BertModel", {"position_embedding_type": "relative_key"}),
    "swa_num_key_value_heads": ("MiMoV2FlashForCausalLM", {"swa_num_key_value_heads": 4}),
    "another share of a head": (
        "MiMoV2FlashForCausalLM",
        {"rope_parameters": {"full_attention": ROPE | {"partial_rotary_factor": 0.5}, "sliding_attention": ROPE}},
    ),
    "rotated numbers": (
        "MiMoV2FlashForCausalLM",
        {"head_dim": 64, "rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    ),
    "21 rotated numbers": ("StableLmForCausalLM", {"rope_parameters": ROPE | {"partial_rotary_factor": 0.27}}),
    "routed_scaling_factor": ("MiMoV2FlashForCausalLM", {"routed_scaling_factor": 2.5}),
    "rotary_scaling_factor": ("NomicBertModel", {"n_embd": 768, "n_head": 12, "rotary_scaling_factor": 2.0}),
}


@pytest.mark.parametrize("setting", REFUSED)
def test_settings_that_llama_cpp_has_no_place_for(setting: str) -> None:
    name, settings = REFUSED[setting]
    given = {"architectures": [name], "num_hidden_layers": 4}
    assert not isinstance(outcome(given), str)
    assert setting in outcome(given | settings)
    assert "(None)" not in outcome(given | settings)  # a step to take, or that there is none


@pytest.mark.parametrize(
    "name",
    [
        *("Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "OlmoForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        *("OlmoeForCausalLM", "Exaone4ForCausalLM", "NemotronForCausalLM", "PhiForCausalLM", "Phi3ForCausalLM"),
        *("StableLmForCausalLM", "Starcoder2ForCausalLM", "CohereForCausalLM", "Cohere2ForCausalLM"),
    ],
)
def test_heads_that_llama_cpp_cannot_load(name: str) -> None:
    """Where its table of tensors has one width for the model and for all heads."""
    heads = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32}
    layers = {"num_hidden_layers": 2, "sliding_window": None, "layer_types": ["full_attention"] * 2}
    given = {"architectures": [name], **layers, **heads}
    assert "4 heads of 32 in a model of width 256" in outcome(given)


def test_epsilons_that_transformers_does_not_read_everywhere() -> None:
    latent = {"architectures": ["DeepseekV3ForCausalLM"]}
    assert not isinstance(outcome(latent | {"rms_norm_eps": 1e-5}), str)  # Moonlight
    assert "rms_norm_eps 0.001" in outcome(latent | {"rms_norm_eps": 1e-3})
    assert "rms_norm_eps '1e-05'" in outcome({"architectures": ["Qwen3_5ForCausalLM"], "rms_norm_eps": 1e-5})


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"n_group": 7}, "a divisor of the 256 experts"),
        ({"n_group": 4, "topk_group": 8}, "no more than the 4 groups"),
        ({"n_group": 256, "topk_group": 4}, "llama.cpp wants fewer groups"),
    ],
)
def test_groups_of_experts_that_stop_llama_cpp(groups: dict[str, int], reason: str) -> None:
    assert reason in outcome({"architectures": ["DeepseekV3ForCausalLM"], **groups})


@pytest.mark.parametrize(
    ("name", "setting", "same", "other"),
    [
        ("LlamaForCausalLM", "hidden_act", ("silu", "swish"), "gelu"),
        ("GPT2LMHeadModel", "activation_function", ("gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh"), "relu"),
        ("Gemma3ForCausalLM", "hidden_activation", ("gelu_pytorch_tanh", "gelu_new"), None),
        ("FalconForCausalLM", "parallel_attn", (True,), None),
        ("DeepseekV3ForCausalLM", "rope_interleave", (True,), None),
    ],
)
def test_one_value_by_all_its_names(name: str, setting: str, same: tuple[Any, ...], other: object) -> None:
    given = {"architectures": [name], "num_hidden_layers": 2}
    assert not isinstance(outcome(given), str)
    for value in same:
        assert outcome(given | {setting: value}) == outcome(given)
    assert setting in outcome(given | {setting: other})


LEFTOVERS: dict[str, Any] = {
    "_name_or_path": "org/base",
    "_attn_implementation": "eager",
    "_flash_attn_2_enabled": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.31.0",
    "unsloth_fixed": True,
    "unsloth_version": "2025.1",
    "rope_scaling": None,
    "head_dim": None,
    "use_flash_attn": True,
    "fused_mlp": True,
    "pretraining_tp": 1,
    "use_cache": False,
    "attention_dropout": 0.1,
    "initializer_range": 0.1,
    "output_attentions": False,
    "architectures": None,
    "model_type": "llama",
    "tokenizer_class": "LlamaTokenizer",
    "max_length": 20,
    "pad_token_id": 0,
    "do_sample": True,
    "temperature": 0.7,
    "task_specific_params": {},
    "attn_config": {},
}


def test_leftovers_change_nothing() -> None:
    given = {"model_type": "llama", "num_hidden_layers": 2}
    architecture, config = read_architecture(given | LEFTOVERS)
    assert outcome(given | LEFTOVERS) == outcome(given)
    code = {"auto_map": {"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}}
    assert not [*setting_notes(architecture, config, given | LEFTOVERS | code)]
    assert not [*setting_notes(architecture, config, given | {"scale_residual": 0.3})]
    (note,) = setting_notes(architecture, config, given | code | {"scale_residual": 0.3})
    assert "scale_residual" in note


def read_by_code(module: ModuleType) -> Iterator[str]:
    """What a module of transformers asks a config for."""

    def is_config(node: ast.AST) -> bool:
        return getattr(node, "id", getattr(node, "attr", None)) == "config"

    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and is_config(node.value):
            yield node.attr
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "getattr" and is_config(node.args[0]):
            yield from (arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant))


@every
def test_the_code_asks_for_nothing_else(architecture: Architecture) -> None:
    """What is no field of the config class may still be in config.json, and the model's code may read it."""
    config = default(architecture)
    if config.model_type not in causal_classes():
        pytest.skip("transformers has the model in a larger one alone")
    module = importlib.import_module(model_class(config, architecture.generates).__module__)
    kinds = [value for value in vars(inspect.getmodule(type(config))).values() if inspect.isclass(value)]
    kinds = [kind for kind in kinds if issubclass(kind, PreTrainedConfig)]  # those of other towers too
    known = {name for kind in kinds for name in (*dir(kind()), *kind.attribute_map)} | {"summary_last_dropout"}
    read = {canonical(config, name) for name in architecture.reads(config)} | WITHOUT_EFFECT
    assert {name for name in read_by_code(module) if canonical(config, name) not in read} - known == set()


def test_config_json_stays_as_it_was_read() -> None:
    given = {"architectures": ["StableLmForCausalLM"], "rope_parameters": dict(ROPE)}
    read_architecture(given)
    assert given["rope_parameters"] == ROPE
