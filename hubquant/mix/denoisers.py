"""Which tensor of a denoiser gets which type, as ComfyUI-GGUF and stable-diffusion.cpp decide.

ComfyUI-GGUF's rules stand in its convert.py and in its patch of llama-quantize (December 2025). It knows no other names
than those of the original layout, and neither Flux.2, Chroma, Qwen-Image, Z-Image, Sana nor PixArt: their layers of
input, output and modulation are kept here as those of its families are, and so are the names of diffusers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hubquant.mix.fallback import LAST_RESORT, Shape, fallback, fits
from hubquant.mix.file_types import FileType
from hubquant.mix.patterns import first_match
from hubquant.mix.storage import n_dims

_PREFIX = "model.diffusion_model."
_SMALL = 1024  # weights
_MOST_DIMS = 4  # that ComfyUI-GGUF writes itself: what has more it adds afterwards, in F32
_FLOAT32_ENDINGS = (".ff_i.gate.weight", "img_emb.emb_pos", ".modulation", "scale_shift_table")
_FLOAT32_PART = "pos_embedder"


@dataclass(frozen=True)
class Kept:
    """Matrices that stay floats: parts that their names have ``anywhere``, and ways in which they ``begin``."""

    anywhere: tuple[str, ...] = ()
    begin: tuple[str, ...] = ()

    def keeps(self, name: str) -> bool:
        return name.startswith(self.begin) or any(part in name for part in self.anywhere)


_OF_FLUX = ("txt_in.", "img_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer.")
_OF_UNETS = Kept(
    (
        *("class_embedding.", "time_embedding.", "add_embedding."),
        *("time_embed.", "label_emb.", "conv_in.", "conv_out."),
    ),
    ("input_blocks.0.0.", "out.2."),
)
_ENDS = ("x_embedder.", "context_embedder.", "time_text_embed.", "norm_out.", "proj_out.")
"""What transformers of diffusers begin and end with; further inside proj_out is a layer like others."""

DENOISERS: Mapping[str, Kept] = {
    "flux": Kept(
        _OF_FLUX,
        (
            *("double_stream_modulation_", "single_stream_modulation.", "time_guidance_embed."),
            *("distilled_guidance_layer.", *_ENDS),
        ),
    ),
    "sd1": _OF_UNETS,
    "sdxl": _OF_UNETS,
    "sd3": Kept(
        ("final_layer.", "time_text_embed.", "context_embedder.", "t_embedder.", "y_embedder.", "x_embedder."),
        ("pos_embed", *_ENDS),
    ),
    "aura": Kept(
        ("t_embedder.", "init_x_linear."),
        ("modF.1.", "cond_seq_linear.", "final_linear.", "time_step_proj.", "pos_embed.", *_ENDS),
    ),
    "hidream": Kept(
        ("p_embedder.", "t_embedder.", "x_embedder.", "final_layer.", ".ff_i.gate.weight", "caption_projection.")
    ),
    "ltxv": Kept(
        ("adaln_single.", "caption_projection.", "patchify_proj.", "proj_out."),
        (
            *("proj_in.", "time_embed.", "prompt_adaln.", "av_cross_attn_"),
            *("audio_proj_in.", "audio_time_embed.", "audio_prompt_adaln."),
        ),
    ),
    "hyvid": Kept(_OF_FLUX, _ENDS),
    "wan": Kept(
        (
            *("modulation.", "patch_embedding.", "text_embedding.", "time_projection."),
            *("time_embedding.", "img_emb.", "head."),
        ),
        ("condition_embedder.", "proj_out."),
    ),
    "lumina2": Kept(
        ("t_embedder.", "x_embedder.", "final_layer.", "cap_embedder.", "context_refiner.", "noise_refiner."),
        ("time_caption_embed.", "norm_out."),
    ),
    "qwen_image": Kept(("txt_in.", "img_in."), _ENDS),
    "cosmos": Kept(
        ("p_embedder.", "t_embedder.", "t_embedding_norm.", "x_embedder.", "pos_embedder.", "final_layer."),
        ("patch_embed.", "time_embed.", "norm_out.", "proj_out."),
    ),
    **dict.fromkeys(
        ("sana", "pixart"),
        Kept(
            (
                *("x_embedder.", "t_embedder.", "csize_embedder.", "ar_embedder.", "y_embedder."),
                *("t_block.", "final_layer."),
            ),
            ("patch_embed.", "pos_embed.", "time_embed.", "adaln_single.", "caption_projection.", "proj_out."),
        ),
    ),
}
"""By ``general.architecture``."""

_KEPT_BY_SDCPP = Kept(
    (
        *("img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer."),
        *("x_embedder.", "t_embedder.", "y_embedder.", "pos_embed", "context_embedder."),
        *("time_embed.", "label_emb.", "embedding"),
    )
)
"""stable-diffusion.cpp's ``tensor_should_be_converted`` (August 2026), for all families."""


