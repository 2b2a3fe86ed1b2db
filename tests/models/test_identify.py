from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.models.identify import Identity, identify


def folder_with(path: Path, config: dict[str, Any], **files: str) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


def test_text_generation_needs_no_weights(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]})
    assert identify(folder) == Identity("transformers", "text-generation", "qwen3", "Qwen3ForCausalLM")


def test_class_follows_from_the_model_type(tmp_path: Path) -> None:
    assert identify(folder_with(tmp_path, {"model_type": "mistral"})).model_class == "MistralForCausalLM"


@pytest.mark.parametrize(
    ("config", "files", "message"),
    [
        ({"_diffusers_version": "0.30", "model_type": "unet"}, {}, "diffusers models"),
        ({"architecture": "vit_base", "model_type": "vit"}, {}, "timm models"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, {}, "text2text-generation models"),
        ({"model_type": "bert", "architectures": ["BertForQuestionAnswering"]}, {}, "question-answering models"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, {}, "text-classification"),
    ],
)
def test_other_libraries_and_tasks(tmp_path: Path, config: dict[str, Any], files: dict[str, str], message: str) -> None:
    with pytest.raises(NotSupportedYet) as error:
        identify(folder_with(tmp_path, config, **files))
    assert message in error.value.what
    assert error.value.hint


def test_encoders_with_and_without_sentence_transformers(tmp_path: Path) -> None:
    config = {"model_type": "bert", "architectures": ["BertModel"]}
    assert identify(folder_with(tmp_path / "plain", config)).model_class == "BertModel"
    pooled = folder_with(tmp_path / "pooled", config, config_sentence_transformers__json="{}")
    assert identify(pooled).library == "sentence_transformers"


def test_diffusers_pipeline_has_no_config(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(NotSupportedYet, match="diffusers models"):
        identify(tmp_path)


def test_code_in_the_repository_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    folder = folder_with(
        tmp_path / "model",
        {
            "model_type": "mine",
            "architectures": ["MineForCausalLM"],
            "auto_map": {"AutoModelForCausalLM": "modeling_mine.MineForCausalLM", "AutoConfig": "modeling_mine.Mine"},
        },
        modeling_mine__py=f"open({str(marker)!r}, 'w')",
    )
    with pytest.raises(NotSupportedYet, match="never runs remote code"):
        identify(folder)
    assert not marker.exists()


def test_unknown_classes_are_shown_the_nearest(tmp_path: Path) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLLM"]}
    with pytest.raises(NotSupportedYet, match="no such class") as error:
        identify(folder_with(tmp_path, config), ["GemmaForCausalLM", "LlamaForCausalLM"])
    assert str(error.value.hint).startswith("the nearest supported ones are LlamaForCausalLM")


def test_an_older_spelling_of_a_class(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"model_type": "llama", "architectures": ["LLaMAForCausalLM"]})
    assert identify(folder).model_class == "LlamaForCausalLM"


def test_a_model_type_that_the_class_tells(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="names no model_type") as error:
        identify(folder_with(tmp_path, {"architectures": ["Qwen3ForCausalLM"]}))
    assert str(error.value.hint).startswith('add "model_type": "qwen3"')


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"architectures": ["LlamaForCausalLM"]}', '{"model_type": 3}', "[" * 9999]
)
def test_broken_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        identify(tmp_path)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a model"):
        identify(tmp_path)
