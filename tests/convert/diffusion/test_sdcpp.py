"""Exact and pure files against stable-diffusion.cpp's convert. Where HUBQUANT_SDCPP is not set only what our kernels
are given is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import hubquant
from hubquant.convert.diffusion.recognise import PREFIX, recognise
from hubquant.gguf_file import GGUFFile
from hubquant.imatrix import Entry, ImportanceMatrix, save
from hubquant.quants import quantize
from tests.convert.diffusion.test_families import Tensors, shapes
from tests.support.diffusion import make_pipeline
from tests.support.sdcpp import converted_by_sdcpp, needs_sdcpp

FLOATS = ("F32", "F16", "BF16")


@cache
def original(family: str) -> Tensors:
    """A denoiser whose rows most blocks divide, in BF16 and by its original names."""
    return in_original(make_pipeline(family, 256).transformer.state_dict())


def in_original(tensors: Tensors) -> Tensors:
    """A denoiser of diffusers, in BF16 and by its original names."""
    bundles = recognise(shapes(tensors)).bundles()
    found: Tensors = {}
    for bundle in bundles:
        found |= bundle.inverse([tensors[name] for name in bundle.targets])
    return {name: x.bfloat16().contiguous() for name, x in found.items()}


def saved(folder: Path, family: str) -> Path:
    save_file(original(family), folder / "denoiser.safetensors")
    return folder / "denoiser.safetensors"


def matrix(family: str) -> ImportanceMatrix:
    generator = torch.Generator().manual_seed(0)
    entries = {
        name: Entry(500 * torch.rand(1, x.shape[1], generator=generator).double() ** 3, torch.tensor([12]))
        for name, x in original(family).items()
        if x.dim() == 2
    }
    return ImportanceMatrix(entries, ("prompts",), 1, 3)


def exact(source: Path, type: str, rules: Mapping[str, str] = {}, imatrix: Path | None = None) -> GGUFFile:
    (file,) = hubquant.quantize(
        source,
        type,
        out=source.parent / "out",
        mode="exact",
        pure=True,
        tensor_type=rules,
        imatrix=str(imatrix) if imatrix else (),
        store=source.parent / "store",
        progress=False,
    )
    return GGUFFile.open(file.path)


def assert_bytes_of_sdcpp(ours: GGUFFile, theirs: GGUFFile) -> None:
    """What we quantize has its type and bytes. What else it quantizes is no weight of a linear layer."""
    held = {name.removeprefix(PREFIX): (name, entry) for name, entry in theirs.tensors.items()}
    assert ours.tensors.keys() == held.keys()
    quantized = {name for name, entry in ours.tensors.items() if entry.type not in FLOATS}
    assert len(quantized) > len(held) / 5
    for name in quantized:
        assert ours.tensors[name].type == held[name][1].type, name
        assert torch.equal(ours.data(name).flatten(), theirs.data(held[name][0]).flatten()), name
    for name, (_, entry) in held.items():
        if name not in quantized and entry.type not in FLOATS:
            assert len(ours.tensors[name].shape) != 2 or not name.endswith(".weight"), name


@needs_sdcpp
@pytest.mark.parametrize("family", ["flux", "sd35", "wan", "qwen_image", "z_image"])
@pytest.mark.parametrize(
    ("type", "ftype"), [("Q8_0", "Q8_0"), ("Q4_0", "Q4_0"), ("Q5_1", "Q5_1"), ("Q2_K", "Q2_K"), ("Q4_K", "Q4_K_M")]
)
def test_one_type_for_all(tmp_path: Path, family: str, type: str, ftype: str) -> None:
    source = saved(tmp_path, family)
    theirs = converted_by_sdcpp(source, tmp_path / "theirs.gguf", type)
    assert_bytes_of_sdcpp(exact(source, ftype), GGUFFile.open(theirs))


@needs_sdcpp
def test_types_by_rules(tmp_path: Path) -> None:
    source = saved(tmp_path, "flux")
    rules = {"img_mlp": "IQ4_NL", "linear2": "F16", "txt_mod": "IQ3_S", "img": "Q6_K"}
    line = ",".join(f"{match}={type.lower().replace('_k', '_K')}" for match, type in rules.items())
    theirs = converted_by_sdcpp(source, tmp_path / "theirs.gguf", "Q3_K", line)
    assert_bytes_of_sdcpp(exact(source, "Q3_K_M", rules), GGUFFile.open(theirs))


@needs_sdcpp
@pytest.mark.parametrize("type", ["Q4_0", "Q5_0", "Q3_K", "Q6_K"])
def test_a_matrix_of_ours(tmp_path: Path, type: str) -> None:
    source, imatrix = saved(tmp_path, "flux"), tmp_path / "imatrix.dat"
    save(matrix("flux"), imatrix)
    theirs = converted_by_sdcpp(source, tmp_path / "theirs.gguf", type, imatrix=imatrix)
    assert_bytes_of_sdcpp(exact(source, type, imatrix=imatrix), GGUFFile.open(theirs))


def test_columns_weigh_what_a_dat_file_says_or_one(tmp_path: Path) -> None:
    source, name, known = saved(tmp_path, "flux"), "single_blocks.0.linear1.weight", "single_blocks.0.linear2.weight"
    given = matrix("flux")
    save(ImportanceMatrix({known: given.entries[known]}, ("prompts",), 1, 3), tmp_path / "imatrix.dat")
    file = exact(source, "Q4_0", imatrix=tmp_path / "imatrix.dat")
    values = given.entries[known].in_sum2[0].float() / 12 * 12
    for weight, columns in ((name, torch.ones(256)), (known, values)):
        wanted = quantize(original("flux")[weight].float(), "Q4_0", columns, "exact")
        assert torch.equal(file.data(weight).flatten(), wanted.flatten())
    assert not torch.equal(wanted, quantize(original("flux")[known].float(), "Q4_0", values / 12, "exact"))
