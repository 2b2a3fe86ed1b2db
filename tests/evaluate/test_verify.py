from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from hubquant.errors import GGUFError, VerificationError
from hubquant.evaluate import FileCheck, verify_files
from hubquant.evaluate.bands import LIMITS, ErrorSums
from hubquant.gguf_file import GGUFWriter, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import string
from hubquant.quants import FORK_TYPES, TYPES, dequantize, quantize
from tests.support.llamacpp import ggml_quantize

ROWS, N = 16, 1024
NEED_IMPORTANCE = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")
IMPORTANCE = [(type, kind) for type in sorted(LIMITS) for kind in ("none", "lognormal", "few columns")]


def weights(kind: str) -> torch.Tensor:
    rng = np.random.default_rng(7)
    gaussian = rng.standard_normal((ROWS, N))
    x = {
        "gaussian": lambda: gaussian,
        "laplace": lambda: rng.laplace(size=(ROWS, N)),
        "student": lambda: rng.standard_t(3, size=(ROWS, N)),
        "uniform": lambda: rng.uniform(-1, 1, size=(ROWS, N)),
        "rows": lambda: gaussian * np.exp(rng.standard_normal((ROWS, 1))),
        "columns": lambda: gaussian * np.exp(rng.standard_normal((1, N))),
        "outliers": lambda: gaussian * np.where(np.arange(N) % 97 == 0, 30, 1),
        "small": lambda: gaussian * 1e-5,
        "zeros": lambda: gaussian * 0,
    }[kind]()
    return torch.from_numpy(0.02 * x).float()


def importance(kind: str) -> torch.Tensor | None:
    rng = np.random.default_rng(8)
    lognormal = np.exp(2 * rng.standard_normal(N))
    few = np.where(rng.random(N) < 0.01, 1e4, 1.0) * np.exp(rng.standard_normal(N))
    values = {"none": None, "lognormal": lognormal, "few columns": few}[kind]
    return None if values is None else torch.from_numpy(values).float()


def fake_quantized(x: torch.Tensor, type: str, weights: torch.Tensor | None) -> torch.Tensor:
    """What llama.cpp's quantizer makes of ``x``, or hubquant's for a fork's type."""
    if type in FORK_TYPES:
        return dequantize(quantize(x, type, weights), type, x.shape[1])
    ids = {t.name: t.value for t in gguf.GGMLQuantizationType} | {name: f.id for name, f in TYPES.items()}
    packed = ggml_quantize(x.numpy(), ids[type], None if weights is None else weights.numpy())
    return dequantize(torch.from_numpy(packed), type, x.shape[1])


def out_of_band(x: torch.Tensor, y: torch.Tensor, type: str) -> bool:
    sums = ErrorSums(type)
    sums.add(x, y)
    return bool(sums.relative_error > sums.limit or sums.bad_rows)


@pytest.mark.parametrize(("type", "weighted"), [p for p in IMPORTANCE if p[1] != "none" or p[0] not in NEED_IMPORTANCE])
def test_honest_tensors_are_within_their_band(type: str, weighted: str) -> None:
    kinds = ["gaussian", "laplace", "student", "uniform", "rows", "columns", "outliers", "small", "zeros"]
    bad = [k for k in kinds if out_of_band(weights(k), fake_quantized(weights(k), type, importance(weighted)), type)]
    assert not bad


@pytest.mark.parametrize(
    ("type", "held"),
    [
        ("Q8_0", "Q6_K"),
        ("Q6_K", "Q4_K"),
        ("Q5_K", "Q3_K"),
        ("Q4_K", "Q2_K"),
        ("Q4_0", "Q2_K"),
        ("IQ4_XS", "Q2_K"),
        ("Q3_K", "IQ2_XS"),
        ("Q3_K", "IQ1_S"),
    ],
)
@pytest.mark.parametrize("kind", ["gaussian", "laplace", "student", "uniform", "rows", "columns"])
def test_a_file_that_holds_weights_of_fewer_bits_is_caught(type: str, held: str, kind: str) -> None:
    x = weights(kind)
    worse = fake_quantized(x, held, torch.ones(N))
    assert out_of_band(x, fake_quantized(worse, type, None), type)


@pytest.mark.parametrize("type", ["Q8_0", "Q6_K", "Q5_0", "Q4_K", "IQ4_XS"])
@pytest.mark.parametrize("damage", ["swapped", "zeroed", "negated"])
def test_two_wrong_rows_are_caught(type: str, damage: str) -> None:
    x = weights("gaussian")
    y = fake_quantized(x, type, None)
    assert not out_of_band(x, y, type)
    rows = {"swapped": y[[1, 0]], "zeroed": 0 * y[:2], "negated": -y[:2]}[damage]
    assert out_of_band(x, torch.cat([rows, y[2:]]), type)


