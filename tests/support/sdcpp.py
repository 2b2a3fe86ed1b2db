"""stable-diffusion.cpp converts and draws, in the Python that HUBQUANT_SDCPP names: one that has cyllama."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

needs_sdcpp = pytest.mark.skipif(
    "HUBQUANT_SDCPP" not in os.environ, reason="HUBQUANT_SDCPP names no Python with cyllama"
)

# No callback for its log, which would wait for Python forever.
_CONVERT = """
import sys
import cyllama.sd.stable_diffusion as sd
source, target, type, rules, imatrix, threads = sys.argv[1:]
if imatrix:
    sd.load_imatrix(imatrix)
done = sd.convert_model_with_components(
    target, sd.SDType[type], tensor_type_rules=rules or None, n_threads=int(threads), diffusion_model_path=source
)
sys.exit(not done)
"""

# Its random numbers on the CPU are those of torch.
_DRAW = """
import json
import sys
import cyllama.sd.stable_diffusion as sd
job = json.loads(sys.argv[1])
sd.ggml_backend_load_all()
context = sd.SDContextParams()
context.n_threads = 1
context.rng_type = context.sampler_rng_type = sd.RngType.CPU
for name, path in job["files"].items():
    setattr(context, name + "_path", path)
if job["imatrix"]:
    sd.enable_imatrix_collection()
drawing = sd.SDContext(context)
settings = sd.SDImageGenParams()
settings.prompt = settings.negative_prompt = ""
settings.width = settings.height = job["size"]
settings.seed = job["seed"]
sampling = settings.sample_params
sampling.sample_method = sd.SampleMethod.EULER
sampling.sample_steps = len(job["sigmas"])
sampling.custom_sigmas = [*job["sigmas"], 0.0]
sampling.cfg_scale = 1.0
sampling.distilled_guidance = job["guidance"]
settings.sample_params = sampling
(picture,) = drawing.generate_with_params(settings)
with open(job["out"], "wb") as file:
    file.write(picture.to_numpy().tobytes())
if job["imatrix"]:
    sd.save_imatrix(job["imatrix"])
drawing.close()
"""


def drawn_by_sdcpp(files: Mapping[str, Path], settings: Mapping[str, Any], imatrix: Path | None = None) -> torch.Tensor:
    """What it draws without a prompt and without guidance by one, [3, height, width] in 0..1; ``files`` are the parts
    of the model by its names, ``settings`` the size, seed, sigmas and distilled guidance."""
    out = next(iter(files.values())).with_suffix(".picture")
    job = {**settings, "files": {name: str(path) for name, path in files.items()}, "out": str(out)}
    line = [os.environ["HUBQUANT_SDCPP"], "-c", _DRAW, json.dumps({**job, "imatrix": str(imatrix or "")})]
    subprocess.run(line, check=True, capture_output=True, timeout=120)
    pixels = torch.frombuffer(bytearray(out.read_bytes()), dtype=torch.uint8)
    return pixels.view(settings["size"], settings["size"], 3).permute(2, 0, 1) / 255


def converted_by_sdcpp(
    source: Path,
    target: Path,
    type: str,
    rules: str = "",
    imatrix: Path | None = None,
    n_threads: int = 1,
    timeout: float | None = 120,
) -> Path:
    """``source``, a denoiser's safetensors file, as a GGUF file of ``type``, in a process of its own."""
    arguments = [str(source), str(target), type, rules, str(imatrix or ""), str(n_threads)]
    line = [os.environ["HUBQUANT_SDCPP"], "-c", _CONVERT, *arguments]
    subprocess.run(line, check=True, capture_output=True, timeout=timeout)
    return target
