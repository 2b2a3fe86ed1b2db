"""EuroBERT: Llama that sees the whole text at once."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Constant, Fixed
from hubquant.convert.tables import Module, norm
from hubquant.gguf_file.metadata import boolean

EUROBERT = Architecture(
    name="eurobert",
    classes=dict.fromkeys(("EuroBertModel", "EuroBertForMaskedLM"), "eurobert"),
    restored_as="eurobert",
    rules=(
        *decoder.RULES_OF_WHOLE_HEADS,
        Rope(("default",)),
        Constant("attention.causal", boolean(False)),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
    ),
    dimensions=decoder.dimensions,
    outside=(Module("embed_tokens", ("n_vocab", "n_embd")), norm("norm")),
    block=every_layer(
        norm("input_layernorm"), *decoder.attention(), norm("post_attention_layernorm"), *decoder.gated_mlp()
    ),
    blocks="layers",
    ignored=(r"^lm_head\.", r"\.inv_freq$"),  # llama.cpp embeds without them
    renames=((r"^model\.", ""),),
    generates=False,
    without_effect=("mask_token_id", "classifier_pooling"),
)
