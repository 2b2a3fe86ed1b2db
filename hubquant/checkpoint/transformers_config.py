"""transformers' config of a model's settings."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def config_of(model_type: str, settings: Mapping[str, Any]) -> PreTrainedConfig:
    """Of a copy: transformers fills in the tables that it is given. Raises what transformers does, almost anything for
    values that it did not expect."""
    from transformers import CONFIG_MAPPING

    kind: Any = CONFIG_MAPPING[model_type]
    config: PreTrainedConfig = kind.from_dict(deepcopy(dict(settings)))
    return config
