"""How well a denoiser with quantized weights draws, against its source."""

from hubquant.evaluate.pictures.fidelity import Fidelity, check_faithful
from hubquant.evaluate.pictures.likeness import Likeness, psnr, relative_error, ssim
from hubquant.evaluate.pictures.replay import PredictionError, replay
from hubquant.evaluate.pictures.tape import Call, Tape

__all__ = [
    "Call",
    "Fidelity",
    "Likeness",
    "PredictionError",
    "Tape",
    "check_faithful",
    "psnr",
    "relative_error",
    "replay",
    "ssim",
]
