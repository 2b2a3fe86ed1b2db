"""Weights in rows of 256, as ComfyUI-GGUF takes those of Stable Diffusion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hubquant
from hubquant.convert.diffusion.conversion import layout_of
from hubquant.convert.diffusion.restore import put_weights
from hubquant.gguf_file import GGUFFile
from hubquant.sources.denoiser import open_denoiser_folder
from tests.support.diffusion import make_pipeline


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    module: torch.nn.Module = make_pipeline("sd15").unet
    return module


def test_a_unet_in_rows_is_put_back(unet: torch.nn.Module, tmp_path: Path) -> None:
    unet.save_pretrained(tmp_path / "unet")
    recipe = {"imatrix.skip": True, "evaluate.skip": True, "publish.layout": "comfyui"}
    hubquant.run(tmp_path / "unet", types=["F32"], overrides=recipe, out=tmp_path / "out", store=tmp_path / "store")
    (file,) = (tmp_path / "out").glob("*.gguf")
    gguf = GGUFFile.open(file)
    name = "input_blocks.1.0.in_layers.2.weight"
    shape = gguf.metadata[f"comfy.gguf.orig_shape.{name}"].value
    assert shape == tuple(unet.down_blocks[0].resnets[0].conv1.weight.shape)
    assert gguf.tensors[name].shape[1] == 256
    source = open_denoiser_folder(tmp_path / "unet", "unet")
    conversion = replace(source, layout=layout_of(source.denoiser, "comfyui")).conversion()
    before = {key: x.clone() for key, x in unet.state_dict().items()}
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.zero_()
    put_weights(unet, gguf, conversion)
    assert all(torch.equal(x, before[key]) for key, x in unet.state_dict().items())
