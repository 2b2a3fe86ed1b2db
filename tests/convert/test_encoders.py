"""Encoders in llama.cpp's own runtime, against transformers' last hidden states."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoTokenizer,
    T5ForConditionalGeneration,
)

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.conversion import plan_conversion, read_bundle
from hubquant.convert.plain import plain_checkpoint
from hubquant.convert.restore import load_model, read_state_dict
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file import GGUFFile
from hubquant.models.encoder import Encoder
from hubquant.recipe.schema import ModelReference
from hubquant.sources.component import Component
from hubquant.sources.open import open_source
from tests.support.conversion import Weights, build_uneven, configure, edit_weights, plan, write_gguf
from tests.support.llamacpp import LlamaCpp
from tests.support.localhub import LocalHub

IDS = [2, *range(5, 90), 3]
POSITIONS = "embeddings.position_embeddings.weight"
TINY: dict[str, Any] = {
    **dict.fromkeys(("head_dim", "num_key_value_heads", "tie_word_embeddings"), ...),
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
ROBERTA: dict[str, Any] = TINY | {"type_vocab_size": 1, "pad_token_id": 1}
MODERN: dict[str, Any] = TINY | {"type_vocab_size": ..., "local_attention": 32, "num_hidden_layers": 5}
_OTHER_NAMES = ("intermediate_size", "initializer_range", "max_position_embeddings", "bos_token_id")
T5: dict[str, Any] = {
    **dict.fromkeys(("num_key_value_heads", "tie_word_embeddings", *_OTHER_NAMES), ...),
    "d_ff": 320,
    "head_dim": 32,
    "initializer_factor": 0.5,
    "pad_token_id": 0,
}
GEMMA: dict[str, Any] = {
    "use_bidirectional_attention": True,
    "sliding_window": 32,
    "num_hidden_layers": 7,
    "query_pre_attn_scalar": 64,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}
DISTIL: dict[str, Any] = {
    **dict.fromkeys(("head_dim", "num_key_value_heads", "intermediate_size", "hidden_size"), ...),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "tie_word_embeddings"), ...),
    "dim": 256,
    "hidden_dim": 512,
    "n_heads": 4,
    "n_layers": 2,
    "pad_token_id": 0,
}
AS_BERT = {
    "transformer.": "encoder.",
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", TINY),
    "camembert": ("camembert", ROBERTA),
    "roberta": ("roberta", ROBERTA),
    "xlm-roberta": ("xlm-roberta", ROBERTA),
    "distilbert": ("distilbert", DISTIL),
    "eurobert": ("eurobert", {"pad_token_id": 0}),
    "gemma3_text": ("gemma3_text", GEMMA),
    "jina_embeddings_v3": ("jina_embeddings_v3", TINY | {"type_vocab_size": 1, "pad_token_id": 1}),
    "modernbert": ("modernbert", MODERN),
    "modernbert with silu": ("modernbert", MODERN | {"hidden_activation": "silu"}),
    "nomic_bert": ("nomic_bert", TINY),
    "t5": ("t5", T5),
    "t5 with gates": ("t5", T5 | {"feed_forward_proj": "gated-gelu"}),
    "mt5": ("mt5", T5),
    "umt5": ("umt5", T5),
}


RERANKERS = ("bert", "modernbert", "roberta", "xlm-roberta")


def build(name: str, folder: Path) -> Path:
    family, settings = MODELS[name]
    return build_uneven(family, folder, **settings)


def hidden(model: torch.nn.Module) -> NDArray[np.float32]:
    with torch.no_grad():
        result: NDArray[np.float32] = model(torch.tensor([IDS])).last_hidden_state[0].numpy()
    return result


def close(found: NDArray[np.float32], expected: NDArray[np.float32], limit: float) -> bool:
    return bool(np.abs(found - expected).max() <= limit * np.abs(expected).max())


@pytest.mark.parametrize("family", MODELS)
def test_embeddings_equal_transformers(family: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder, file = build(family, tmp_path / "model"), tmp_path / "model.gguf"
    auto: Any = AutoModelForTextEncoding if "t5" in family else AutoModel
    expected = hidden(auto.from_pretrained(folder, dtype=torch.float32).eval())
    write_gguf(folder, file, "F32")
    with LlamaCpp(file, encoder=True) as llama:
        assert close(llama.embeddings(IDS), expected, 2e-3)  # GELU by a table of half floats
    assert close(hidden(load_model(file)), expected, 1e-5)


@pytest.mark.parametrize(("mode", "pooling"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")])
def test_pooled_embeddings_are_llama_cpps(mode: str, pooling: Any, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder, file = build("bert", tmp_path / "model"), tmp_path / "model.gguf"
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
    write_gguf(folder, file, "F32")
    component = Component.language_model(open_source(ModelReference(folder=str(folder))))
    assert (component.pooling, component.names_pooling) == (pooling, True)
    expected = Encoder(component.source.load(device="cpu"), component.pooling)(torch.tensor(IDS)).numpy()
    with LlamaCpp(file, pooled=True) as llama:
        found = llama.pooled_embedding(IDS)
    assert found @ expected > 0.9999 * np.linalg.norm(found) * np.linalg.norm(expected)


def modules(folder: Path, **settings: dict[str, Any]) -> Path:
    """With modules of sentence-transformers by their folders, such as 1_Pooling; dense ones have random weights."""
    names = ["", *settings]
    kinds = {name: f"sentence_transformers.models.{name.partition('_')[2] or 'Transformer'}" for name in names}
    listed = [{"idx": i, "name": str(i), "path": name, "type": kinds[name]} for i, name in enumerate(names)]
    (folder / "modules.json").write_text(json.dumps(listed))
    torch.manual_seed(2)
    for name, content in settings.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(content))
        if name.endswith("Dense"):
            shape = (content["out_features"], content["in_features"])
            save_file({"linear.weight": torch.randn(shape) / 16}, folder / name / "model.safetensors")
    return folder


def dense(n_in: int, n_out: int, **other: Any) -> dict[str, Any]:
    activation = "torch.nn.modules.linear.Identity"
    return {"in_features": n_in, "out_features": n_out, "bias": False, "activation_function": activation, **other}


MEAN = {"pooling_mode_mean_tokens": True}


def test_dense_modules_are_llama_cpps(tmp_path: Path) -> None:
    """What comes of a text goes through them in llama.cpp, in the source and in the file read back."""
    pytest.importorskip("xllamacpp")
    folder, file = build("gemma3_text", tmp_path / "model"), tmp_path / "model.gguf"
    modules(folder, **{"1_Pooling": MEAN, "2_Dense": dense(256, 320), "3_Dense": dense(320, 256)})
    conversion = write_gguf(folder, file, "F32")
    sizes = {key: kv.value for key, kv in conversion.metadata.items() if "_feat_" in key}
    assert [*sizes.values()] == [256, 320, 320, 256]
    component = Component.language_model(open_source(ModelReference(folder=str(folder))))
    ids = torch.tensor(IDS)
    source = Encoder(component.source.load(device="cpu"), component.pooling)(ids)
    weights = [load_file(folder / name / "model.safetensors")["linear.weight"] for name in ("2_Dense", "3_Dense")]
    states = torch.from_numpy(hidden(AutoModel.from_pretrained(folder, dtype=torch.float32).eval()))
    torch.testing.assert_close(source, weights[1] @ (weights[0] @ states.mean(0)))
    torch.testing.assert_close(Encoder(load_model(file), "mean")(ids), source)
    with LlamaCpp(file, pooled=True) as llama:
        assert close(llama.pooled_embedding(IDS), source.numpy(), 2e-3)
    found = dict(read_state_dict(GGUFFile.open(file)))
    assert torch.equal(found["2_Dense.linear.weight"], weights[0])
    assert torch.equal(found["3_Dense.linear.weight"], weights[1])


def test_dense_modules_on_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    folder = modules(
        build("gemma3_text", tmp_path / "model"),
        **{"1_Pooling": MEAN, "2_Dense": dense(256, 320), "3_Dense": dense(320, 256)},
    )
    hub.add("org/embedding", folder)
    found = open_source(ModelReference(id="org/embedding")).conversion()
    assert found.shapes == plan(folder).shapes
    assert found.shapes["dense_2.weight"] == (320, 256)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"2_Dense": dense(256, 256)}, "2_Dense, 3_Dense"),
        ({"2_Dense": dense(256, 320), "3_Dense": dense(320, 128)}, "back to it"),
        ({"2_Dense": dense(256, 320, bias=True), "3_Dense": dense(320, 256)}, "nothing else"),
        ({"2_Dense": dense(256, 8), "3_Dense": dense(8, 256, activation_function="torch.nn.Tanh")}, "nothing else"),
    ],
)
def test_dense_modules_that_llama_cpp_does_not_compute(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(NotSupportedYet, match=message):
        plan(modules(build("gemma3_text", tmp_path), **settings))


def test_dense_modules_without_a_place_are_noted(tmp_path: Path) -> None:
    folder = modules(build("bert", tmp_path), **{"1_Pooling": MEAN, "2_Dense": dense(256, 64)})
    conversion = plan(folder)
    assert any("before 2_Dense" in note for note in conversion.notes)
    assert not any("Dense" in name or "dense_2" in name for name in conversion.shapes)
    (folder / "2_Dense" / "model.safetensors").unlink()
    assert any("2_Dense has no model.safetensors" in note for note in plan(folder).notes)


ANSWERS = {"true_token_id": 20, "false_token_id": 30}


@pytest.mark.parametrize(
    ("tied", "answers"),
    [(True, ANSWERS), (False, ANSWERS), (False, {"true_token_id": 20, "false_token_id": None})],
    ids=["tied", "untied", "one answer"],
)
def test_answers_of_a_reranker(tied: bool, answers: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = build_uneven("qwen3", tmp_path / "model", tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    logits = model(torch.tensor([IDS])).logits[0, -1]
    false = answers["false_token_id"]
    expected = torch.sigmoid(logits[20] - (0 if false is None else logits[false]))
    check_reranker(modules(folder, **{"1_LogitScore": answers}), float(expected))


def test_one_score_of_a_reranker(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = build_uneven("qwen3", tmp_path / "model")
    config = AutoConfig.from_pretrained(folder, num_labels=1, pad_token_id=0)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config).eval().requires_grad_(False)
    model.save_pretrained(folder)
    head = check_reranker(folder, float(torch.sigmoid(model(torch.tensor([IDS])).logits)))
    assert torch.equal(head, model.score.weight)


def check_reranker(folder: Path, expected: float) -> torch.Tensor:
    """The weights of its score, read back, after llama.cpp has given the ``expected`` score."""
    file = folder.parent / "model.gguf"
    conversion = write_gguf(folder, file, "F32")
    assert conversion.metadata["qwen3.classifier.output_labels"].value == ("yes", "no")
    assert "no template for pairs" in conversion.notes[0]
    with LlamaCpp(file, pooled=True) as llama:
        assert abs(llama.score(IDS) - expected) < 1e-4
    component = Component.language_model(open_source(ModelReference(folder=str(folder))))
    assert (component.embeds, component.pooling) == (True, "last")
    assert close(hidden(load_model(file)), hidden(component.source.load(device="cpu")), 1e-6)
    return dict(read_state_dict(GGUFFile.open(file)))["score.weight"]


@pytest.mark.parametrize("told", ["card", "name"])
def test_rerankers_of_qwen3_are_told_by_their_card_or_name(told: str, tmp_path: Path) -> None:
    folder = build_uneven("qwen3", tmp_path / ("model" if told == "card" else "Qwen3-Reranker-0.6B"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    if told == "card":
        (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Qwen3-Reranker-0.6B\n")
    with pytest.raises(CheckpointError, match="no tokens yes and no"):
        plan(folder)
    for old, new in zip([*vocabulary][-2:], ("yes", "no"), strict=True):
        vocabulary[new] = vocabulary.pop(old)
    tokenizer["model"]["merges"] = [merge for merge in tokenizer["model"]["merges"] if "".join(merge) in vocabulary]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    checkpoint = Checkpoint.from_folder(folder)
    assert checkpoint.config["score_module"]["true_token_id"] == vocabulary["yes"]
    conversion = plan_conversion(folder, checkpoint)
    assert conversion.metadata["tokenizer.chat_template.rerank"].value.endswith("</think>\n\n")
    (head,) = (bundle for bundle in conversion.bundles if "cls.output.weight" in bundle.targets)
    rows = read_bundle(head, plain_checkpoint(checkpoint))["cls.output.weight"]
    output = load_file(folder / "model.safetensors")["lm_head.weight"]
    assert torch.equal(rows, output[[vocabulary["yes"], vocabulary["no"]]])


def test_a_decoder_with_a_pooling_is_measured_by_its_embeddings(tmp_path: Path) -> None:
    """As Qwen3-Embedding is published: the whole model's class, without an output layer."""
    pytest.importorskip("xllamacpp")
    folder, file = build_uneven("qwen3", tmp_path / "model"), tmp_path / "model.gguf"
    expected = hidden(AutoModel.from_pretrained(folder, dtype=torch.float32).eval())[-1]
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    modules(folder, **{"1_Pooling": {"pooling_mode_lasttoken": True}})
    write_gguf(folder, file, "F32")
    for place in (folder, file):
        reference = ModelReference(folder=str(place)) if place == folder else ModelReference(file=str(place))
        component = Component.language_model(open_source(reference))
        assert (component.embeds, component.pooling, component.inputs) == (True, "last", "tokens")
        encoder = Encoder(component.source.load(device="cpu"), component.pooling)
        assert close(encoder(torch.tensor(IDS)).numpy(), expected, 1e-5)
    with LlamaCpp(file, pooled=True) as llama:
        assert close(llama.pooled_embedding(IDS), expected, 1e-3)


