from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import ARCHITECTURES
from hubquant.convert.config import read_architecture
from hubquant.convert.conversion import architecture_metadata, file_order, plan_conversion, stream
from hubquant.convert.matching import check_tensors
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet
from hubquant.models.taps.tap import ModuleInput
from hubquant.models.tiny import build
from tests.support.conversion import Weights, configure, edit_weights, plan

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
SHALLOW: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llama", tmp_path_factory.mktemp("llama"), **SHALLOW)


@pytest.fixture
def folder(shallow: Path, tmp_path: Path) -> Path:
    """A tiny Llama that a test may spoil."""
    shutil.copytree(shallow, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_covers_the_model(family: str, tmp_path: Path) -> None:
    folder = build(family, tmp_path, num_hidden_layers=11, hidden_size=64, intermediate_size=96, head_dim=16)
    conversion = plan(folder)
    weights = load_file(folder / "model.safetensors")
    assert {name: shape for bundle in conversion.bundles for name, shape in bundle.source_shapes().items()} == {
        name: tuple(x.shape) for name, x in weights.items()
    }
    names = list(conversion.shapes)
    assert names[:3] == ["output.weight", "output_norm.weight", "token_embd.weight"]
    assert names == sorted(names, key=file_order)
    assert names.index("blk.2.attn_k.weight") < names.index("blk.10.attn_k.weight")
    hparams = {"n_layer": 11, "n_head": 4, "n_head_kv": 2, "n_embd": 64, "n_ff": 96, "n_expert": 0}
    assert hparams.items() <= conversion.hparams.items()
    assert conversion.hparams["n_vocab"] == len(weights["lm_head.weight"])
    linears = {
        name
        for name, module in AutoModelForCausalLM.from_pretrained(folder).named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert {tap.module for tap in conversion.taps.values()} == linears
    assert conversion.taps.keys() <= set(names)
    assert conversion.taps["blk.10.ffn_down.weight"] == ModuleInput("model.layers.10.mlp.down_proj")


def test_planning_reads_no_weights(folder: Path) -> None:
    checkpoint = Checkpoint.from_folder(folder)
    (folder / "model.safetensors").unlink()
    assert plan_conversion(folder, checkpoint).architecture == "llama"


def test_tied_embeddings_have_no_output(tmp_path: Path) -> None:
    conversion = plan(build("llama", tmp_path, tie_word_embeddings=True, **SHALLOW))
    assert "output.weight" not in conversion.shapes
    assert conversion.taps["token_embd.weight"] == ModuleInput("lm_head")


def test_a_stored_copy_of_the_tied_embedding_is_dropped_if_it_is_one(tmp_path: Path) -> None:
    def store(weights: Weights) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    folder = edit_weights(build("qwen3", tmp_path, tie_word_embeddings=True, **SHALLOW), store)
    checkpoint = Checkpoint.from_folder(folder)
    conversion = plan_conversion(folder, checkpoint)
    assert "output.weight" not in dict(stream(conversion, checkpoint))
    edit_weights(folder, lambda weights: weights["lm_head.weight"][0].add_(1))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight and model\.embed_tokens\.weight differ"):
        list(stream(conversion, checkpoint))


@pytest.mark.parametrize(("dtype", "expected"), [("float32", "F16"), ("float16", "F16"), ("bfloat16", "BF16")])
def test_unquantized_matrices_keep_the_checkpoints_float_type(dtype: str, expected: str, tmp_path: Path) -> None:
    folder = build("qwen2", tmp_path, dtype=getattr(torch, dtype), **SHALLOW)
    checkpoint = Checkpoint.from_folder(folder)
    conversion = plan_conversion(folder, checkpoint)
    assert conversion.float_type == expected
    assert {x.dtype for _, x in stream(conversion, checkpoint)} == {getattr(torch, dtype)}


def test_older_names_are_understood(tmp_path: Path) -> None:
    folder = build("gpt2", tmp_path, tie_word_embeddings=True, **SHALLOW)
    whole = dict(stream(plan(folder), Checkpoint.from_folder(folder)))

    def older(weights: Weights) -> None:
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)
        weights["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)

    edit_weights(folder, older)
    found = dict(stream(plan(folder), Checkpoint.from_folder(folder)))
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    edit_weights(folder, lambda weights: weights.update({"transformer.wte.weight": weights["wte.weight"].clone()}))
    with pytest.raises(CheckpointError, match=r"two tensors of the checkpoint are transformer\.wte\.weight"):
        plan(folder)


def test_streaming_some_tensors(folder: Path) -> None:
    checkpoint = Checkpoint.from_folder(folder)
    conversion = plan_conversion(folder, checkpoint)
    wanted = {"blk.0.attn_q.weight": {"F32"}, "token_embd.weight": {"F32", "Q8_0"}}
    assert [name for name, _ in stream(conversion, checkpoint, wanted)] == ["token_embd.weight", "blk.0.attn_q.weight"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite(value: float, dtype: torch.dtype, folder: Path) -> None:
    def spoil(weights: Weights) -> None:
        for name in weights:
            weights[name] = weights[name].to(dtype)
        weights["model.layers.0.mlp.up_proj.weight"][3, 5] = value

    checkpoint = Checkpoint.from_folder(edit_weights(folder, spoil))
    with pytest.raises(
        CheckpointError, match=r"layers\.0\.mlp\.up_proj\.weight holds 1 values that are NaN or infinite"
    ):
        list(stream(plan_conversion(folder, checkpoint), checkpoint))


def test_leftovers_of_older_checkpoints_are_ignored(folder: Path) -> None:
    def leave(weights: Weights) -> None:
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)

    assert len(plan(edit_weights(folder, leave)).shapes) == 12


def test_missing_tensors_are_named_and_counted(folder: Path) -> None:
    def remove(weights: Weights) -> None:
        del weights["model.norm.weight"], weights["model.layers.0.mlp.up_proj.weight"]
        weights["model.layers.0.mlp.fc.weight"] = torch.zeros(2)

    edit_weights(folder, remove)
    with pytest.raises(
        CheckpointError, match=r"2 tensors are missing: model\.norm\.weight, .*up_proj.*mlp\.fc\.weight"
    ):
        plan(folder)


def test_tensors_that_transformers_leaves_out_are_left_out(folder: Path) -> None:
    whole = plan(folder)

    def add(weights: Weights) -> None:
        weights["model.layers.1.input_layernorm.weight"] = torch.zeros(64)
        weights["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(64)
        weights["model.layers.0.self_attn.k_scale"] = torch.tensor(0.1)
        weights["model.layers.0.self_attn.rotary_emb.cos_cached"] = torch.zeros(4, 16)

    found = plan(edit_weights(folder, add))
    assert found.shapes == whole.shapes
    (note,) = found.notes
    assert note.startswith("4 tensors are not part of a llama model with this config.json, and left out")
    assert "q_proj.bias" in note


def test_tensors_that_transformers_computes_with_are_not_left_out(tmp_path: Path) -> None:
    folder = build("starcoder2", tmp_path, use_bias=True, **SHALLOW)
    architecture, config = read_architecture(json.loads((folder / "config.json").read_text()))
    bundles = [bundle for bundle in architecture.bundles(config) if "blk.0.attn_q.bias" not in bundle.targets]
    with pytest.raises(NotSupportedYet, match=r"1 tensor of this model: .*q_proj\.bias: .*computes with them"):
        check_tensors(architecture, config, bundles, Checkpoint.from_folder(folder).tensors)


def test_wrong_shapes_are_named_and_counted(folder: Path) -> None:
    configure(folder, intermediate_size=97)
    with pytest.raises(CheckpointError, match=r"3 tensors have other shapes .*\[64, 96\] instead of \[64, 97\]"):
        plan(folder)


def test_untied_without_output(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"1 tensor is missing: lm_head\.weight") as caught:
        plan(folder)
    assert '"tie_word_embeddings": true' in str(caught.value.hint)


def test_integer_weights(folder: Path) -> None:
    def quantize(weights: Weights) -> None:
        weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.int8)

    edit_weights(folder, quantize)
    with pytest.raises(NotSupportedYet, match=r"weights stored as I8.*lm_head\.weight"):
        plan(folder)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "mxfp4", "none of these"])
