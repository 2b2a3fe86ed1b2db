"""stable-diffusion.cpp draws with our files what diffusers draws with their weights, where HUBQUANT_SDCPP is set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import hubquant
from hubquant.convert.architectures.t5 import T5
from hubquant.convert.config import make_config
from hubquant.convert.diffusion.consumers import SDCPP
from hubquant.convert.diffusion.restore import put_weights
from hubquant.evaluate.pictures import psnr
from hubquant.gguf_file import GGUFFile, GGUFWriter, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import string
from hubquant.imatrix import load_imatrix
from hubquant.sources.denoiser import open_denoiser_folder
from tests.convert.diffusion.test_sdcpp import assert_bytes_of_sdcpp, exact, in_original
from tests.support.sdcpp import converted_by_sdcpp, needs_sdcpp
from tests.support.sdcpp_pictures import PIPELINES, Compared

pytestmark = needs_sdcpp
LEAST = {"flux": 50.0, "sd3": 50.0, "sd15": 35.0}  # dB; of SD 1.5 it computes the text encoder and convolutions in F16
GAP = 10.0
MEDIAN, LARGEST = 2e-4, 1e-2
"""Of the relative differences of two matrices."""


@dataclass(frozen=True, eq=False)
class Source:
    """A denoiser in ``folder``, what it draws in diffusers, and the matrix of what it sees meanwhile."""

    compared: Compared
    folder: Path
    picture: torch.Tensor
    imatrix: Path

    def file(self, type: str, *, imatrix: bool) -> Path:
        (made,) = hubquant.quantize(
            self.folder,
            type,
            out=self.folder.parent / f"out-{imatrix}",
            imatrix=str(self.imatrix) if imatrix else (),
            store=self.folder.parent / "store",
            progress=False,
        )
        return made.path

    def drawn_with(self, file: Path) -> torch.Tensor:
        """By diffusers, with the weights of a file."""
        denoiser = self.compared.denoiser
        own = {name: x.clone() for name, x in denoiser.state_dict().items()}
        put_weights(denoiser, GGUFFile.open(file), open_denoiser_folder(self.folder, "").conversion())
        try:
            return self.compared.drawn()
        finally:
            denoiser.load_state_dict(own)


@pytest.fixture(scope="module", params=PIPELINES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    place = tmp_path_factory.mktemp(request.param)
    compared = PIPELINES[request.param](place)
    compared.denoiser.save_pretrained(place / request.param)
    with hubquant.observe(compared.pipe, place / "imatrix.gguf"):
        picture = compared.drawn()
    assert 0.2 < float(picture.std()) < 0.4
    return Source(compared, place / request.param, picture, place / "imatrix.gguf")


@pytest.mark.parametrize(
    ("type", "imatrix"),
    [("F16", False), ("Q8_0", False), ("Q4_0", False), ("Q8_0", True), ("Q4_0", True), ("Q4_K_M", True)],
)
def test_the_same_picture(source: Source, type: str, imatrix: bool) -> None:
    file = source.file(type, imatrix=imatrix)
    theirs = source.compared.drawn_by_sdcpp(file)
    same, other = psnr(theirs, source.drawn_with(file)), psnr(theirs, source.picture)
    assert same >= LEAST[source.folder.name]
    if type == "Q4_0":  # else it would not be seen whose weights these are
        assert other <= same - GAP


@pytest.fixture
def dat(source: Source) -> Path:
    """Of stable-diffusion.cpp, the matrix of what it sees while it draws the same picture."""
    path = source.folder.parent / "theirs.dat"
    if not path.is_file():
        source.compared.drawn_by_sdcpp(source.file("F32", imatrix=False), path)
    return path


def test_it_sees_what_we_see(source: Source, dat: Path) -> None:
    if source.folder.name == "sd15":
        pytest.skip("it computes convolutions in F16")
    ours, theirs = load_imatrix(source.imatrix).entries, load_imatrix(dat).entries
    others = theirs.keys() - ours.keys()
    assert ours.keys() < theirs.keys()
    assert all(name.startswith("text_encoders.t5xxl.transformer.") for name in others)
    x = torch.cat([theirs[name].means().flatten() for name in ours])
    y = torch.cat([entry.means().flatten() for entry in ours.values()])
    assert torch.equal(x == 0, y == 0)  # no prompt has a pooled embedding of zeros
    found = ((x - y).abs() / y)[y > 0]
    assert float(found.median()) <= MEDIAN
    assert float(found.max()) <= LARGEST


@pytest.mark.parametrize("type", ["Q4_0", "Q3_K"])
def test_a_dat_file_of_its_own_gives_its_bytes(source: Source, dat: Path, type: str) -> None:
    if source.folder.name != "flux":
        pytest.skip("once is enough")
    tensors = in_original(source.compared.denoiser.state_dict())
    file = source.folder.parent / "original.safetensors"
    save_file(tensors, file)
    theirs = converted_by_sdcpp(file, file.with_name(f"{type}.gguf"), type, imatrix=dat)
    assert_bytes_of_sdcpp(exact(file, type.replace("Q3_K", "Q3_K_M"), imatrix=dat), GGUFFile.open(theirs))
    plain = converted_by_sdcpp(file, file.with_name(f"{type}-plain.gguf"), type)
    assert plain.read_bytes() != theirs.read_bytes()


@pytest.mark.parametrize(
    "type", ["Q5_1", "Q6_K", "Q2_K", "IQ4_XS", "IQ3_S", "IQ2_XXS", "IQ1_M", "TQ2_0", "MXFP4_MOE", "Q1_0"]
)
def test_it_computes_with_types_of_every_kind(source: Source, type: str) -> None:
    if source.folder.name != "flux":
        pytest.skip("once is enough")
    file = source.file(type, imatrix=True)
    types = {entry.type for entry in GGUFFile.open(file).tensors.values()}
    assert type.removesuffix("_MOE") in types <= SDCPP.types
    assert psnr(source.compared.drawn_by_sdcpp(file), source.drawn_with(file)) >= LEAST["flux"]


def test_it_reads_text_encoders_of_ours(source: Source, tmp_path: Path) -> None:
    """With the weights of its safetensors file in ours the same picture, bit by bit; with others another."""
    if source.folder.name != "flux":
        pytest.skip("once is enough")
    compared, denoiser = source.compared, source.file("F16", imatrix=False)
    weights = load_file(compared.files["t5xxl"])
    sizes = {"vocab_size": 64, "d_model": 256, "d_ff": 128, "num_layers": 2, "num_heads": 1, "d_kv": 64}
    config = make_config("t5", {**sizes, "feed_forward_proj": "gated-gelu"}, T5.rules)
    bundles = [bundle.forward([weights[name] for name in bundle.sources]) for bundle in T5.bundles(config)]
    tensors = {name: x for bundle in bundles for name, x in bundle.items()}

    def drawn(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        path = tmp_path / "t5.gguf"
        entries = [TensorEntry(name, tuple(x.shape), "F32") for name, x in tensors.items()]
        with GGUFWriter(path, plan_layout({"general.architecture": string("t5encoder")}, entries)) as writer:
            for name, x in tensors.items():
                writer.write(name, x)
            writer.finish()
        return replace(compared, files={**compared.files, "t5xxl": path}).drawn_by_sdcpp(denoiser)

    picture = compared.drawn_by_sdcpp(denoiser)
    assert torch.equal(drawn(tensors), picture)
    down = "enc.blk.0.ffn_down.weight"
    assert psnr(drawn({**tensors, down: -tensors[down]}), picture) < LEAST["flux"] - GAP
