"""Who loads the file of a denoiser: what each program accepts, by family, layout and type of tensors.

Of diffusers 0.42.1 every line is tested; of ComfyUI-GGUF (December 2025) its loader is, where the tests are given a
copy. stable-diffusion.cpp (August 2026), where they are given it, makes of Flux and SD3 the pictures that diffusers
makes; the names of Flux.2, Chroma, Qwen-Image and Z-Image were seen to be those that it looks for; it lists Wan. It
takes Lumina2 for Z-Image, and of LTX, HiDream and HunyuanVideo it has other versions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hubquant.convert.diffusion.conversion import FileLayout
from hubquant.convert.diffusion.family import PREFIX
from hubquant.convert.tables import Shape

PUBLISHED: Mapping[str, Shape] = MappingProxyType({})
"""Shapes of models that are as large as the published ones."""
ORIGINAL = FileLayout("original")
PREFIXED = FileLayout("original", PREFIX)
NAMES_OF_DIFFUSERS = FileLayout("diffusers")
IN_ROWS = FileLayout("original", in_rows=True)

_FAST = frozenset(
    {
        *("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"),
        *("Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS"),
    }
)
_RARE = frozenset(
    {
        *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
        *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
    }
)


@dataclass(frozen=True)
class Consumer:
    """A program that draws with GGUF files. ``layouts`` are those that it takes of a family, ``types`` the types of
    tensors that it reads, some of them ``slowly``. ``why_not`` has reasons why it takes no file of a family. Of some
    families it knows the original names only at ``one_size``: as many rows as a tensor has in the published models."""

    name: str
    layouts: Mapping[str, frozenset[FileLayout]]
    types: frozenset[str]
    slowly: frozenset[str] = frozenset()
    why_not: Mapping[str, str] = field(default_factory=dict)
    one_size: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def refusal(
        self, family: str, layout: FileLayout, types: Collection[str], shapes: Mapping[str, Shape] = PUBLISHED
    ) -> str | None:
        """Why it does not load such a file, as the end of a sentence; None where it does. ``shapes`` are those of its
        tensors."""
        if family in self.why_not:
            return self.why_not[family]
        layouts = self.layouts.get(family)
        if layouts is None:
            return f"has no {family}"
        if layout not in layouts:
            return "does not know these names"
        if layout.names == "original" and family in self.one_size:
            tensor, rows = self.one_size[family]
            if shapes.get(layout.prefix + tensor, (rows,))[0] != rows:
                return f"knows these names only of a {family} as large as the published one"
        unknown = sorted({*types} - self.types)
        return f"has no {' and '.join(unknown)}" if unknown else None


def _table(*rows: tuple[tuple[str, ...], tuple[FileLayout, ...]]) -> dict[str, frozenset[FileLayout]]:
    return {family: frozenset(layouts) for families, layouts in rows for family in families}


DIFFUSERS = Consumer(
    "diffusers",
    _table(
        (("sd", "sdxl"), (PREFIXED, NAMES_OF_DIFFUSERS)),
        (
            ("flux", "chroma", "sd3", "z_image", "wan", "ltx", "ltx2", "hidream"),
            (ORIGINAL, PREFIXED, NAMES_OF_DIFFUSERS),
        ),
        (
            ("flux2", "qwen_image", "lumina2", "auraflow", "hunyuan_video", "cosmos"),
            (ORIGINAL, NAMES_OF_DIFFUSERS),
        ),
        # In original names it takes Cosmos Predict 1 for 2, and LTX-2.3 for LTX-2.
        (("sana", "cosmos1", "ltx2.3"), (NAMES_OF_DIFFUSERS,)),
    ),
    _FAST,
    why_not={"pixart": "opens no single file of a PixArt denoiser"},
    # It cuts them where its constants say: 3 × 3072 + 12288 rows, and 2304 + 2 × 768.
    one_size={
        **dict.fromkeys(("flux", "chroma", "hunyuan_video"), ("single_blocks.0.linear1.weight", 21504)),
        "lumina2": ("layers.0.attention.qkv.weight", 3840),
    },
)

# Other programs strip the prefix.
COMFYUI_GGUF = Consumer(
    "ComfyUI-GGUF",
    _table(
        (
            (
                *("sd3", "flux", "flux2", "chroma", "lumina2", "z_image", "auraflow"),
                *("wan", "ltx", "ltx2", "ltx2.3", "hunyuan_video", "cosmos", "cosmos1"),
            ),
            (ORIGINAL, PREFIXED),
        ),
        (("sd", "sdxl"), (ORIGINAL, PREFIXED, IN_ROWS)),
        # Their original names are those of diffusers.
        (("qwen_image", "hidream"), (ORIGINAL, PREFIXED, NAMES_OF_DIFFUSERS)),
    ),
    _FAST | _RARE,
    slowly=_RARE,
)

SDCPP = Consumer(
    "stable-diffusion.cpp",
    _table(
        (("sd3", "flux", "flux2", "chroma", "z_image", "wan"), (ORIGINAL, PREFIXED)),
        (("qwen_image",), (ORIGINAL, PREFIXED, NAMES_OF_DIFFUSERS)),
    ),
    _FAST | _RARE | {"Q1_0"},
    why_not=dict.fromkeys(("sd", "sdxl"), "wants a UNet's text encoders in the same file"),
)

CONSUMERS = (DIFFUSERS, COMFYUI_GGUF, SDCPP)


def loaded_by(
    family: str, layout: FileLayout, types: Collection[str], shapes: Mapping[str, Shape] = PUBLISHED
) -> tuple[Consumer, ...]:
    """The programs that load a file of the ``family`` with tensors of these ``types`` and ``shapes``."""
    return tuple(each for each in CONSUMERS if each.refusal(family, layout, types, shapes) is None)


def loading_note(
    label: str, family: str, layout: FileLayout, types: Collection[str], shapes: Mapping[str, Shape] = PUBLISHED
) -> str:
    """A line of the plan about the file ``label``: who loads it, how, and why others do not."""
    loads = []
    for each in loaded_by(family, layout, types, shapes):
        slow = sorted(each.slowly.intersection(types))
        loads.append(f"{each.name} (slowly, for it decodes {' and '.join(slow)} on the CPU)" if slow else each.name)
    refusals = [(each, each.refusal(family, layout, types, shapes)) for each in CONSUMERS]
    refused = [f"{each.name} {refusal}" for each, refusal in refusals if refusal]
    found = f"{label} loads in {_listed(loads)}" if loads else f"{label} loads in no program known"
    return "; ".join([found, *refused])


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
