"""What a card tells of a diffusion model: how its files are loaded, and what was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from hubquant.convert.diffusion.consumers import COMFYUI_GGUF, DIFFUSERS, SDCPP
from hubquant.publish.names import preferred
from hubquant.publish.recommendation import MeasuredFile

HOMES = {
    DIFFUSERS.name: "https://huggingface.co/docs/diffusers/quantization/gguf",
    COMFYUI_GGUF.name: "https://github.com/city96/ComfyUI-GGUF",
    SDCPP.name: "https://github.com/leejet/stable-diffusion.cpp",
}
"""Programs that load denoisers in GGUF, by their names."""


@dataclass(frozen=True)
class Drawing:
    """``pipeline`` and ``denoiser`` are classes of diffusers, ``part`` is the denoiser's name in the pipeline.
    ``prompts`` are those of the pictures that were drawn by the source and by every file, in the order of the grid, and
    ``settings`` says how, such as "28 steps, 1024 × 1024 pixels"; ``n_calibrated`` pictures were drawn for the
    importance matrix.
    """

    pipeline: str
    denoiser: str
    part: str = "transformer"
    is_video: bool = False
    prompts: tuple[str, ...] = ()
    settings: str = ""
    n_calibrated: int = 0

    @property
    def tag(self) -> str:
        """As the Hub calls the task."""
        return "text-to-video" if self.is_video else "text-to-image"

    @property
    def made(self) -> str:
        return "video" if self.is_video else "picture"


@dataclass(frozen=True)
class TextEncoder:
    """A part of a pipeline that reads prompts: its name there, and stable-diffusion.cpp's ``option`` for a file of
    it."""

    part: str
    option: str


def programs(files: Sequence[MeasuredFile]) -> list[dict[str, Any]]:
    """Of each program that loads some of ``files``, in a fixed order: its ``name`` and ``home``, one of them as the
    ``example``, and the ``others``: types that it does not load."""
    found = []
    for name, home in HOMES.items():
        loaded = [file for file in files if name in file.loaded_by]
        if loaded:
            others = [file.type for file in files if file not in loaded]
            found.append({"name": name, "home": home, "example": preferred(loaded), "others": others})
    return found


def address(repo_id: str, path: str) -> str:
    """Of a file, as diffusers takes it."""
    return f"https://huggingface.co/{quote(repo_id)}/blob/main/{quote(path)}"
