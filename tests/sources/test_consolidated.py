"""Models in Mistral's own format: the same files come of them as of those that transformers saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hubquant.convert.conversion import stream
from hubquant.errors import HubquantError, TokenizerError
from hubquant.models.tiny import CORPUS, build
from hubquant.recipe.schema import ModelReference
from hubquant.sources.open import open_source
from hubquant.sources.projector import needed_projector
from hubquant.sources.source import SourceModel
from tests.sources.test_open import pulled
from tests.support.cli import hubquant
from tests.support.conversion import assert_same, edit_weights, uneven
from tests.support.localhub import LocalHub
from tests.support.mistral import N_TOKENS, as_published, save, tekken, transformers_tokenizer
from tests.support.multimodal import build_multimodal

SMALL: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
SIZE = {"vocab_size": N_TOKENS, "bos_token_id": 1, "eos_token_id": 2}
CONTEXT = {"max_position_embeddings": 512}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128}
TEMPERED = YARN | {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mistral": ("mistral", {"sliding_window": None, "dtype": torch.bfloat16}, CONTEXT),
    "mistral, tied, with a window": (
        "mistral",
        {"sliding_window": 100, "tie_word_embeddings": True, "head_dim": 32},
        {"max_seq_len": 512, "sliding_window": 100},
    ),
    "ministral3": (
        "ministral3",
        {"rope_parameters": TEMPERED},
        CONTEXT
        | {
            "yarn": YARN | {"apply_scale": False, "beta": 32, "alpha": 1},
            "llama_4_scaling": {"original_max_position_embeddings": 128, "beta": 0.1},
        },
    ),
    "mixtral": (
        "mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2},
        CONTEXT | {"moe": {"num_experts": 4, "num_experts_per_tok": 2}},
    ),
}


def layouts(name: str, root: Path) -> tuple[Path, Path]:
    """As transformers saves it, and as Mistral does."""
    family, settings, params = MODELS[name]
    folder = edit_weights(build(family, root / "model", **(SMALL | SIZE | settings)), uneven)
    transformers_tokenizer(tekken(folder / "tekken.json")).save_pretrained(folder)
    return folder, as_published(folder, root / "published" / "model", params)


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return layouts("mistral", tmp_path_factory.mktemp("mistral"))


def opened(folder: Path) -> SourceModel:
    return open_source(ModelReference(folder=str(folder)))


def assert_same_file(found: SourceModel, expected: SourceModel) -> None:
    ours, theirs = found.conversion(), expected.conversion()
    assert ours.metadata == theirs.metadata
    assert found.general_metadata(ours.shapes) == expected.general_metadata(theirs.shapes)
    assert_same(dict(stream(ours, found.checkpoint)), dict(stream(theirs, expected.checkpoint)))


@pytest.mark.parametrize("name", MODELS)
def test_they_are_the_same_model(name: str, tmp_path: Path) -> None:
    folder, published = layouts(name, tmp_path)
    source, expected = opened(published), opened(folder)
    assert_same_file(source, expected)
    ids = torch.arange(20, 60)[None]
    assert torch.equal(source.load(device="cpu")(ids).logits, expected.load(device="cpu")(ids).logits)
    text = "Hello world 12345, über — 日本語 [INST]x</s>"
    assert source.tokenizer()(text).input_ids == expected.tokenizer()(text).input_ids
    assert any("Mistral's own format" in note for note in source.conversion().notes)


PIXTRAL = {"num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16, "hidden_act": "silu", "image_size": 112}
SEEING = {
    "hidden_size": 32,
    "num_channels": 3,
    "image_size": 112,
    "patch_size": 14,
    "rope_theta": 10000.0,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_token_id": 10,
    "image_break_token_id": 12,
    "adapter_bias": False,
}
MERGING = {"mm_projector_id": "patch_merge", "spatial_merge_size": 2, "add_pre_mm_projector_layer_norm": True}


@pytest.mark.parametrize("family", ["mistral3", pytest.param("llava", marks=pytest.mark.slow)])
def test_one_that_sees(family: str, tmp_path: Path) -> None:
    """Language model and projector; how pictures are prepared is told by code of Mistral's alone."""
    whole: dict[str, Any] = {"multimodal_projector_bias": False}
    if family == "llava":
        whole |= {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    sizes = {"rms_norm_eps": 1e-5, "seeing": PIXTRAL, "whole": whole, **SMALL, **SIZE}
    folder = build_multimodal(family, "mistral", "pixtral", tmp_path / "model", **sizes)
    transformers_tokenizer(tekken(folder / "tekken.json")).save_pretrained(folder)
    seeing = SEEING | (MERGING if family == "mistral3" else {})
    published = as_published(folder, tmp_path / "published" / "model", CONTEXT | {"vision_encoder": seeing})
    source, expected = opened(published), opened(folder)
    assert_same_file(source, expected)
    colours = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    (folder / "preprocessor_config.json").write_text(json.dumps(colours))
    assert_same_file(needed_projector(opened(published)), needed_projector(opened(folder)))


def fp8(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As Mistral quantizes: one factor for a matrix of a layer, and those of a runtime that computes in FP8."""
    found = dict(weights)
    for name, x in weights.items():
        if x.dim() == 2 and name.startswith("layers."):
            stem, scale = name.removesuffix("weight"), x.float().abs().max() / 448
            found[name] = (x.float() / scale).to(torch.float8_e4m3fn)
            found |= {f"{stem}qscale_weight": scale, f"{stem}qscale_act": torch.ones(())}
    found["layers.0.attention.kv_fake_quantizer.qscale_act"] = torch.ones(())
    return found


def test_fp8(mistral: tuple[Path, Path], tmp_path: Path) -> None:
    folder, published = mistral[0], Path(shutil.copytree(mistral[1], tmp_path / "model"))
    weights = fp8(load_file(published / "consolidated.safetensors"))
    save(weights, published / "consolidated.safetensors")
    settings = json.loads((published / "params.json").read_text())
    quantized = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
    (published / "params.json").write_text(json.dumps(settings | {"quantization": quantized}))
    found = dict(stream((source := opened(published)).conversion(), source.checkpoint))
    name = "blk.1.attn_q.weight"
    expected = dict(stream((model := opened(folder)).conversion(), model.checkpoint))[name].float()
    assert float((found[name] - expected).abs().max() / expected.abs().max()) < 0.04
    codes, scale = weights["layers.1.attention.wq.weight"], weights["layers.1.attention.wq.qscale_weight"]
    assert torch.equal(found[name], codes.float() * scale)  # GGUF's order of rows is Mistral's own


@pytest.mark.parametrize("index", [False, True])
def test_in_shards_on_the_hub(index: bool, mistral: tuple[Path, Path], hub: LocalHub, tmp_path: Path) -> None:
    folder, place = mistral[0], Path(shutil.copytree(mistral[1], tmp_path / "model"))
    weights = load_file(place / "consolidated.safetensors")
    files = {name: f"consolidated-0000{1 + ('layers.1' in name)}-of-00002.safetensors" for name in weights}
    for file in set(files.values()):
        save({name: x for name, x in weights.items() if files[name] == file}, place / file)
    (place / "consolidated.safetensors").unlink()
    if index:
        (place / "consolidated.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    hub.add("mistralai/model", place)
    source = open_source(ModelReference(id="mistralai/model"))
    assert source.weight_files == tuple(sorted(set(files.values())))
    assert source.download_bytes == sum((place / file).stat().st_size for file in source.weight_files)
    on_disk = pulled(source, tmp_path)
    expected = opened(folder)
    assert on_disk.conversion().metadata == expected.conversion().metadata
    assert_same(
        dict(stream(on_disk.conversion(), on_disk.checkpoint)), dict(stream(expected.conversion(), expected.checkpoint))
    )


def test_a_piece_of_a_sentence(mistral: tuple[Path, Path], tmp_path: Path) -> None:
    """tokenizer.model of a version stands beside older ones, and is the same file under another name."""
    folder, place = (
        Path(shutil.copytree(each, tmp_path / name / "model")) for each, name in zip(mistral, "ab", strict=True)
    )
    train(place / "tokenizer.model.v3")
    (place / "tokenizer.model.v1").write_bytes(b"older")
    for name in ("tekken.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
    (place / "tekken.json").unlink()
    shutil.copy(place / "tokenizer.model.v3", folder / "tokenizer.model")
    assert_same_file(opened(place), opened(folder))
    assert opened(place).tokenizer()("Hello world").input_ids == opened(folder).tokenizer()("Hello world").input_ids


def train(path: Path) -> None:
    import io

    import sentencepiece

    written = io.BytesIO()
    lines = [line for text in CORPUS for line in text.split("\n")]
    options = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        model_type="bpe",
        vocab_size=N_TOKENS,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    path.write_bytes(written.getvalue())


def test_tekken_without_special_tokens(mistral: tuple[Path, Path], tmp_path: Path) -> None:
    """The first files named none: mistral-common has them in its code, and fills up with numbered ones."""
    place = Path(shutil.copytree(mistral[1], tmp_path / "model"))
    before = opened(place).conversion().metadata
    tekken(place / "tekken.json", specials=False)
    assert opened(place).conversion().metadata == before
    tokens = before["tokenizer.ggml.tokens"].value
    assert isinstance(tokens, tuple)
    assert tokens[19:25] == ("[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_21>", "<SPECIAL_22>", "<SPECIAL_23>", "Ā")


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


PARAMS: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({"model_type": "mamba"}, "model_type 'mamba' in Mistral's own format"),
    "latent": ({"kv_lora_rank": 8}, "latent attention and shared experts"),
    "sound": ({"multimodal": {"whisper_model_args": {}}}, "models with sound"),
    "both directions": ({"causal": False}, "attention in both directions"),
    "another type": ({"n_heads": "four"}, r"params\.json cannot be used: n_heads is 'four', not a whole number"),
    "other quantization": ({"quantization": {"qformat_weight": "int3"}}, "int3"),
    "heads": ({"n_heads": 3}, "."),
}


@pytest.mark.parametrize("name", PARAMS)
def test_what_params_say_that_is_not_read(name: str, mistral: tuple[Path, Path], tmp_path: Path) -> None:
    place = Path(shutil.copytree(mistral[1], tmp_path / "model"))
    change, message = PARAMS[name]
    edit(place / "params.json", lambda params: params | change)
    with pytest.raises(HubquantError, match=message):
        opened(place).conversion()


TEKKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no base64": (lambda x: x["vocab"][300].update(token_bytes="%"), "token_bytes of token 300 is not base64"),
    "another order": (lambda x: x["vocab"].reverse(), "token 0 of its vocab is not in the order of ranks"),
    "ranks": (lambda x: x["special_tokens"][3].update(rank=30), "ranks of its special_tokens"),
    "too few": (lambda x: x["config"].update(default_num_special_tokens=4), "default_num_special_tokens is 4"),
    "a pattern": (lambda x: x["config"].update(pattern=r"\p{N}+"), "no pre-tokenizer like this tokenizer's"),
    "no vocab": (lambda x: x.pop("vocab") and None, "vocab is missing"),
}


@pytest.mark.parametrize("name", TEKKEN)
def test_a_broken_tekken(name: str, mistral: tuple[Path, Path], tmp_path: Path) -> None:
    place = Path(shutil.copytree(mistral[1], tmp_path / "model"))
    change, message = TEKKEN[name]
    edit(place / "tekken.json", change)
    with pytest.raises(TokenizerError, match=message):
        opened(place).conversion()


def test_what_is_not_told_is_noted(mistral: tuple[Path, Path], tmp_path: Path) -> None:
    place = Path(shutil.copytree(mistral[1], tmp_path / "model"))
    (place / "config.json").write_text('{"model_type": "llama"}')
    edit(place / "params.json", lambda params: {k: v for k, v in params.items() if k not in CONTEXT} | {"novelty": 2})
    conversion = opened(place).conversion()
    assert conversion.metadata["llama.context_length"].value == 32768
    notes = " ".join(conversion.notes)
    for said in ("config.json is not read", "says 32,768 tokens", "has novelty: if the model computes with it"):
        assert said in notes
    assert "no chat template" in notes
    (place / "chat_template.jinja").write_text("{{ messages }}")
    conversion = opened(place).conversion()
    assert "no chat template" not in " ".join(conversion.notes)
    assert conversion.metadata["tokenizer.chat_template"].value == "{{ messages }}"


@pytest.mark.slow
def test_a_whole_run(mistral: tuple[Path, Path], tmp_path: Path) -> None:
    """Calibrated, quantized, measured here and in llama.cpp."""
    text = tmp_path / "text.txt"
    text.write_text("".join(CORPUS) * 40)
    settings = ("calibration.chunk_size=64", "calibration.chunks=4", "evaluate.chunks=2")
    options = [option for each in settings for option in ("--set", each)]
    files = ("--set", f"calibration.sources=[{{file: {text}}}]", "--set", f"evaluate.sources=[{{file: {text}}}]")
    out = tmp_path / "out"
    ended = hubquant("run", str(mistral[1]), "--types", "Q8_0,IQ4_NL", "-o", str(out), *options, *files)
    assert ended.code == 0, ended.err
    assert {path.name for path in out.glob("*.gguf")} == {"model-Q8_0.gguf", "model-IQ4_NL.gguf", "imatrix.gguf"}
    assert "Mistral's own format" in (out / "README.md").read_text()
