"""Tensors of a checkpoint that transformers leaves out when it loads the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hubquant.models.classes import model_class
from hubquant.models.load import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def used_by_transformers(config: PreTrainedConfig, names: Iterable[str], generates: bool) -> list[str]:
    """Those of ``names`` that the model of ``config`` has a place for; the model is built without weights."""
    from accelerate import init_empty_weights
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    with quiet(), init_empty_weights():
        model = model_class(config, generates)(config)
    state = model.state_dict()
    conversions: Any = get_model_conversion_mapping(model)
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
    converters = [each for each in conversions if isinstance(each, WeightConverter)]

    def place(name: str) -> str:
        return rename_source_key(name, renamings, converters, model.base_model_prefix, state)[0]

    return [name for name in names if place(name) in state]
