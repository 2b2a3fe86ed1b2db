"""Pipelines of diffusers: loading, drawing, and what can be said before."""

from hubquant.models.diffusion.check import check_pictures
from hubquant.models.diffusion.draw import Drawn, draw
from hubquant.models.diffusion.index import check_weight_files
from hubquant.models.diffusion.load import empty_pipeline, load_part, load_pipeline
from hubquant.models.diffusion.parts import denoiser, denoisers

__all__ = [
    "Drawn",
    "check_pictures",
    "check_weight_files",
    "denoiser",
    "denoisers",
    "draw",
    "empty_pipeline",
    "load_part",
    "load_pipeline",
]
