"""stable-diffusion.cpp's convert, in the Python that HUBQUANT_SDCPP names: one that has the package cyllama."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

needs_sdcpp = pytest.mark.skipif(
    "HUBQUANT_SDCPP" not in os.environ, reason="HUBQUANT_SDCPP names no Python with cyllama"
)

# No callback for its log, which would wait for Python forever.
_CONVERT = """
import sys
import cyllama.sd.stable_diffusion as sd
source, target, type, rules, imatrix = sys.argv[1:]
if imatrix:
    sd.load_imatrix(imatrix)
done = sd.convert_model_with_components(
    target, sd.SDType[type], tensor_type_rules=rules or None, n_threads=1, diffusion_model_path=source
)
sys.exit(not done)
"""


def converted_by_sdcpp(source: Path, target: Path, type: str, rules: str = "", imatrix: Path | None = None) -> Path:
    """``source``, a denoiser's safetensors file, as a GGUF file of ``type``."""
    line = [os.environ["HUBQUANT_SDCPP"], "-c", _CONVERT, str(source), str(target), type, rules, str(imatrix or "")]
    subprocess.run(line, check=True, capture_output=True, timeout=120)
    return target
