"""Which class of transformers a model is of, by its config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.modules import DENSE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


_NAMED_AS_IN = {"MiniMaxM3VLForCausalLM": "minimax_m3_vl"}
"""Language models for whose weights checkpoints have names that transformers knows in the multimodal model alone."""


def causal_classes() -> dict[str, str]:
    """Model type -> the name of its causal language model. transformers has some among the models that see."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    seeing = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()
    among_them = {kind: name for kind, name in seeing if isinstance(name, str) and name.endswith("ForCausalLM")}
    return among_them | MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def model_class(config: PreTrainedConfig, generates: bool) -> Any:
    """Of a causal language model, or of an encoder, with its dense modules if its config has any: of a model that has a
    decoder too, the encoder alone."""
    import transformers
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

    if generates:
        name = causal_classes()[config.model_type]
        if name in _NAMED_AS_IN:
            _name_as_in(name, _NAMED_AS_IN[name])
        return getattr(transformers, name)
    encoders: Any = MODEL_FOR_TEXT_ENCODING_MAPPING
    encoder: Any = encoders[type(config)] if type(config) in encoders else MODEL_MAPPING[type(config)]
    if not hasattr(config, DENSE):
        return encoder
    from hubquant.models.dense import with_dense

    return with_dense(encoder)


def _name_as_in(name: str, multimodal: str) -> None:
    """Tell transformers that the weights of the class ``name`` have the names that ``multimodal`` has within layers."""
    from transformers import conversion_mapping

    mappings: Any = conversion_mapping
    if mappings.get_checkpoint_conversion_mapping(name) is None:
        whole = mappings.get_checkpoint_conversion_mapping(multimodal)
        within = [each for each in whole if not each.source_patterns[0].startswith("^")]
        mappings.register_checkpoint_conversion_mapping(name, within)