def test_quantized_sources_are_named(method: str, folder: Path) -> None:
    def pack(weights: Weights) -> None:
        weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(96, 8, dtype=torch.int32)

    edit_weights(folder, pack)
    configure(folder, quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(NotSupportedYet, match=rf"already quantized \({method}\)") as caught:
        plan(folder)
    assert "base_model" in str(caught.value.hint)
    with pytest.raises(NotSupportedYet) as caught:
        plan(configure(folder, _name_or_path="org/base"))
    assert str(caught.value.hint).endswith("made from: org/base")
    (folder / "README.md").write_text("---\nbase_model: [org/original]\n---\n")
    with pytest.raises(NotSupportedYet) as caught:
        plan(folder)
    assert str(caught.value.hint).endswith("made from: org/original")


UNKNOWN = {
    "LlamaForSequenceClassification": {"architectures": ["LlamaForSequenceClassification"]},
    "Qwen9ForCausalLM": {"architectures": ["Qwen9ForCausalLM"]},
    "gptj": {"architectures": None, "model_type": "gptj"},
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_architectures_list_the_nearest(name: str, folder: Path) -> None:
    configure(folder, **UNKNOWN[name])
    with pytest.raises(NotSupportedYet, match=name) as caught:
        plan(folder)
    nearest = "Qwen3ForCausalLM" if "Qwen" in name else "lama"
    assert name == "gptj" or nearest in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("PhiMoEForCausalLM", "sparsemixer"),
        ("PhimoeForCausalLM", "sparsemixer"),
        ("Grok1ForCausalLM", "its router's"),
        ("MiMoV2ForCausalLM", "one FP8 matrix"),
    ],
)
def test_what_only_llama_cpps_converter_takes_is_refused_with_the_reason(name: str, reason: str, folder: Path) -> None:
    with pytest.raises(NotSupportedYet, match=f"{name}'.*{reason}") as caught:
        plan(configure(folder, architectures=[name], model_type="other"))
    assert caught.value.hint is not None


