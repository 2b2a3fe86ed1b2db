"""InternVL: a vision transformer with a class token, of whose patches four become one embedding.

Checkpoints have the names of transformers, or those of the code that the first of them came with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hubquant.convert.operations import Dimensions, FirstLast, always, reshape
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import thirds, weight
from hubquant.convert.tables import Row, Tensors, Where, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

_RMS = (3200, 45)  # width and layers of the one encoder that llama.cpp gives RMS norms


def _metadata(model: Multimodal) -> Metadata:
    whole, seen = model.config, model.vision
    vision.check_last_layer(model)
    vision.check_gelu(model)
    norms = "rms_norm" if (seen.hidden_size, seen.num_hidden_layers) == _RMS else "layer_norm"
    if seen.norm_type != norms or (seen.use_qk_norm and norms != "rms_norm"):
        raise NotSupportedYet(
            f"norm_type {seen.norm_type}{' with use_qk_norm' if seen.use_qk_norm else ''} of an InternVL",
            why=f"llama.cpp has RMS norms with {_RMS[1]} layers of width {_RMS[0]} alone, and layer norms else",
        )
    parts = {
        f"vision.preproc_{end}_tiles": getattr(whole, f"{end}_dynamic_patch", model.processor.get(f"{end}_patches"))
        for end in ("min", "max")
    }
    return {
        **vision.metadata(model, "internvl"),
        "vision.projector.scale_factor": u32(_side(model)),
        **{key: u32(count) for key, count in parts.items() if count},
    }


def _side(model: Multimodal) -> int:
    return int(1 / model.config.downsample_ratio)


def _dimensions(model: Multimodal) -> Dimensions:
    sizes = vision.merging(model, _side(model))
    return {**sizes, "n_positions": sizes["n_patches"] + 1}


def _outside(patch: str, token: str, places: str, projector: tuple[str, ...]) -> tuple[Row, ...]:
    before, first, second = projector
    whole = ("n_positions", "n_embd")
    return (
        vision.patches(patch, bias=True),
        Tensors((token,), {"v.class_embd": ("n_embd",)}, (reshape(("one", "one", "n_embd"), ("n_embd",)),)),
        Tensors(
            (places,),
            {"v.position_embd.weight": whole},
            # llama.cpp has the class token behind the patches, where checkpoints have it before them.
            (reshape(("one", *whole), whole), always(FirstLast())),
        ),
        norm(before, "n_merged", bias=True, stem="mm.model.mlp.0"),
        weight(first, "n_out", "n_merged", "mm.model.mlp.1", bias=True),
        weight(second, "n_out", "n_out", "mm.model.mlp.3", bias=True),
    )


def _layer(norms: tuple[str, str], attention: tuple[Row, ...], normed: str, scale: str) -> tuple[Row, ...]:
    return (
        norm(norms[0], bias=True, stem="ln1"),
        *attention,
        Where(
            "use_qk_norm", (norm(f"{normed}.q_norm", stem="attn_q_norm"), norm(f"{normed}.k_norm", stem="attn_k_norm"))
        ),
        Tensors((f"{scale}1",), {"ls1.weight": ("n_embd",)}),
        norm(norms[1], bias=True, stem="ln2"),
        *vision.FEED_FORWARD,
        Tensors((f"{scale}2",), {"ls2.weight": ("n_embd",)}),
    )


def _as_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the first checkpoints' own code. Of the language model, its width alone counts."""
    seen, resized = config["vision_config"], config.get("force_image_size")
    if resized not in (None, seen["image_size"]):
        raise NotSupportedYet(f"force_image_size {resized}", why="llama.cpp has the encoder's own image_size")
    if (version := config.get("ps_version", "v1")) != "v2":
        raise NotSupportedYet(f"ps_version {version}", why="llama.cpp puts patches together as v2 does")
    names = {"qkv_bias": "attention_bias", "qk_normalization": "use_qk_norm"}
    return {
        **config,
        "model_type": "internvl",
        "vision_config": {names.get(key, key): value for key, value in seen.items() if key != "model_type"},
        "vision_feature_layer": config.get("select_layer", -1),
        "text_config": {"model_type": "qwen2", "hidden_size": config["llm_config"]["hidden_size"]},
    }


INTERNVL = Projector(
    classes=("InternVLForConditionalGeneration",),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=lambda _: _outside(
        "vision_tower.embeddings.patch_embeddings.projection",
        "vision_tower.embeddings.cls_token",
        "vision_tower.embeddings.position_embeddings",
        tuple(f"multi_modal_projector.{part}" for part in ("layer_norm", "linear_1", "linear_2")),
    ),
    layer=_layer(
        ("layernorm_before", "layernorm_after"),
        (
            weight("attention.q_proj", "n_embd", "n_embd", "attn_q", bias="attention_bias"),
            weight("attention.k_proj", "n_embd", "n_embd", "attn_k", bias="attention_bias"),
            weight("attention.v_proj", "n_embd", "n_embd", "attn_v", bias="attention_bias"),
            weight("attention.projection_layer", "n_embd", "n_embd", "attn_out", bias=True),
        ),
        "attention",
        "lambda_",
    ),
    layers="vision_tower.encoder.layer",
    renames=(vision.TOWER,),
    ignored=(r"\.mask_token$",),
)
INTERNVL_CHAT = replace(
    INTERNVL,
    classes=("InternVLChatModel",),
    as_transformers=_as_transformers,
    outside=lambda _: _outside(
        "vision_model.embeddings.patch_embedding",
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.position_embedding",
        ("mlp1.0", "mlp1.1", "mlp1.3"),
    ),
    layer=_layer(
        ("norm1", "norm2"),
        (
            thirds("attn.qkv", "weight"),
            Where("attention_bias", (thirds("attn.qkv", "bias"),)),
            weight("attn.proj", "n_embd", "n_embd", "attn_out", bias=True),
        ),
        "attn",
        "ls",
    ),
    layers="vision_model.encoder.layers",
)