@pytest.mark.parametrize(("family", "pooling"), [*((family, "cls") for family in RERANKERS), ("modernbert", "mean")])
def test_scores_equal_transformers(family: str, pooling: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    settings = MODELS[family][1]
    folder, file = build(family, tmp_path / "encoder"), tmp_path / "model.gguf"
    config = AutoConfig.from_pretrained(folder, num_labels=1, classifier_pooling=pooling)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.base_model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    model.save_pretrained(folder)
    converted = write_gguf(folder, file, "F32")
    assert bool(converted.notes) == (settings["type_vocab_size"] not in (1, ...))
    with torch.no_grad():
        expected = float(model(torch.tensor([IDS])).logits)
    with LlamaCpp(file, pooled=True) as llama:
        assert abs(llama.score(IDS) - expected) < 0.01  # scores are about as large as 3
    assert close(hidden(load_model(file)), hidden(model.base_model), 1e-5)
    component = Component.language_model(open_source(ModelReference(folder=str(folder))))
    assert (component.embeds, component.pooling) == (True, pooling)
    assert close(hidden(component.source.load(device="cpu")), hidden(model.base_model), 1e-5)
    found = dict(read_state_dict(GGUFFile.open(file)))
    head = {name: x for name, x in model.state_dict().items() if re.search(r"pooler|classifier|^head", name)}
    names = {} if family == "modernbert" else {r".*\.dense": "pooler.dense", r"\.out_proj": ""}
    for name, x in head.items():
        for pattern, new in names.items():
            name = re.sub(pattern, new, name)
        assert torch.equal(found[name], x)


def test_jina_v3_as_its_own_code_has_it(tmp_path: Path) -> None:
    """Its adapters for tasks are left out."""
    folder = build("jina_embeddings_v3", tmp_path)
    converted = plan(folder)
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]["rope_theta"]
    own = {"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta", "rope_parameters": ..., "lora_rank": 4}
    own |= {"position_embedding_type": "rotary", "rotary_emb_base": rope, "lora_adaptations": ["retrieval.query"]}
    configure(folder, **own, auto_map={"AutoModel": "modeling.Model"})

    def parametrized(weights: Weights) -> None:
        for name in list(weights):
            x = weights.pop(name)
            adapted = x.dim() > 1
            weights[f"roberta.{name[:-7]}.parametrizations.weight.original" if adapted else f"roberta.{name}"] = x
            if adapted:
                weights[f"roberta.{name[:-7]}.parametrizations.weight.0.lora_A"] = torch.zeros(1, 4, x.shape[1])

    edit_weights(folder, parametrized)
    found = plan(folder)
    assert found.metadata == converted.metadata
    assert found.shapes == converted.shapes
    assert [note for note in found.notes if "without a task" in note] == [*found.notes]
    component = Component.language_model(open_source(ModelReference(folder=str(folder))))
    assert hidden(component.source.load(device="cpu")).shape == (len(IDS), 256)


