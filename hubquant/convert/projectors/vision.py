"""What encoders of pictures share: the rows of a vision transformer, and the keys that every one has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from hubquant.convert.operations import Dimensions, Move, always, reshape, split
from hubquant.convert.projectors.projector import AGAIN, Multimodal
from hubquant.convert.tables import Module, Row, Tensors, norm
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, f32, f32s, string, u32

PREPROCESSOR = "preprocessor_config.json"
TOWER = (
    r"^model\.(vision_tower|multi_modal_projector|connector|vision_model|visual|embed_vision|embed_audio|audio_tower)\.",
    r"\1.",
)
"""Checkpoints of transformers 4.52 and later have one module around everything."""
SIGLIP = (r"^(model\.)?vision_tower\.(vision_model\.)?", "vision_tower.")
"""Transformers 5 has one module less around SigLIP's and CLIP's encoders; before :data:`TOWER`, because both fit."""
MERGED = 2
"""Patches on a side that become one embedding, where llama.cpp has this number alone."""
_GELU = ("gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "quick_gelu")


def size(value: Any, setting: str) -> int:
    """Of a square, which some configurations give as [height, width]. Raises ``NotSupportedYet`` for others."""
    sides = {*value} if isinstance(value, list | tuple) else {value}
    if len(sides) != 1 or type(side := sides.pop()) is not int:
        raise NotSupportedYet(f"{setting} {value} of pictures", why="llama.cpp has one size for both sides")
    return side


def dimensions(model: Multimodal, image_size: int | None = None, n_ff: int | None = None) -> Dimensions:
    """n_embd, n_ff, n_layer, n_patch (pixels of a patch's side), n_pixels (numbers of a patch) and n_patches of the
    encoder, and n_out, which is the width of the language model. ``image_size`` and ``n_ff`` are for encoders without
    such settings."""
    vision = model.vision
    side = size(vision.image_size, "image_size") if image_size is None else image_size
    patch = size(vision.patch_size, "patch_size")
    return {
        "n_embd": vision.hidden_size,
        "n_ff": vision.intermediate_size if n_ff is None else n_ff,
        "n_layer": vision.num_hidden_layers,
        "n_channels": 3,
        "n_patch": patch,
        "n_pixels": 3 * patch**2,
        "n_patches": (side // patch) ** 2,
        "n_out": model.text.hidden_size,
    }


def merging(model: Multimodal, side: int, image_size: int | None = None) -> Dimensions:
    """:func:`dimensions`, and n_merged, which is the width of as many patches as a square of ``side`` patches has."""
    sizes = dimensions(model, image_size)
    return {**sizes, "n_merged": sizes["n_embd"] * side**2}


def metadata(model: Multimodal, projector: str, **sizes: Any) -> Metadata:
    """The keys of every encoder of pictures; ``sizes`` stand in the place of settings by transformers' names.

    Raises ``CheckpointError`` where the processor says nothing of the colours, and ``NotSupportedYet`` for an
    activation that llama.cpp does not compute.
    """
    vision = model.vision

    def setting(name: str) -> Any:
        return sizes[name] if name in sizes else getattr(vision, name)

    return {
        "has_vision_encoder": boolean(True),
        "projector_type": string(projector),
        "vision.projection_dim": u32(model.text.hidden_size),
        "vision.image_size": u32(size(setting("image_size"), "image_size")),
        "vision.patch_size": u32(size(setting("patch_size"), "patch_size")),
        "vision.embedding_length": u32(setting("hidden_size")),
        "vision.feed_forward_length": u32(setting("intermediate_size")),
        "vision.block_count": u32(setting("num_hidden_layers")),
        "vision.attention.head_count": u32(setting("num_attention_heads")),
        "vision.attention.layer_norm_epsilon": f32(setting("layer_norm_eps")),
        "vision.image_mean": f32s(_colours(model, "image_mean")),
        "vision.image_std": f32s(_colours(model, "image_std")),
        **_activation(setting("hidden_act")),
    }


def pixels(model: Multimodal, smallest: int, largest: int) -> tuple[int, int]:
    """The fewest and the most that a picture is brought to, as the processor has it, or transformers where that does
    not."""
    sizes, told = model.processor.get("size") or {}, model.processor.get
    return (
        told("min_pixels") or sizes.get("shortest_edge", smallest),
        told("max_pixels") or sizes.get("longest_edge", largest),
    )


def pixel_keys(fewest: int, most: int) -> Metadata:
    """The keys for :func:`pixels`."""
    return {"vision.image_min_pixels": u32(fewest), "vision.image_max_pixels": u32(most)}


def longest_edge(model: Multimodal, name: str, default: int) -> int:
    """Pixels of the longest side that a setting of the processor has, or the ``default``."""
    found: int = model.processor.get(name, {}).get("longest_edge", default)
    return found


def check_last_layer(model: Multimodal) -> None:
    """Raises ``NotSupportedYet`` where the projector takes the states of another layer than the last."""
    if (layer := getattr(model.config, "vision_feature_layer", -1)) not in (-1, model.vision.num_hidden_layers):
        raise NotSupportedYet(f"vision_feature_layer {layer}", why="llama.cpp takes the states of the last layer here")


def check_processor(model: Multimodal, constants: Mapping[str, float]) -> None:
    """Raises ``NotSupportedYet`` where pictures are prepared otherwise than by llama.cpp's ``constants``."""
    for name, constant in constants.items():
        if (found := model.processor.get(name, constant)) != constant:
            raise NotSupportedYet(f"{name} {found} of the processor", why=f"llama.cpp has {constant} here")


def encoder_of(config: Mapping[str, Any]) -> str | None:
    """The type of what sees, as config.json has it."""
    found = config.get("vision_config")
    return found.get("model_type") if isinstance(found, Mapping) else None


def check_gelu(model: Multimodal) -> None:
    """Raises ``NotSupportedYet`` for another activation between the projector's matrices than GELU."""
    if (name := model.config.projector_hidden_act) not in _GELU[:-1]:
        raise NotSupportedYet(f"projector_hidden_act {name!r}", why="llama.cpp has GELU here")


def check_projector_bias(model: Multimodal) -> None:
    """Raises ``NotSupportedYet`` for a projector without biases."""
    if not model.config.projector_bias:
        raise NotSupportedYet("projector_bias false", why="llama.cpp has a projector with biases here")


def check_merging(model: Multimodal) -> None:
    """Raises ``NotSupportedYet`` where other squares of patches become one embedding than llama.cpp's."""
    if (side := model.vision.spatial_merge_size) != MERGED:
        raise NotSupportedYet(f"spatial_merge_size {side}", why=f"llama.cpp merges {MERGED} x {MERGED} patches here")


def check_rope(model: Multimodal, theta: float = 10000.0) -> None:
    """Raises ``NotSupportedYet`` for rotary embeddings of another base than llama.cpp's ``theta``."""
    found = getattr(model.vision, "rope_parameters", None) or {}
    if (base := found.get("rope_theta", theta)) != theta:
        raise NotSupportedYet(f"rope_theta {base} of an encoder of pictures", why=f"llama.cpp has {theta:g} here")


def _activation(name: str) -> Metadata:
    """llama.cpp's default is the quick one."""
    if name in ("silu", "swish"):
        return {"use_silu": boolean(True)}
    if name not in _GELU:
        raise NotSupportedYet(f"hidden_act {name!r} of an encoder of pictures", why="llama.cpp has GELU and SiLU here")
    return {} if name == "quick_gelu" else {"use_gelu": boolean(True)}


def _colours(model: Multimodal, name: str) -> list[float]:
    """[red, green, blue]"""
    found = model.processor.get(name)
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(x, int | float) for x in found):
        raise CheckpointError(
            f"{PREPROCESSOR} has no {name} of three colours",
            why="pictures are brought to it before they are encoded",
            hint=AGAIN,
        )
    return found


