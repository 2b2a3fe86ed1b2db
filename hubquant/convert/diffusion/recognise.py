"""Which denoiser a file holds, told from the names of its tensors; and what else is in files that have everything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hubquant.checkpoint.headers import listed
from hubquant.convert.diffusion.aura_flow import AURA_FLOW
from hubquant.convert.diffusion.cosmos import COSMOS1, COSMOS2
from hubquant.convert.diffusion.family import PREFIX, Family, Layout, Match
from hubquant.convert.diffusion.flux import CHROMA, FLUX, FLUX2
from hubquant.convert.diffusion.hidream import HIDREAM
from hubquant.convert.diffusion.hunyuan_video import HUNYUAN_VIDEO
from hubquant.convert.diffusion.ltx import LTX, LTX2, LTX23
from hubquant.convert.diffusion.lumina import LUMINA2, Z_IMAGE
from hubquant.convert.diffusion.pixart import PIXART
from hubquant.convert.diffusion.qwen_image import QWEN_IMAGE
from hubquant.convert.diffusion.sana import SANA
from hubquant.convert.diffusion.sd3 import SD3
from hubquant.convert.diffusion.unet import SD, SDXL
from hubquant.convert.diffusion.wan import WAN
from hubquant.convert.tables import Bundle, Shape
from hubquant.errors import NotSupportedYet

FAMILIES = (
    *(SD, SDXL, SD3, FLUX, FLUX2, CHROMA, QWEN_IMAGE, LUMINA2, Z_IMAGE, AURA_FLOW, HIDREAM, SANA, PIXART),
    *(WAN, LTX, LTX2, LTX23, HUNYUAN_VIDEO, COSMOS1, COSMOS2),
)

TEXT_ENCODERS = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")
_VAE = ("first_stage_model.", "vae.")
_UNIFORM = ("diffusion_model.", "model.model.", "model.", "net.", "transformer.", "unet.", "module.")
"""What programs write before all names of a denoiser that is alone in its file, or before those of its own only."""
_LEFT_OUT = re.compile(
    r"model_ema\..+|denoiser\.sigmas|edm_.+|v_pred|ztsnr|betas|posterior_.+|logvar|lvlb_weights"
    r"|(log_one_minus_|sqrt_(recip_|recipm1_|one_minus_)?)?alphas_cumprod(_prev)?"
)
"""Averaged copies of the weights, tables of the sampler and marks that tell programs how to draw."""

_SURE = 0.9
"""The share of names from which a file is of a family; fewer may be damaged beyond use, or another model."""
_NEAR = 0.2


@dataclass(frozen=True)
class Parts:
    """The tensors of a file. ``denoiser`` has names without ``prefix``; the others have theirs in full.

    ``left_out`` is what no model computes with.
    """

    prefix: str
    denoiser: Mapping[str, Shape]
    text_encoders: tuple[str, ...]
    vae: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Denoiser:
    """A denoiser of a family that is known; ``shapes`` have names without ``prefix``."""

    family: Family
    layout: Layout
    prefix: str
    shapes: Mapping[str, Shape]

    @property
    def unused(self) -> tuple[str, ...]:
        """What of ``shapes`` the family leaves out."""
        return self.family.match(self.shapes, self.layout).unused

    def bundles(self) -> list[Bundle]:
        """As in :meth:`Family.bundles`."""
        return self.family.bundles(self.shapes, self.layout)


def parts(shapes: Mapping[str, Shape]) -> Parts:
    """What the tensors of a file belong to.

    Where names have the prefix of a denoiser in a file that holds everything, those that have none of the known ones
    are left out; elsewhere they are the denoiser's.
    """
    text_encoders = tuple(name for name in shapes if name.startswith(TEXT_ENCODERS))
    vae = tuple(name for name in shapes if name.startswith(_VAE))
    others = {*text_encoders, *vae, *(name for name in shapes if _LEFT_OUT.fullmatch(name))}
    rest = [name for name in shapes if name not in others]
    uniform = (prefix for prefix in _UNIFORM if rest and all(name.startswith(prefix) for name in rest))
    prefix = PREFIX if any(name.startswith(PREFIX) for name in rest) else next(uniform, "")
    denoiser = {
        name.removeprefix(prefix): shape
        for name, shape in shapes.items()
        if name.startswith(prefix) and name not in others
    }
    known = {*text_encoders, *vae, *(prefix + name for name in denoiser)}
    return Parts(prefix, denoiser, text_encoders, vae, tuple(name for name in shapes if name not in known))


def recognise(shapes: Mapping[str, Shape]) -> Denoiser:
    """The denoiser among the tensors of a file, given by name and shape.

    Names that are the same in both layouts are of the original one. Raises ``NotSupportedYet`` where no family fits,
    with the nearest one; tensors that are missing or left over are for :meth:`Denoiser.bundles` to find.
    """
    found = parts(shapes)
    if not found.denoiser and (found.text_encoders or found.vae):
        has = [what for what, names in (("text encoders", found.text_encoders), ("a VAE", found.vae)) if names]
        raise NotSupportedYet(
            "a file without a denoiser",
            why=f"it has {' and '.join(has)} only",
            hint="name the file with the UNet or transformer",
        )
    layouts: tuple[Layout, ...] = ("original", "diffusers")
    matches = [(family, layout, family.match(found.denoiser, layout)) for family in FAMILIES for layout in layouts]
    family, layout, best = max(matches, key=lambda match: match[2].share)
    if best.share < _SURE:
        raise NotSupportedYet(
            "a denoiser with these tensors",
            why=_difference(family, layout, best) if best.share >= _NEAR else "their names are of no known family",
            hint=f"the known families are {', '.join(family.name for family in FAMILIES)}",
        )
    return Denoiser(family, layout, found.prefix, found.denoiser)


def looks_like_denoiser(shapes: Mapping[str, Shape]) -> bool:
    """Whether :func:`recognise` knows a family that is near enough to be named."""
    try:
        recognise(shapes)
    except NotSupportedYet as error:
        return "nearest" in (error.why or "")
    return True


def _difference(family: Family, layout: Layout, match: Match) -> str:
    lacks = [f"lack {listed(match.missing)}"] if match.missing else []
    has = [f"have {listed(match.extra)} besides"] if match.extra else []
    return f"the nearest are those of {family.name} in its {layout} layout, but they {' and '.join(lacks + has)}"