@pytest.mark.parametrize("family", MODELS)
def test_reading_back_gives_the_same_weights(family: str, tmp_path: Path) -> None:
    folder, file = build(family, tmp_path / "model"), tmp_path / "model.gguf"
    write_gguf(folder, file, "F32")
    source = {name: x for name, x in load_file(folder / "model.safetensors").items() if not name.startswith("pooler.")}
    found = dict(read_state_dict(GGUFFile.open(file)))
    if family == "distilbert":
        for old, new in AS_BERT.items():
            source = {name.replace(old, new): x for name, x in source.items()}
        source["embeddings.token_type_embeddings.weight"] = torch.zeros(1, 256)
    if family in ("camembert", "roberta", "xlm-roberta"):  # whose first positions are of no text
        source[POSITIONS] = source[POSITIONS][2:]
    assert found.keys() == source.keys()
    # Gemma's norms are stored as 1 + x
    same = (lambda a, b: torch.allclose(a, b, atol=2**-22)) if family == "gemma3_text" else torch.equal
    assert all((same if x.dim() == 1 else torch.equal)(found[name], x) for name, x in source.items())


def test_checkpoints_of_older_code(tmp_path: Path) -> None:
    folder = build("bert", tmp_path)
    shapes = plan(folder).shapes

    def older(weights: Weights) -> None:
        for name in list(weights):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            weights[f"bert.{old}"] = weights.pop(name)
        weights["cls.predictions.bias"] = torch.zeros(4)

    edit_weights(folder, older)
    assert plan(folder).shapes == shapes


