"""Several files in one pass over tensors that are cut into slices and run side by side."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hubquant.backends.gguf.writing import Target, TypesByTensor, quantize_files
from hubquant.errors import CheckpointError
from hubquant.gguf_file import GGUFFile, TensorEntry, plan_layout
from hubquant.quants import quantize

TYPES = {
    "a.gguf": {"norm.weight": "F32", "large.weight": "Q8_0", "small.weight": "Q4_0", "last.weight": "Q4_0"},
    "b.gguf": {"norm.weight": "F32", "large.weight": "Q4_0", "small.weight": "Q4_0", "last.weight": "Q8_0"},
}


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"norm.weight": (96,), "large.weight": (2100, 4128), "small.weight": (5, 96), "last.weight": (3, 7, 64)}
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def targets(folder: Path, tensors: dict[str, torch.Tensor]) -> list[Target]:
    return [
        Target(
            folder / name,
            [plan_layout({}, [TensorEntry(tensor, tuple(tensors[tensor].shape), types[tensor]) for tensor in types])],
            types,
        )
        for name, types in TYPES.items()
    ]


def importance(name: str) -> torch.Tensor | None:
    """Of the columns of one tensor, and of those of each matrix of another."""
    if name == "last.weight":
        return torch.stack([torch.linspace(0.1, 3, 64).roll(16 * shift) for shift in range(3)])
    return torch.linspace(0.1, 3, 4128) if name == "large.weight" else None


def quantized(name: str, tensor: torch.Tensor, type: str) -> torch.Tensor:
    columns = importance(name)
    if columns is None or columns.dim() == 1:
        return quantize(tensor.reshape(-1, tensor.shape[-1]), type, columns, "exact", threads=1)
    parts = zip(tensor, columns, strict=True)
    return torch.cat([quantize(rows, type, of_matrix, "exact", threads=1) for rows, of_matrix in parts])


def test_every_file_holds_the_bytes_of_whole_tensors(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    def stream(wanted: TypesByTensor) -> Iterator[tuple[str, torch.Tensor]]:
        assert wanted == {name: {types[name] for types in TYPES.values()} for name in tensors}
        yield from tensors.items()

    written: list[int] = []
    made = targets(tmp_path, tensors)
    quantize_files(made, stream, importance, "exact", written.append)
    assert sum(written) == sum(entry.nbytes for target in made for entry in target.layouts[0].tensors.values())
    for name, types in TYPES.items():
        file = GGUFFile.open(tmp_path / name)
        for tensor, type in types.items():
            assert torch.equal(file.data(tensor), quantized(tensor, tensors[tensor], type))


def test_one_pass_writes_with_importance_and_without(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    weighted, other = targets(tmp_path, tensors)
    plain = replace(weighted, path=tmp_path / "plain.gguf", weighted=False)
    ones = {"last.weight": torch.ones(64)}
    quantize_files(
        [weighted, plain, other], lambda _: tensors.items(), importance, "exact", lambda _: None, plain=ones.get
    )
    files = {target.path.name: GGUFFile.open(target.path) for target in (weighted, plain)}
    for name, type in weighted.types.items():
        rows = tensors[name].reshape(-1, tensors[name].shape[-1])
        assert torch.equal(files["a.gguf"].data(name), quantized(name, tensors[name], type))
        assert torch.equal(files["plain.gguf"].data(name), quantize(rows, type, ones.get(name), "exact", threads=1))
    assert not torch.equal(*(files[name].data("last.weight") for name in files))


def test_a_pass_that_fails_goes_on_where_it_was(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    def broken(_: TypesByTensor) -> Iterator[tuple[str, torch.Tensor]]:
        for name in ("norm.weight", "large.weight", "small.weight"):
            yield name, tensors[name]
            if name == "large.weight":
                yield "last.weight", torch.full((3, 7, 64), torch.nan)

    with pytest.raises(ValueError, match="row 0 holds NaN"):
        quantize_files(targets(tmp_path, tensors), broken, importance, "exact", lambda _: None)
    assert not list(tmp_path.glob("*.gguf"))
    asked: list[set[str]] = []

    def stream(wanted: TypesByTensor) -> Iterator[tuple[str, torch.Tensor]]:
        asked.append({*wanted})
        yield from ((name, tensors[name]) for name in tensors if name in wanted)

    quantize_files(targets(tmp_path, tensors), stream, importance, "exact", lambda _: None)
    assert asked in ([{"last.weight"}], [{"small.weight", "last.weight"}])
    assert {path.name for path in tmp_path.glob("*.gguf")} == TYPES.keys()


def test_weights_that_f16_cannot_hold(tmp_path: Path) -> None:
    large = torch.tensor([[1.0, 70_000.0]]).bfloat16()
    target = Target(tmp_path / "x", [plan_layout({}, [TensorEntry("large", (1, 2), "F16")])], {"large": "F16"})
    with pytest.raises(CheckpointError, match="tensor large holds weights that F16 cannot"):
        quantize_files([target], lambda _: [("large", large)], importance, "exact", lambda _: None)
