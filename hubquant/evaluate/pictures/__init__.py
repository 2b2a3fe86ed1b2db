"""How well a denoiser with quantized weights draws, against its source."""

from hubquant.evaluate.pictures.fidelity import Fidelity, check_faithful
from hubquant.evaluate.pictures.in_diffusers import DiffusersCheck, check_in_diffusers
from hubquant.evaluate.pictures.likeness import Likeness, psnr, relative_error, ssim
from hubquant.evaluate.pictures.replay import PredictionError, predicted, replay
from hubquant.evaluate.pictures.tape import Call, Tape

__all__ = [
    "Call",
    "DiffusersCheck",
    "Fidelity",
    "Likeness",
    "PredictionError",
    "Tape",
    "check_faithful",
    "check_in_diffusers",
    "predicted",
    "psnr",
    "relative_error",
    "replay",
    "ssim",
]