def test_nomics_own_config_is_understood(tmp_path: Path) -> None:
    folder = build("nomic_bert", tmp_path)
    path = folder / "config.json"
    metadata = plan(folder).metadata
    config = json.loads(path.read_text())
    own = {
        "model_type": "nomic_bert",
        "architectures": ["NomicBertModel"],
        "n_embd": config["hidden_size"],
        "n_head": config["num_attention_heads"],
        "n_inner": config["intermediate_size"],
        "n_layer": config["num_hidden_layers"],
        "n_positions": 8192,
        "max_trained_positions": config["max_position_embeddings"],
        "layer_norm_epsilon": config["layer_norm_eps"],
        "rotary_emb_base": config["rope_parameters"]["rope_theta"],
        "activation_function": "swiglu",
        "vocab_size": config["vocab_size"],
        "type_vocab_size": 2,
        "qkv_proj_bias": False,
    }
    path.write_text(json.dumps(own))
    assert plan(folder).metadata == metadata
    path.write_text(json.dumps(own | {"qkv_proj_bias": True}))
    with pytest.raises(NotSupportedYet, match="qkv_proj_bias"):
        plan(folder)


def test_pooling_comes_from_sentence_transformers(tmp_path: Path) -> None:
    folder = build("bert", tmp_path)
    assert "bert.pooling_type" not in plan(folder).metadata
    (folder / "1_Pooling").mkdir()
    file = folder / "1_Pooling" / "config.json"
    file.write_text(json.dumps({"word_embedding_dimension": 256, "pooling_mode_mean_tokens": True}))
    assert plan(folder).metadata["bert.pooling_type"].value == 1
    for mode, number in (("mean", 1), ("cls", 2), ("lasttoken", 3)):
        file.write_text(json.dumps({"embedding_dimension": 256, "pooling_mode": mode}))
        assert plan(folder).metadata["bert.pooling_type"].value == number
    file.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(NotSupportedYet, match="pooling_mode_max_tokens"):
        plan(folder)