def patches(name: str, *, bias: bool) -> Module:
    """Of a picture [channels, height, width]."""
    return Module(name, ("n_embd", "n_channels", "n_patch", "n_patch"), bias, stem="v.patch_embd")


def flat_patches(name: str) -> Row:
    """As :func:`patches`, of the numbers of a patch in a row, which are [height, width, channels]."""
    whole = ("n_embd", "n_channels", "n_patch", "n_patch")
    apart = reshape(("n_embd", "n_pixels"), ("n_embd", "n_patch", "n_patch", "n_channels"))
    return Tensors((f"{name}.weight",), {"v.patch_embd.weight": whole}, (apart, always(Move(3, 1))))


def positions(name: str, count: str = "n_patches") -> Row:
    """An embedding of each patch's place."""
    return Tensors((name,), {"v.position_embd.weight": (count, "n_embd")})


def weight(name: str, rows: str, columns: str, stem: str, *, bias: bool | str = False) -> Module:
    """A weight [rows, columns], which no importance matrix sees."""
    return Module(name, (rows, columns), bias, stem=stem)


def thirds(name: str, suffix: Literal["weight", "bias"]) -> Tensors:
    """Queries, keys and values of a layer, which are one tensor in the checkpoint."""
    shape = ("n_embd", "n_embd") if suffix == "weight" else ("n_embd",)
    targets = dict.fromkeys([f"attn_{part}.{suffix}" for part in "qkv"], shape)
    return Tensors((f"{name}.{suffix}",), targets, (split("n_embd", "n_embd", "n_embd"),))


def attention(output: str = "self_attn.out_proj") -> tuple[Row, ...]:
    """Four matrices, each with a bias."""
    names = *(f"self_attn.{part}_proj" for part in "qkv"), output
    stems = "attn_q", "attn_k", "attn_v", "attn_out"
    return tuple(weight(name, "n_embd", "n_embd", stem, bias=True) for name, stem in zip(names, stems, strict=True))


FEED_FORWARD: tuple[Row, ...] = (
    weight("mlp.fc1", "n_ff", "n_embd", "ffn_up", bias=True),
    weight("mlp.fc2", "n_embd", "n_ff", "ffn_down", bias=True),
)
CLIP_LAYER: tuple[Row, ...] = (
    norm("layer_norm1", bias=True, stem="ln1"),
    *attention(),
    norm("layer_norm2", bias=True, stem="ln2"),
    *FEED_FORWARD,
)
"""Of CLIP and SigLIP."""
