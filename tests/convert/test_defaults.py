"""A config.json of a real model leaves defaults out or spells them as older transformers did: it means the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoConfig, PreTrainedConfig

from hubquant.checkpoint.text_tower import text_settings
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import ARCHITECTURES
from hubquant.convert.config import read_architecture
from hubquant.convert.conversion import architecture_metadata
from hubquant.errors import HubquantError
from hubquant.gguf_file.metadata import Metadata
from hubquant.models.taps.tap import Tap
from tests.convert import test_gemma3n
from tests.convert.test_llama_cpp import MODELS

SIZES: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
ODD = ("llama with llama3 rope", "phi3 in a long context", "gemma4 small", "deepseek2 with yarn")
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, settings) for family, settings in reversed(MODELS.values())},
    **{name: MODELS[name] for name in ODD},
    "gemma3n": (test_gemma3n.FAMILY, test_gemma3n.CONFIG),
    "bert": ("bert", {}),
    "modernbert": ("modernbert", {"num_key_value_heads": ..., "head_dim": ...}),
    "nomic_bert": ("nomic_bert", {}),
    "t5": ("t5", {"feed_forward_proj": "gated-gelu", "num_key_value_heads": ...}),
    "umt5": ("umt5", {"num_key_value_heads": ...}),
}
NAMED = [(name, model_type, each) for each in reversed(ARCHITECTURES) for name, model_type in each.classes.items()]
CLASSES = {model_type: name for name, model_type, each in NAMED if not each.own_code}


def config_of(name: str) -> PreTrainedConfig:
    family, settings = CONFIGS[name]
    given = {key: value for key, value in (SIZES | settings).items() if value is not ...}
    return AutoConfig.for_model(family, **{key: value for key, value in given.items() if key not in ("dtype", "seed")})


def written(config: PreTrainedConfig) -> dict[str, Any]:
    """config.json with every key."""
    return {**json.loads(json.dumps(config.to_dict())), "architectures": [CLASSES[config.model_type]]}


def without_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keys without which transformers would make another config."""
    names = {name: settings[name] for name in ("architectures", "model_type")}
    kind = type(AutoConfig.for_model(settings["model_type"]))
    needed = {name: value for name, value in settings.items() if name not in names}
    whole = kind(**needed).to_dict()

    def drop(some: list[str]) -> None:
        fewer = {name: value for name, value in needed.items() if name not in some}
        with suppress(
            StrictDataclassClassValidationError, ArithmeticError, TypeError, ValueError
        ):  # some have to be there
            if kind(**fewer).to_dict() == whole:
                for name in some:
                    del needed[name]
                return
        half = len(some) // 2
        if half:
            drop(some[:half])
            drop(some[half:])

    drop([*needed])
    return {**names, **needed}


def converted(settings: Mapping[str, Any]) -> tuple[Metadata, list[Any], dict[str, Tap], tuple[str, ...]]:
    architecture, config = read_architecture(settings)
    bundles = [(bundle.sources, bundle.targets, bundle.values) for bundle in architecture.bundles(config)]
    metadata = architecture_metadata(architecture, config)
    return metadata, bundles, architecture.taps(config), architecture.notes(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_defaults_may_be_left_out(name: str) -> None:
    whole = written(config_of(name))
    few = without_defaults(whole)
    assert len(few) < len(whole)
    assert converted(few) == converted(whole)
    assert converted(text_settings({"text_config": few})) == converted(whole)


@pytest.mark.parametrize("name", CONFIGS)
def test_older_spellings_mean_the_same(name: str) -> None:
    whole = written(config_of(name))
    rope = whole.get("rope_parameters")
    if rope is None or {"full_attention", "main"} & rope.keys():
        pytest.skip("no rope, or one that each family spelled otherwise")
    older = {key: value for key, value in whole.items() if key != "rope_parameters"}
    older |= {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    kind = scaling.pop("rope_type")
    older["rope_scaling"] = None if kind == "default" and not scaling else {**scaling, "type": kind}
    assert converted(older) == converted(whole)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: next(iter(each.classes)))
def test_a_class_alone_has_all_defaults(architecture: Architecture) -> None:
    """What a config.json without settings becomes, or why not, is what one with all the class's defaults becomes."""
    if architecture.own_code:
        pytest.skip("transformers has no defaults of this model's own")
    name, model_type = next(iter(architecture.classes.items()))
    whole = json.loads(json.dumps(AutoConfig.for_model(model_type).to_dict()))
    named = {"architectures": [name], "model_type": model_type}
    if not architecture.takes(named):
        pytest.skip("a setting tells it from another of the same class")

    def outcome(settings: Mapping[str, Any]) -> Metadata | str:
        try:
            return architecture_metadata(*read_architecture({**settings, **named}))
        except HubquantError as error:
            return str(error)

    assert outcome({}) == outcome(whole)