@pytest.mark.parametrize("family", ["t5", "umt5"])
def test_t5s_tokens_are_transformers_in_llama_cpp(family: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder, file = build(family, tmp_path / "model"), tmp_path / "model.gguf"
    metadata = write_gguf(folder, file, "F16").metadata
    keys = {name: metadata[f"tokenizer.ggml.{name}"].value for name in ("model", "add_bos_token", "add_eos_token")}
    assert keys == {"model": "t5", "add_bos_token": False, "add_eos_token": True}
    source = AutoTokenizer.from_pretrained(folder)
    with LlamaCpp(file) as llama:
        for text in ("Hello world! The quick  brown fox — ½", "x<extra_id_3>y", ""):
            assert llama.tokenize(text) == source(text)["input_ids"]


def test_of_a_whole_t5_the_encoder_is_converted(tmp_path: Path) -> None:
    """With the embedding under either of its names, or both."""
    folder = build("t5", tmp_path / "encoder")
    shapes = plan(folder).shapes
    config = AutoConfig.from_pretrained(folder)
    whole = build("t5", tmp_path / "whole")
    T5ForConditionalGeneration(config).save_pretrained(whole)
    converted = plan(whole)
    assert converted.shapes == shapes
    assert any("left out" in note and "decoder." in note for note in converted.notes)

    def copied(weights: Weights) -> None:
        weights["encoder.embed_tokens.weight"] = weights["shared.weight"].clone()

    assert plan(edit_weights(folder, copied)).shapes == shapes

    def renamed(weights: Weights) -> None:
        weights.pop("shared.weight")

    assert plan(edit_weights(folder, renamed)).shapes == shapes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward_proj": "gated-silu"}, "gated-silu"),
        ({"dense_act_fn": "silu"}, "silu"),
        ({"relative_attention_max_distance": 64}, "relative_attention_max_distance"),
    ],
)
def test_what_llama_cpp_does_not_compute_of_t5_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = configure(build("t5 with gates", tmp_path), **changes)
    with pytest.raises(NotSupportedYet, match=message):
        plan(folder)