def test_a_config_without_architectures(folder: Path) -> None:
    assert plan(configure(folder, architectures=...)).architecture == "llama"
    with pytest.raises(CheckpointError, match="neither architectures nor a model_type"):
        plan(configure(folder, model_type=...))


OUT_OF_RANGE = {
    "num_attention_heads": 0,
    "num_key_value_heads": 3,
    "num_hidden_layers": 10**12,
    "hidden_size": -64,
    "intermediate_size": 96.0,
    "head_dim": 15,
    "vocab_size": True,
    "max_position_embeddings": 1 << 40,
    "rms_norm_eps": float("nan"),
    "rope_parameters": "default",
}


@pytest.mark.parametrize("setting", OUT_OF_RANGE)
def test_values_out_of_range_are_named(setting: str, folder: Path) -> None:
    configure(folder, **{setting: OUT_OF_RANGE[setting]})
    with pytest.raises(CheckpointError, match=f"{setting} in config.json is"):
        plan(folder)


def test_a_text_is_no_number(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r'num_hidden_layers in config\.json is "2": it must be a whole number'):
        plan(configure(folder, num_hidden_layers="2"))


def test_a_width_that_heads_cannot_share(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"hidden_size in config.json is 62: it must be a multiple of the 4"):
        plan(configure(folder, hidden_size=62, head_dim=...))


def test_values_that_transformers_refuses(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json is no llama configuration: .*attention_dropout"):
        plan(configure(folder, attention_dropout="much"))


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
UNEVEN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "mscale": 0.5, "mscale_all_dim": 1.0}
LATENT: dict[str, Any] = {
    "num_experts_per_tok": 2,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
}
ROPES: dict[str, tuple[type[HubquantError], dict[str, Any], str]] = {
    "unknown type": (NotSupportedYet, {"rope_type": "ntk-by-parts", "factor": 2.0}, "rope type 'ntk-by-parts'"),
    "type of a type": (NotSupportedYet, {"rope_type": ["yarn"]}, "rope type"),
    "no factor": (CheckpointError, {"rope_type": "linear"}, "without 'factor'"),
    "zero factor": (CheckpointError, {"rope_type": "linear", "factor": 0}, "rope's factor"),
    "no theta": (CheckpointError, {"rope_theta": None}, "rope_theta"),
    "endless theta": (CheckpointError, {"rope_theta": float("inf")}, "rope_theta"),
    "crossed": (CheckpointError, LLAMA3 | {"low_freq_factor": 5.0}, "no more than high_freq_factor"),
    "partial": (NotSupportedYet, {"partial_rotary_factor": 0.5}, "partial rotary"),
    "other betas": (NotSupportedYet, {"rope_type": "yarn", "factor": 2.0, "beta_slow": 2.0}, "beta_slow 2.0"),
    "not truncated": (NotSupportedYet, {"rope_type": "yarn", "factor": 2.0, "truncate": False}, "without truncation"),
}