def assign_denoiser(
    tensors: Mapping[str, Shape],
    target: FileType,
    architecture: str,
    *,
    rules: Sequence[tuple[re.Pattern[str], str]],
    pure: bool,
    float_type: str,
) -> dict[str, str]:
    """The type of every tensor of a denoiser, whose names may have the prefix of files that hold everything.

    The weights of linear layers are quantized, but for those that ``DENOISERS`` keeps. ``rules`` come before the mix,
    and reach no more tensors than it does. Where the blocks of a type do not divide a row, it is the next type of
    llama.cpp's that fits, where ComfyUI-GGUF takes F16 at once.

    ``pure`` has the types of stable-diffusion.cpp's convert: one for all, its own list of what is kept, and floats
    where the blocks do not fit. It also quantizes weights of norms and tables that no layer multiplies by, and such
    files no other program loads: here they stay floats.

    Floats are F32 where they are small, of one dimension, of more than four, or known to need it; ``float_type``
    elsewhere, and F16 in place of BF16 for what is no weight of a linear layer, where diffusers cannot read it.
    """
    kept = _KEPT_BY_SDCPP if pure else DENOISERS[architecture]
    unquantized = float_type if target.quantized else target.default
    types: dict[str, str] = {}
    n_values = 0
    for name in sorted(tensors, key=_by_numbers):
        shape = tensors[name]
        bare = name.removeprefix(_PREFIX)
        if not target.quantized or not _is_linear(bare, shape) or kept.keeps(bare):
            types[name] = _storage(bare, shape, unquantized)
            continue
        part = _part(bare)
        ruled = first_match(rules, name)
        if pure:
            type = ruled or target.default
            types[name] = type if fits(shape, type) else _storage(bare, shape, unquantized)
        elif ruled:
            types[name] = fallback(name, shape, ruled)
        else:
            types[name] = fallback(name, shape, part(target.name, n_values) or target.default, LAST_RESORT)
        n_values += part is _values
    return {name: types[name] for name in tensors}


def _by_numbers(name: str) -> list[str | int]:
    """Blocks in their order: 2 before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _is_linear(name: str, shape: Shape) -> bool:
    return len(shape) == 2 == n_dims(shape) and name.endswith(".weight")


def _storage(name: str, shape: Shape, unquantized: str) -> str:
    precise = name.endswith(_FLOAT32_ENDINGS) or _FLOAT32_PART in name
    if n_dims(shape) < 2 or len(shape) > _MOST_DIMS or math.prod(shape) <= _SMALL or precise:
        return "F32"
    return "F16" if unquantized == "BF16" and not _is_linear(name, shape) else unquantized


# The mix: from the file type, and how many weights of values came before, to a type; None leaves the default.
# ComfyUI-GGUF makes no files of IQ types. Those here are ours: values and the second matrix of a feed-forward network
# get what llama.cpp gives to attn_v and ffn_down where it looks at nothing else, and files that end in M what they have
# as K types. In IQ3_XS the rest is IQ3_XXS, as with llama.cpp.
Part = Callable[[str, int], str | None]


def _values(ftype: str, i: int) -> str | None:
    match ftype:
        case "IQ1_S" | "IQ1_M" | "IQ2_XXS" | "IQ2_XS":
            return "Q2_K"
        case "IQ2_S" | "IQ2_M" | "IQ3_XXS" | "IQ3_XS":
            return "IQ3_S"
        case "Q2_K":
            return "Q3_K"
        case "IQ3_M":
            return "Q4_K"
        case "Q3_K_M":
            return "Q5_K" if i < 2 else "Q4_K"
        case "Q3_K_L":
            return "Q5_K"
        case "Q4_K_S" | "IQ4_XS" | "IQ4_NL" if i < 4:
            return "Q5_K"
        case "Q4_K_M" | "Q5_K_M":
            return "Q6_K"
    return None


def _fused(ftype: str, _: int) -> str | None:
    """Queries, keys and values in one matrix."""
    match ftype:
        case "IQ2_M" | "IQ3_XS":
            return "IQ3_S"
        case "IQ3_M" | "Q3_K_M" | "Q3_K_L":
            return "Q4_K"
        case "Q4_K_M":
            return "Q5_K"
        case "Q5_K_M":
            return "Q6_K"
    return None


def _down(ftype: str, _: int) -> str | None:
    """The second matrix of a feed-forward network."""
    match ftype:
        case "IQ2_M" | "IQ3_XS":
            return "IQ3_S"
        case "IQ3_M" | "Q3_K_M":
            return "Q4_K"
        case "Q3_K_L" | "Q4_K_S":
            return "Q5_K"
        case "Q4_K_M" | "Q5_K_M":
            return "Q6_K"
        case "Q4_0":
            return "Q4_1"
        case "Q5_0":
            return "Q5_1"
    return None


def _other(ftype: str, _: int) -> str | None:
    return "IQ3_XXS" if ftype == "IQ3_XS" else None


_PARTS: Mapping[Part, tuple[str, ...]] = {
    _values: (
        *("attn_v.weight", ".to_v.weight", ".v.weight", ".attn.w1v.weight", ".attn.w2v.weight"),
        *("_attn.v_proj.weight", ".add_v_proj.weight"),
    ),
    _fused: ("attn_qkv.weight", "attn.qkv.weight", "attention.qkv.weight"),
    _down: (
        *("ffn_down", ".ffn.2.weight", ".ff.net.2.weight", ".mlp.layer2.weight"),
        *(".adaln_modulation_mlp.2.weight", ".feed_forward.w2.weight", "_mlp.net.2.weight"),
    ),
}


def _part(name: str) -> Part:
    if "experts." in name and ".w2.weight" in name:
        return _down
    return next((part for part, names in _PARTS.items() if any(each in name for each in names)), _other)
