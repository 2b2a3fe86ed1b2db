from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter

from hubquant.errors import ImatrixError, OutputError
from hubquant.imatrix import Entry, ImportanceMatrix, load_imatrix, save
from hubquant.models.snapshot import Snapshot, read_snapshot, write_snapshot
from tests.support.llamacpp import library


def dense(n: int, count: int, seed: int) -> Entry:
    generator = torch.Generator().manual_seed(seed)
    sums = torch.rand(1, n, generator=generator, dtype=torch.float64) * 1000
    return Entry(sums, torch.tensor([count]), torch.randn(1, n, generator=generator, dtype=torch.float64))


def experts(n: int, counts: list[int]) -> Entry:
    return Entry(
        torch.rand(len(counts), n, dtype=torch.float64), torch.tensor(counts), torch.ones(len(counts), n).double()
    )


@pytest.fixture
def matrix() -> ImportanceMatrix:
    entries = {
        "blk.2.attn_q.weight": dense(64, 1024, 0),
        "blk.10.attn_q.weight": dense(64, 1024, 1),
        "blk.2.ffn_gate_exps.weight": experts(32, [700, 0, 324]),
    }
    return ImportanceMatrix(entries, ("wiki.txt", "code.txt"), 512, 2, {"version": "0", "calibration_sha256": "ab"})


def text_of(field: Any) -> list[str]:
    return [bytes(field.parts[i]).decode() for i in field.data]


