"""config.json becomes a transformers config that an architecture understands, or a clear refusal."""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from typing import TYPE_CHECKING

from hubquant.checkpoint.modules import POOLING
from hubquant.checkpoint.storage import QUANTIZATION
from hubquant.convert.architectures import of_checkpoint
from hubquant.convert.rules.rule import Rule, Settings, plain_setting, without_option
from hubquant.errors import CheckpointError, NotSupportedYet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from hubquant.convert.architecture import Architecture

# Nothing that the conversion depends on, and each a way to make transformers stumble.
_IRRELEVANT = (
    *("architectures", "auto_map", "dtype", "torch_dtype", "id2label", "label2id", "num_labels", "model_type"),
    POOLING,
)

_LAYERS = "per_layer_config"


def read_architecture(settings: Settings) -> tuple[Architecture, PreTrainedConfig]:
    """Raises ``NotSupportedYet`` for models hubquant does not convert, ``CheckpointError`` for impossible values."""
    architecture, model_type = of_checkpoint(settings)
    unquantized = [name for name in QUANTIZATION if not isinstance(settings.get(name), dict)]
    unwanted = (*_IRRELEVANT, *unquantized)
    relevant = {name: value for name, value in settings.items() if name not in unwanted}
    with without_option():
        translated = architecture.translate(relevant)
    return architecture, make_config(model_type, translated, architecture.rules)


def make_config(model_type: str, settings: Settings, rules: Collection[Rule]) -> PreTrainedConfig:
    """transformers' config class fills in defaults and translates older spellings.

    Raises ``CheckpointError`` for values that no model has, ``NotSupportedYet`` for what llama.cpp does not compute.
    """
    from transformers import CONFIG_MAPPING

    with without_option():
        for rule in rules:
            rule.check(settings)
    try:
        config: PreTrainedConfig = CONFIG_MAPPING[model_type](**deepcopy(dict(settings)))  # it fills tables in
    except Exception as error:  # transformers raises almost anything for values it did not expect
        raise CheckpointError(
            f"config.json is no {model_type} configuration",
            why=" ".join(str(error).split())[:200] or type(error).__name__,
            hint="compare config.json with the one of the original repository",
        ) from error
    with without_option():
        if config.is_heterogeneous and not any(_LAYERS in rule.reads for rule in rules):
            raise NotSupportedYet(f"{_LAYERS} in config.json", why="llama.cpp gives the layers here the same settings")
        for rule in rules:  # once more with the defaults, which may be what llama.cpp does not compute
            rule.check({name: plain_setting(config, name) for name in rule.reads})
    return config