@pytest.mark.parametrize("case", ROPES)
def test_rope_settings_out_of_range(case: str, folder: Path) -> None:
    error, parameters, reason = ROPES[case]
    with pytest.raises(error, match=reason):
        plan(configure(folder, rope_parameters={"rope_theta": 10000.0} | parameters))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen3", {"attention_bias": True}),
        ("qwen2", {"hidden_act": "gelu"}),
        ("bitnet", {"hidden_act": "relu2", "tie_word_embeddings": True}),
        ("deepseek_v2", {"topk_method": "group_limited_greedy"} | LATENT),
        ("deepseek_v2", {"q_lora_rank": None} | LATENT),
        ("deepseek_v3", {"rope_interleave": False} | LATENT),
        ("deepseek_v3", {"mscale": 0.5} | LATENT | {"rope_parameters": UNEVEN}),
        ("ministral3", {"mscale": 0.5, "rope_parameters": UNEVEN | {"llama_4_scaling_beta": 0.1}}),
    ],
)
def test_settings_that_llama_cpp_does_not_compute(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = build(family, tmp_path, **SHALLOW, **changes)
    with pytest.raises(NotSupportedYet, match=next(iter(changes))):
        plan(folder)


def test_llama3_rope_is_for_llama(tmp_path: Path) -> None:
    parameters = LLAMA3 | {"rope_theta": 1e4, "original_max_position_embeddings": 64}
    with pytest.raises(NotSupportedYet, match="rope type 'llama3'"):
        plan(build("qwen2", tmp_path, rope_parameters=parameters, **SHALLOW))


def test_older_spellings_of_rope_are_understood(folder: Path) -> None:
    older = configure(
        folder, rope_parameters=..., rope_theta=5e5, rope_scaling={"type": "linear", "factor": 4}, head_dim=16
    )
    metadata = plan(older).metadata
    assert metadata["llama.rope.freq_base"].value == 5e5
    assert metadata["llama.rope.scaling.type"].value == "linear"
    assert metadata["llama.rope.scaling.factor"].value == 4.0


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({"a": 1})
SETTINGS = [
    *["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"],
    *["rms_norm_eps", "rope_theta", "rope_parameters", "rope_scaling", "tie_word_embeddings", "attention_bias"],
    *["architectures", "model_type", "quantization_config", "torch_dtype", "eos_token_id", "layer_types"],
]
ropes = st.dictionaries(
    st.sampled_from(["rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "mscale"]),
    values | st.sampled_from(["yarn", "llama3", "linear", "default", 2.0]),
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    family=st.sampled_from(FAMILIES),
    changes=st.dictionaries(st.sampled_from(SETTINGS), values, max_size=3),
    rope=st.none() | ropes,
)
def test_any_config_is_planned_or_refused(
    family: str, changes: dict[str, Any], rope: dict[str, Any] | None, shallow: Path
) -> None:
    checkpoint = Checkpoint.from_folder(shallow)
    config = AutoConfig.for_model(family, **SHALLOW, num_attention_heads=4).to_dict() | changes
    config |= {} if rope is None else {"rope_parameters": rope}
    try:
        architecture, parsed = read_architecture(config)
        for rule in architecture.rules:
            rule.metadata(parsed)
        if parsed.num_hidden_layers < 100:
            check_tensors(architecture, parsed, architecture.bundles(parsed), checkpoint.tensors)
    except HubquantError:
        pass


ODD: list[Any] = [None, True, -1, 0, 7, 10**12, -0.5, float("nan"), float("inf"), "x", [], ["x"], [1], {}, {"a": 1}]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: next(iter(each.classes)))
def test_odd_values_are_taken_or_refused_everywhere(architecture: Architecture) -> None:
    name, model_type = next(iter(architecture.classes.items()))
    config = AutoConfig.for_model(model_type, num_hidden_layers=2).to_dict() | {"architectures": [name]}
    said = {rule.setting for rule in architecture.rules if hasattr(rule, "setting")}
    for setting in sorted(said & config.keys()):
        for value in ODD:
            with suppress(HubquantError):
                architecture_metadata(*read_architecture(config | {setting: value}))


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: next(iter(each.classes)))
def test_gguf_knows_every_module(architecture: Architecture) -> None:
    model_type = next(iter(architecture.classes.values()))
    config = AutoConfig.for_model(model_type, num_hidden_layers=2)
    names = [name for bundle in architecture.bundles(config) for name in bundle.targets]
    assert len(set(names)) == len(names)