def test_file_is_llama_imatrixs(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    save(matrix, tmp_path / "imatrix.gguf")
    reader = GGUFReader(tmp_path / "imatrix.gguf")
    keys = [key for key in reader.fields if not key.startswith("GGUF.")]
    stock = ["general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"]
    assert keys == [*stock, "hubquant.version", "hubquant.calibration_sha256"]
    assert text_of(reader.fields["general.type"]) == ["imatrix"]
    assert text_of(reader.fields["imatrix.datasets"]) == ["wiki.txt", "code.txt"]
    assert [int(reader.fields[f"imatrix.chunk_{key}"].parts[-1][0]) for key in ("count", "size")] == [2, 512]
    assert [tensor.name for tensor in reader.tensors] == [
        f"{name}.{suffix}"
        for name in ("blk.10.attn_q.weight", "blk.2.attn_q.weight", "blk.2.ffn_gate_exps.weight")
        for suffix in ("in_sum2", "counts", "in_sum", "in_sum2_low", *(["in_sum_low"] if "attn" in name else []))
    ]
    # The reader lists dimensions as ggml does: the first varies fastest, and trailing ones are dropped.
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    assert shapes["blk.2.attn_q.weight.in_sum2"] == [64]
    assert shapes["blk.2.attn_q.weight.counts"] == [1]
    assert shapes["blk.2.ffn_gate_exps.weight.in_sum2"] == [32, 3]
    assert shapes["blk.2.ffn_gate_exps.weight.counts"] == [1, 3]
    values = {tensor.name: tensor.data for tensor in reader.tensors}
    assert values["blk.2.ffn_gate_exps.weight.counts"].dtype == np.float32
    assert values["blk.2.ffn_gate_exps.weight.counts"].flatten().tolist() == [700, 0, 324]
    sums = matrix.entries["blk.10.attn_q.weight"].in_sum2.numpy()[0]
    assert np.array_equal(values["blk.10.attn_q.weight.in_sum2"], sums.astype(np.float32))
    low = sums - sums.astype(np.float32)
    assert np.array_equal(values["blk.10.attn_q.weight.in_sum2_low"], low.astype(np.float32))


def test_round_trip(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    path = tmp_path / "whatever.bin"
    save(matrix, path)
    found = load_imatrix(path)
    assert (found.datasets, found.chunk_size, found.chunk_count) == (matrix.datasets, 512, 2)
    assert found.provenance == matrix.provenance
    assert found.entries.keys() == matrix.entries.keys()
    for name, entry in matrix.entries.items():
        other = found.entries[name]
        assert entry.in_sum is not None
        assert other.in_sum is not None
        assert torch.equal(other.counts, entry.counts)
        torch.testing.assert_close(other.in_sum2, entry.in_sum2, rtol=1e-14, atol=0)
        torch.testing.assert_close(other.in_sum, entry.in_sum, rtol=1e-14, atol=0)
        importance = found.importance(name)
        assert importance is not None
        assert torch.equal(importance, matrix.importance(name))
    assert [p.name for p in tmp_path.iterdir()] == ["whatever.bin"]


def write_stock(
    path: Path, tensors: dict[str, np.ndarray[Any, Any]], *, keys: bool = True, kind: str = "imatrix"
) -> Path:
    writer = GGUFWriter(path, arch="")
    writer.add_type(kind)
    if keys:
        writer.add_array("imatrix.datasets", ["a.txt"])
        writer.add_uint32("imatrix.chunk_count", 1)
        writer.add_uint32("imatrix.chunk_size", 512)
    for name, x in tensors.items():
        writer.add_tensor(name, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def f32(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def test_stock_file_has_no_signed_sums(tmp_path: Path) -> None:
    path = write_stock(tmp_path / "a", {"blk.0.q.weight.in_sum2": f32(8, 4), "blk.0.q.weight.counts": f32(4)})
    matrix = load_imatrix(path)
    assert matrix.entries["blk.0.q.weight"].in_sum is None
    importance = matrix.importance("blk.0.q.weight")
    assert importance is not None
    assert importance.tolist() == [2, 1]
    save(matrix, tmp_path / "b")
    assert [t.name for t in GGUFReader(tmp_path / "b").tensors] == ["blk.0.q.weight.in_sum2", "blk.0.q.weight.counts"]


def test_llamacpps_reader_finds_what_it_looks_for(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    class Params(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))

    save(matrix, tmp_path / "imatrix.gguf")
    lib = library()
    lib.gguf_init_from_file.restype = ctypes.c_void_p
    lib.gguf_init_from_file.argtypes = ctypes.c_char_p, Params
    for function in (lib.gguf_find_key, lib.gguf_find_tensor):
        function.restype, function.argtypes = ctypes.c_int64, (ctypes.c_void_p, ctypes.c_char_p)
    lib.gguf_get_tensor_type.argtypes = ctypes.c_void_p, ctypes.c_int64
    lib.gguf_free.argtypes = (ctypes.c_void_p,)
    file = lib.gguf_init_from_file(str(tmp_path / "imatrix.gguf").encode(), Params(True, None))
    assert file
    keys = [lib.gguf_find_key(file, f"imatrix.{key}".encode()) for key in ("datasets", "chunk_count", "chunk_size")]
    assert min(keys) >= 0
    for name in matrix.entries:
        for suffix in ("in_sum2", "counts"):
            tensor = lib.gguf_find_tensor(file, f"{name}.{suffix}".encode())
            assert tensor >= 0
            assert lib.gguf_get_tensor_type(file, tensor) == 0  # F32
    lib.gguf_free(file)


def test_a_stock_file_comes_back_byte_by_byte(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    flat, experts = random.lognormal(size=96).astype(np.float32), random.lognormal(size=(3, 32)).astype(np.float32)
    tensors = {
        "blk.10.attn_k_b.weight.in_sum2": flat,
        "blk.10.attn_k_b.weight.counts": f32(512),
        "blk.2.ffn_down_exps.weight.in_sum2": experts,
        "blk.2.ffn_down_exps.weight.counts": f32(700, 0, 324).reshape(3, 1),
    }
    stock = write_stock(tmp_path / "stock.gguf", tensors)
    save(load_imatrix(stock), tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == stock.read_bytes()


def test_counts_beyond_float32(tmp_path: Path) -> None:
    many = (1 << 24) + 1
    matrix = ImportanceMatrix({"w": dense(4, many, 0)}, (), 512, 1)
    save(matrix, tmp_path / "many.gguf")
    assert load_imatrix(tmp_path / "many.gguf").entries["w"].counts.tolist() == [many]


def test_names_that_are_too_long_for_gguf(tmp_path: Path) -> None:
    matrix = ImportanceMatrix({"blk.0." + "x" * 57: dense(4, 1, 0)}, (), 512, 1)
    with pytest.raises(ImatrixError, match="does not fit into a GGUF file"):
        save(matrix, tmp_path / "long.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"w.in_sum2": f32(1, 2)}, r"w\.counts is missing"),
        ({"w.in_sum2": f32(1, 2), "w.counts": f32(1, 2)}, "do not fit together"),
        ({"w.in_sum2": f32(1, 2), "w.counts": f32(-1)}, "do not fit together"),
        ({"w.in_sum2": f32(1, -2), "w.counts": f32(1)}, "do not fit together"),
        ({"w.in_sum2": f32(1, 2), "w.counts": f32(1), "w.in_sum": f32(1)}, "do not fit together"),
        ({"w.in_sum2": f32(1, 2), "w.counts": f32(1), "w.in_sum2_low": f32(1)}, "do not fit together"),
        ({"w.in_sum2": f32(1, float("nan")), "w.counts": f32(1)}, "NaN"),
        ({"w.in_sum2": f32(1, 2), "w.counts": f32(float("inf"))}, "NaN or infinite"),
        ({"w.in_sum2": np.array([1, 2], np.float16), "w.counts": f32(1)}, r"w\.in_sum2 is F16"),
    ],
)
def test_damaged_files(tmp_path: Path, tensors: dict[str, np.ndarray[Any, Any]], message: str) -> None:
    with pytest.raises(ImatrixError, match=message):
        load_imatrix(write_stock(tmp_path / "x.gguf", tensors))


def test_foreign_files(tmp_path: Path) -> None:
    tensors = {"w.in_sum2": f32(1), "w.counts": f32(1)}
    with pytest.raises(ImatrixError, match="another kind"):
        load_imatrix(write_stock(tmp_path / "a", tensors, keys=False))
    with pytest.raises(ImatrixError, match="another kind"):
        load_imatrix(write_stock(tmp_path / "b", tensors, kind="model"))
    (tmp_path / "text").write_text("not a matrix " * 20)
    with pytest.raises(ImatrixError, match="no importance matrix"):
        load_imatrix(tmp_path / "text")
    with pytest.raises(ImatrixError, match="cannot be read"):
        load_imatrix(tmp_path / "absent")
    whole = write_stock(tmp_path / "c", tensors).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-40])
    with pytest.raises(ImatrixError, match="cannot be read"):
        load_imatrix(tmp_path / "cut")


def test_unwritable_place_is_left_clean(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save(matrix, tmp_path / "file" / "imatrix.gguf")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_snapshot_that_was_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    write_snapshot(path, Snapshot({"x": torch.arange(1000), "skipped": torch.tensor([], dtype=torch.int64)}, 3), "f")
    found = read_snapshot(path, "f")
    assert found is not None
    assert found.chunks_done == 3
    assert read_snapshot(path, "g") is None
    data = bytearray(path.read_bytes())
    data[-400] ^= 1
    path.write_bytes(data)
    assert read_snapshot(path, "f") is None


def test_counts_that_no_file_holds(tmp_path: Path) -> None:
    matrix = ImportanceMatrix({"blk.0.ffn_up.weight": Entry(torch.ones(1, 4), torch.tensor([512]))}, (), 512, 1 << 33)
    with pytest.raises(ImatrixError, match="does not fit into a GGUF file"):
        save(matrix, tmp_path / "imatrix.gguf")
    assert not list(tmp_path.iterdir())
