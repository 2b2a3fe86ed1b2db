from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubquant.errors import GGUFError, VerificationError
from hubquant.evaluate import FileCheck, verify_files
from hubquant.evaluate.bands import REACHES, VERIFIED, ErrorSums
from hubquant.gguf_file import GGUFWriter, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import string
from hubquant.quants import dequantize, quantize
from hubquant.quants.api import Mode

ROWS, N = 8, 512
NEED_IMPORTANCE = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")
MODES: tuple[Mode, ...] = ("exact", "best")
KINDS = (
    *("gaussian", "laplace", "student", "uniform", "constant", "nearly-constant", "shifted", "rows", "columns"),
    *("outliers", "spikes", "sparse", "zero-rows", "integers", "small", "zeros"),
    *("grid-Q4_1", "grid-Q6_K", "grid-Q2_K", "grid-MXFP4"),
)
IMPORTANCES = ("none", "equal", "lognormal", "few", "very-few", "half-dead")
SCALARS = sorted(VERIFIED - REACHES.keys())


@functools.cache
def weights(kind: str) -> torch.Tensor:
    rng = np.random.default_rng(7)
    gaussian = rng.standard_normal((ROWS, N))
    if kind.startswith("grid-"):
        type = kind.removeprefix("grid-")
        x = torch.from_numpy(0.02 * gaussian).float()
        return dequantize(quantize(x, type, torch.ones(N), "exact"), type, N)
    x = {
        "gaussian": lambda: gaussian,
        "laplace": lambda: rng.laplace(size=(ROWS, N)),
        "student": lambda: rng.standard_t(2, size=(ROWS, N)),
        "uniform": lambda: rng.uniform(-1, 1, size=(ROWS, N)),
        "constant": lambda: np.ones((ROWS, N)),
        "nearly-constant": lambda: 1 + 1e-3 * gaussian,
        "shifted": lambda: 3 + gaussian,
        "rows": lambda: gaussian * np.exp(rng.standard_normal((ROWS, 1))),
        "columns": lambda: gaussian * np.exp(rng.standard_normal((1, N))),
        "outliers": lambda: gaussian * np.where(np.arange(N) % 97 == 0, 1000, 1),
        "spikes": lambda: gaussian * np.where(rng.random((ROWS, N)) < 0.005, 50, 0.01),
        "sparse": lambda: np.where(rng.random((ROWS, N)) < 0.1, gaussian, 0),
        "zero-rows": lambda: gaussian * (np.arange(ROWS) % 2)[:, None],
        "integers": lambda: np.round(3 * gaussian),
        "small": lambda: gaussian * 1e-5,
        "zeros": lambda: gaussian * 0,
    }[kind]()
    return torch.from_numpy(0.02 * x).float()


@functools.cache
def importance(kind: str) -> torch.Tensor | None:
    rng = np.random.default_rng(8)
    lognormal = np.exp(rng.standard_normal(N))
    values = {
        "none": None,
        "equal": np.ones(N),
        "lognormal": lognormal**2,
        "few": np.where(rng.random(N) < 0.01, 1e4, 1.0) * lognormal,
        "very-few": np.where(rng.random(N) < 0.01, 1e7, 1.0) * lognormal,
        "half-dead": np.where(rng.random(N) < 0.5, 0, lognormal),
    }[kind]
    return None if values is None else torch.from_numpy(values).float()


def out_of_band(x: torch.Tensor, data: torch.Tensor, type: str, mode: Mode = "best") -> bool:
    sums = ErrorSums(type, mode)
    sums.add(x, dequantize(data, type, x.shape[1]), data)
    return bool(sums.relative_error > sums.limit or sums.bad_rows)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("type", sorted(VERIFIED))
def test_whatever_importance_makes_of_any_weights_is_within_their_band(type: str, mode: Mode) -> None:
    bad = []
    x = torch.cat([weights(kind) for kind in KINDS])
    for weighted in IMPORTANCES:
        if weighted == "none" and type in NEED_IMPORTANCE:
            continue
        if type in ("IQ1_S", "IQ1_M") and (mode, weighted) == ("exact", "half-dead"):
            continue  # of no use there, as llama.cpp makes it
        parts = quantize(x, type, importance(weighted), mode).split(ROWS)
        for kind, data in zip(KINDS, parts, strict=True):
            if out_of_band(weights(kind), data, type, mode):
                bad.append((kind, weighted))
    assert not bad


@settings(max_examples=60)
@given(st.data())
def test_rounding_never_leaves_its_band(data: st.DataObject) -> None:
    """Weights and importance over many orders of magnitude, zeros among them."""
    type = data.draw(st.sampled_from(SCALARS))
    seed = data.draw(st.integers(0, 2**32 - 1))
    spread, contrast = data.draw(st.floats(0, 4)), data.draw(st.floats(0, 8))
    density, alive = data.draw(st.floats(0.05, 1)), data.draw(st.floats(0.05, 1))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, 256)) * np.exp(spread * rng.standard_normal((4, 256)))
    columns = np.exp(contrast * rng.standard_normal(256))
    x, columns = np.where(rng.random(x.shape) < density, x, 0), np.where(rng.random(256) < alive, columns, 0)
    x = torch.from_numpy(x / max(1.0, np.abs(x).max() / 100)).float()
    packed = quantize(x, type, torch.from_numpy(columns).float())
    assert not out_of_band(x, packed, type)


@pytest.mark.parametrize(
    ("type", "held"),
    [
        ("Q8_0", "Q6_K"),
        ("Q8_0", "Q4_1"),
        ("Q6_K", "Q5_K"),
        ("Q5_K", "Q4_K"),
        ("Q5_1", "Q4_1"),
        ("Q5_0", "Q4_0"),
        ("Q4_K", "Q3_K"),
        ("Q4_1", "Q3_K"),
        ("Q4_0", "Q3_K"),
        ("IQ4_XS", "Q3_K"),
        ("IQ4_NL", "Q3_K"),
        ("NVFP4", "Q2_K"),
        ("MXFP4", "Q2_K"),
        ("Q3_K", "Q2_K"),
        ("Q2_K", "TQ2_0"),
    ],
)
@pytest.mark.parametrize("kind", ["gaussian", "laplace", "rows", "zero-rows"])
@pytest.mark.parametrize("weighted", ["none", "few"])
def test_a_file_that_holds_weights_of_a_coarser_type_is_caught(type: str, held: str, kind: str, weighted: str) -> None:
    x = weights(kind)
    worse = dequantize(quantize(x, held, torch.ones(N)), held, N)
    assert out_of_band(x, quantize(worse, type, importance(weighted)), type)


@pytest.mark.parametrize("type", sorted(VERIFIED))
@pytest.mark.parametrize("damage", ["other weights", "negated", "not written"])
def test_wrong_tensors_and_rows_are_caught(type: str, damage: str) -> None:
    x = weights("gaussian")
    good = quantize(x, type, importance("lognormal"))
    wrong = {"other weights": x.flip(0), "negated": -x, "not written": 0 * x}[damage]
    bad = quantize(wrong, type, importance("lognormal"))
    assert not out_of_band(x, good, type)
    assert out_of_band(x, bad, type)
    if damage != "other weights" or (type in SCALARS and type != "Q1_0"):
        assert out_of_band(x, torch.cat([good[:3], bad[3:4], good[4:]]), type)


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