SOURCE = {
    "output.weight": torch.randn(64, 256, generator=torch.Generator().manual_seed(0)),
    "blk.0.attn_norm.weight": torch.randn(256, generator=torch.Generator().manual_seed(1)),
    "blk.0.attn_q.weight": torch.randn(512, 256, generator=torch.Generator().manual_seed(2)).bfloat16(),
    "blk.0.ffn_up_exps.weight": torch.randn(3, 64, 256, generator=torch.Generator().manual_seed(3)),
}
TYPES_A = dict(zip(SOURCE, ("Q6_K", "F32", "Q4_K", "Q4_K"), strict=True))
TYPES_B = dict(zip(SOURCE, ("F16", "F32", "BF16", "Q8_0"), strict=True))


def write(
    path: Path,
    types: Mapping[str, str],
    source: Mapping[str, torch.Tensor] = SOURCE,
    edit: Callable[[str, torch.Tensor], torch.Tensor] = lambda _, data: data,
) -> Path:
    entries = [TensorEntry(name, tuple(x.shape), types[name]) for name, x in source.items()]
    with GGUFWriter(path, plan_layout({"general.architecture": string("llama")}, entries)) as writer:
        for name, x in source.items():
            writer.write(name, edit(name, quantize(x.reshape(-1, x.shape[-1]), types[name])))
        writer.finish()
    return path


def verify(*paths: Path, source: Mapping[str, torch.Tensor] = SOURCE) -> list[FileCheck]:
    return verify_files(paths, iter(source.items()))


def test_sound_files_pass_and_the_source_is_read_once(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.gguf", TYPES_A), write(tmp_path / "b.gguf", TYPES_B)]
    read: list[str] = []

    def source() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in SOURCE.items():
            read.append(name)
            yield name, tensor

    done: list[int] = []
    first, second = verify_files(paths, source(), n_worst=2, advance=done.append)
    assert read == list(SOURCE)
    assert done == [1] * 4
    assert (first.path, first.n_tensors, len(first.worst)) == (paths[0], 4, 2)
    assert {check.type for check in first.worst} <= {"Q4_K", "Q6_K"}
    assert first.worst[0].strain >= first.worst[1].strain > 0.3
    assert 0.05 < max(check.relative_error for check in first.worst) < 0.1
    assert second.worst[0].type == "Q8_0"


def test_weights_of_two_bits_in_a_file_of_four_are_named(tmp_path: Path) -> None:
    name = "blk.0.ffn_up_exps.weight"
    x = SOURCE[name].reshape(-1, 256)
    worse = quantize(dequantize(quantize(x, "Q2_K"), "Q2_K", 256), "Q4_K")
    path = write(tmp_path / "m-Q4_K_M.gguf", TYPES_A, edit=lambda n, data: worse if n == name else data)
    with pytest.raises(VerificationError, match=rf"m-Q4_K_M.gguf: {name} is not what its source holds") as caught:
        verify(path)
    assert "is the most for Q4_K" in str(caught.value)
    assert caught.value.hint


def nan_scale(data: torch.Tensor) -> torch.Tensor:
    data = data.clone()
    data[5, 0:2] = torch.tensor([0xFF, 0x7F], dtype=torch.uint8)
    return data


@pytest.mark.parametrize(
    ("types", "name", "edit", "words"),
    [
        (TYPES_A, "blk.0.attn_q.weight", nan_scale, "NaN or infinite"),
        (TYPES_A, "blk.0.attn_q.weight", lambda d: d[torch.arange(512).roll(1)], "are off by 1"),
        (TYPES_A, "blk.0.attn_q.weight", lambda d: torch.cat([d[:1], d[:1], d[2:]]), "1 of its 512 rows"),
        (TYPES_A, "blk.0.attn_norm.weight", lambda d: d.roll(4, dims=1), "rounded to F32"),
        (TYPES_B, "output.weight", lambda d: d ^ (torch.arange(512) == 6).to(torch.uint8), "rounded to F16"),
        (TYPES_B, "blk.0.attn_q.weight", lambda d: d.flip(0), "rounded to BF16"),
    ],
)
def test_damage_is_named(
    tmp_path: Path, types: dict[str, str], name: str, edit: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    path = write(tmp_path / "m.gguf", types, edit=lambda n, data: edit(data).contiguous() if n == name else data)
    with pytest.raises(VerificationError, match=name) as caught:
        verify(path)
    assert words in str(caught.value)


def test_other_names_and_shapes_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", TYPES_A)
    without = {name: x for name, x in SOURCE.items() if name != "output.weight"}
    with pytest.raises(VerificationError, match=r"output.weight.*the source has no such tensor"):
        verify(path, source=without)
    with pytest.raises(VerificationError, match=r"extra.weight.*the file lacks this tensor"):
        verify(path, source=SOURCE | {"extra.weight": torch.zeros(2, 2)})
    with pytest.raises(VerificationError, match=r"its shape is \[64, 256\], the source's \[32, 512\]"):
        verify(path, source=SOURCE | {"output.weight": SOURCE["output.weight"].reshape(32, 512)})


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("no GGUF")
    with pytest.raises(GGUFError):
        verify(tmp_path / "m.gguf")
