"""Which class of transformers a model is of, by its config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.modules import DENSE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def model_class(config: PreTrainedConfig, generates: bool) -> Any:
    """Of a causal language model, or of an encoder, with its dense modules if its config has any: of a model that has a
    decoder too, the encoder alone."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

    if generates:
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    encoders: Any = MODEL_FOR_TEXT_ENCODING_MAPPING
    encoder: Any = encoders[type(config)] if type(config) in encoders else MODEL_MAPPING[type(config)]
    if not hasattr(config, DENSE):
        return encoder
    from hubquant.models.dense import with_dense

    return with_dense(encoder)
