"""Importance matrices of pipelines, fitted to the file of one denoiser."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hubquant.convert.diffusion.conversion import FileLayout, default_layout, denoiser_conversion
from hubquant.convert.diffusion.importance import fit_denoiser
from hubquant.convert.diffusion.recognise import recognise
from hubquant.errors import ImatrixError
from hubquant.imatrix import Entry, ImportanceMatrix
from hubquant.observe.layers import observed_layers
from hubquant.observe.patches import columns
from tests.support.diffusion import make_pipeline

PREFIX = "model.diffusion_model."


def fitted_to(matrix: ImportanceMatrix, shapes: dict[str, tuple[int, ...]], **options: bool) -> ImportanceMatrix:
    """To a file in which the weights of all linear layers stand as they are."""
    return fit_denoiser(matrix, shapes, [name for name, shape in shapes.items() if len(shape) == 2], **options)


def matrix_of(family: str, *, convolutions: bool = False) -> ImportanceMatrix:
    """With random numbers for each layer that is observed."""
    layers = observed_layers(make_pipeline(family), convolutions)
    entries = {name: Entry(torch.rand(1, columns(layer)), torch.tensor([4])) for name, layer in layers.items()}
    return ImportanceMatrix(entries, (), 1, 1)


def shapes_of(family: str, layout: FileLayout | None = None) -> dict[str, tuple[int, ...]]:
    pipe = make_pipeline(family)
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    found = recognise({name: tuple(x.shape) for name, x in denoiser.state_dict().items()})
    return denoiser_conversion(found, {}, layout or default_layout(found)).shapes


def same(first: ImportanceMatrix, second: ImportanceMatrix) -> bool:
    names = first.entries.keys()
    return names == second.entries.keys() and all(
        torch.equal(first.entries[name].in_sum2, second.entries[name].in_sum2) for name in names
    )


@pytest.mark.parametrize("family", ["sd15", "flux", "sd3", "lumina2", "wan"])
def test_every_linear_layer_of_the_file_has_its_entry(family: str) -> None:
    """Text encoders and convolutions are left out; a prefix may be there or not."""
    matrix, shapes = matrix_of(family, convolutions=True), shapes_of(family)
    fitted = fitted_to(matrix, shapes)
    linear = {name for name, shape in shapes.items() if len(shape) == 2 and name.endswith(".weight")}
    assert fitted.entries.keys() == linear
    renamed = {
        name if "encoder" in name or name.startswith(PREFIX) else PREFIX + name: entry
        for name, entry in matrix.entries.items()
    }
    assert same(fitted_to(replace(matrix, entries=renamed), shapes), fitted)
    bare = {name.removeprefix(PREFIX): entry for name, entry in matrix.entries.items()}
    assert same(fitted_to(replace(matrix, entries=bare), shapes), fitted)


def test_parts_of_one_weight_and_files_of_other_layouts() -> None:
    matrix, shapes = matrix_of("flux"), shapes_of("flux")
    fitted = fitted_to(matrix, shapes)
    name = "double_blocks.0.img_attn.qkv.weight"
    split = {f"{PREFIX}{name}{part}": matrix.entries[name] for part in (".1", "", ".2")}
    assert same(fitted_to(replace(matrix, entries={**matrix.entries, **split}), shapes), fitted)
    without = {key: entry for key, entry in matrix.entries.items() if key != name}
    only_parts = {f"{PREFIX}{name}.1": matrix.entries[name]}
    assert same(fitted_to(replace(matrix, entries=without | only_parts), shapes), fitted)
    of_diffusers = fitted_to(matrix, shapes_of("flux", FileLayout("diffusers")))
    for part in ("to_q", "to_k", "to_v"):
        found = of_diffusers.entries[f"transformer_blocks.0.attn.{part}.weight"]
        assert torch.equal(found.in_sum2, matrix.entries[name].in_sum2)


def test_of_two_denoisers_each_gets_its_own() -> None:
    matrix, shapes = matrix_of("wan"), shapes_of("wan")
    others = {name: entry for name, entry in matrix_of("wan").entries.items() if not name.startswith("text_encoders.")}
    first = {f"model.high_noise_diffusion_model.{name}": entry for name, entry in others.items()}
    both = replace(matrix, entries={**matrix.entries, **first})
    assert same(fitted_to(both, shapes), fitted_to(matrix, shapes))
    fitted = fitted_to(both, shapes, high_noise=True)
    name = "blocks.0.ffn.0.weight"
    assert torch.equal(fitted.entries[name].in_sum2, first[f"model.high_noise_diffusion_model.{name}"].in_sum2)
    assert same(fitted_to(matrix, shapes, high_noise=True), fitted_to(matrix, shapes))


def test_matrices_of_other_models() -> None:
    flux = matrix_of("flux")
    with pytest.raises(ImatrixError, match=r"it has context_embedder\.weight, and the denoiser has no such weight"):
        fitted_to(matrix_of("sd3"), shapes_of("flux"))
    name = "double_blocks.0.img_mlp.0.weight"
    wide = {**flux.entries, name: Entry(torch.rand(1, 128), torch.tensor([4]))}
    with pytest.raises(ImatrixError, match=f"{name} has 128 columns there and 64 in the model"):
        fitted_to(replace(flux, entries=wide), shapes_of("flux"))
    more = {**flux.entries, "double_blocks.7.img_mlp.0.weight": flux.entries[name]}
    with pytest.raises(ImatrixError, match=r"double_blocks\.7"):
        fitted_to(replace(flux, entries=more), shapes_of("flux"))
    texts = {name: entry for name, entry in flux.entries.items() if name.startswith("text_encoders.")}
    with pytest.raises(ImatrixError, match=r"it has text_encoders\.\S+, and nothing of a denoiser"):
        fitted_to(replace(flux, entries=texts), shapes_of("flux"))
