"""Janus: SigLIP, each of whose patches becomes an embedding. What it draws pictures with is left out."""

from hubquant.convert.operations import Dimensions
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Row, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata

_DEPTH = 2  # matrices of the aligner in llama.cpp


def _metadata(model: Multimodal) -> Metadata:
    if (depth := model.vision.depth) != _DEPTH:
        raise NotSupportedYet(f"depth {depth} of a Janus' aligner", why=f"llama.cpp has {_DEPTH} matrices here")
    if model.vision.use_qk_norm:
        raise NotSupportedYet("use_qk_norm of a Janus", why="llama.cpp has no norms of queries and keys here")
    return vision.metadata(model, "janus_pro", intermediate_size=_inner(model))


def _inner(model: Multimodal) -> int:
    return int(model.vision.hidden_size * model.vision.mlp_ratio)


def _dimensions(model: Multimodal) -> Dimensions:
    return {**vision.dimensions(model, n_ff=_inner(model)), "n_inner": model.vision.projection_dim}


def _outside(_model: Multimodal) -> tuple[Row, ...]:
    return (
        vision.patches("vision_model.embeddings.patch_embedding", bias=True),
        vision.positions("vision_model.embeddings.position_embedding.weight"),
        norm("vision_model.post_layernorm", bias=True, stem="v.post_ln"),
        weight("aligner.fc1", "n_inner", "n_embd", "mm.0", bias=True),
        weight("aligner.hidden_layers.0", "n_out", "n_inner", "mm.1", bias=True),
    )


JANUS = Projector(
    classes=("JanusForConditionalGeneration",),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside,
    layer=(
        norm("layer_norm1", bias=True, stem="ln1"),
        weight("self_attn.q_proj", "n_embd", "n_embd", "attn_q", bias="attention_bias"),
        weight("self_attn.k_proj", "n_embd", "n_embd", "attn_k", bias="attention_bias"),
        weight("self_attn.v_proj", "n_embd", "n_embd", "attn_v", bias="attention_bias"),
        weight("self_attn.projection_layer", "n_embd", "n_embd", "attn_out", bias=True),
        norm("layer_norm2", bias=True, stem="ln2"),
        *vision.FEED_FORWARD,
    ),
    layers="vision_model.encoder.layers",
    renames=((r"^model\.(vision_model|aligner)\.", r"\1."),),
    ignored=(r"^(model\.)?(vqmodel|generation_(embeddings|aligner|head))\.",),
)
