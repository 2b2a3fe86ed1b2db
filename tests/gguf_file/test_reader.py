"""Sound files read as the gguf package reads them; anything else is a GGUFError."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from hubquant.errors import GGUFError
from hubquant.gguf_file import GGUFFile, GGUFWriter, Metadata, Split, TensorEntry, plan_layout, shard, shard_paths
from hubquant.gguf_file.metadata import boolean, f32s, i32s, string, strings, u32

METADATA: Metadata = {
    "general.architecture": string("llama"),
    "a.number": u32(3),
    "a.flag": boolean(False),
    "tokenizer.ggml.tokens": strings(["a", "б", "🙂", ""]),
    "tokenizer.ggml.scores": f32s([0.5, -1.0]),
    "tokenizer.ggml.token_type": i32s([1, 2, 3]),
}
ENTRIES = [
    TensorEntry("output.weight", (3, 256), "Q6_K"),
    TensorEntry("norm.weight", (5,), "F32"),
    TensorEntry("blk.0.exps.weight", (2, 3, 64), "Q4_0"),
    TensorEntry("new.weight", (2, 128), "Q2_0"),
]


def write(path: Path, entries: list[TensorEntry] = ENTRIES, max_bytes: int = 1 << 30) -> list[Path]:
    layouts = shard(METADATA, entries, Split(max_bytes))
    paths = shard_paths(path, len(layouts))
    for each, layout in zip(paths, layouts, strict=True):
        with GGUFWriter(each, layout) as writer:
            for entry in layout.tensors.values():
                writer.write(entry.name, data(entry))
            writer.finish()
    return paths


def data(entry: TensorEntry) -> np.ndarray:
    return np.random.default_rng(entry.nbytes).integers(0, 256, (entry.rows, entry.row_bytes), dtype=np.uint8)


def test_reads_what_was_written(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf")
    file = GGUFFile.open(tmp_path / "a.gguf")
    assert file.metadata == METADATA
    assert list(file.tensors.values()) == ENTRIES
    assert file.size == (tmp_path / "a.gguf").stat().st_size
    for entry in ENTRIES:
        assert np.array_equal(file.data(entry.name).numpy(), data(entry))
    with pytest.raises(GGUFError, match="no tensor"):
        file.data("absent.weight")


def test_reads_what_the_gguf_package_reads(tmp_path: Path) -> None:
    entries = ENTRIES[:3]
    write(tmp_path / "a.gguf", entries)
    file, reader = GGUFFile.open(tmp_path / "a.gguf"), gguf.GGUFReader(tmp_path / "a.gguf")
    assert [tensor.name for tensor in reader.tensors] == list(file.tensors)
    for tensor in reader.tensors:
        assert tuple(reversed(tensor.shape.tolist())) == file.tensors[tensor.name].shape
        assert tensor.data.tobytes() == file.data(tensor.name).numpy().tobytes()
        assert (tmp_path / "a.gguf", tensor.data_offset) == file.offset(tensor.name)
    for key, kv in file.metadata.items():
        field = reader.get_field(key)
        assert field is not None
        assert field.contents() == (list(kv.value) if isinstance(kv.value, tuple) else kv.value)


def test_shards_are_one_file(tmp_path: Path) -> None:
    paths = write(tmp_path / "a.gguf", max_bytes=240)
    assert len(paths) == 3
    for path in paths:
        file = GGUFFile.open(path)
        assert file.metadata == METADATA
        assert list(file.tensors.values()) == ENTRIES
        assert all(np.array_equal(file.data(entry.name).numpy(), data(entry)) for entry in ENTRIES)
    paths[1].rename(tmp_path / "away")
    with pytest.raises(GGUFError, match=r"1 of 3 shards are missing, first a-00002-of-00003\.gguf"):
        GGUFFile.open(paths[0])
    paths[2].rename(paths[1])
    (tmp_path / "away").rename(paths[2])
    with pytest.raises(GGUFError, match="not shard 2 of 3"):
        GGUFFile.open(paths[0])
    renamed = paths[0].rename(tmp_path / "model.gguf")
    with pytest.raises(GGUFError, match="one of 3 shards"):
        GGUFFile.open(renamed)


def test_a_large_vocabulary_survives(tmp_path: Path) -> None:
    tokens = [f"token-{i}-é" for i in range(150_000)]
    with GGUFWriter(tmp_path / "a.gguf", plan_layout({"tokenizer.ggml.tokens": strings(tokens)}, [])) as writer:
        writer.finish()
    assert list(GGUFFile.open(tmp_path / "a.gguf").metadata["tokenizer.ggml.tokens"].value) == tokens  # type: ignore[arg-type]


def header(n_tensors: int, n_kv: int, body: bytes = b"", magic: bytes = b"GGUF", version: int = 3) -> bytes:
    return magic + struct.pack("<IQQ", version, n_tensors, n_kv) + body


def key(name: bytes, type: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", type) + value


def tensor(name: bytes, dims: list[int], type: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return struct.pack("<Q", len(name)) + name + shape + struct.pack("<IQ", type, offset)


HOSTILE = {
    "empty": (b"", "empty"),
    "short": (b"GGUF\3", "ends inside its header"),
    "magic": (header(0, 0, magic=b"GGML"), "not a GGUF file"),
    "version": (header(0, 0, version=1), "version 1"),
    "big-endian": (header(0, 0, version=3 << 24), "big-endian"),
    "tensor count": (header(2**63, 0), "claims 9223372036854775808 tensors"),
    "key count": (header(0, 2**40), "claims 1099511627776 metadata keys"),
    "key length": (header(0, 1, struct.pack("<Q", 2**62) + bytes(20)), "beyond the end"),
    "key encoding": (header(0, 1, key(b"\xff", 4, bytes(8))), "not UTF-8"),
    "key twice": (header(0, 2, key(b"a", 4, bytes(4)) * 2), "there twice"),
    "value type": (header(0, 1, key(b"a", 99, bytes(8))), "unknown type 99"),
    "array length": (header(0, 1, key(b"a", 9, struct.pack("<IQ", 4, 2**60))), "claims 1152921504606846976 values"),
    "string array": (header(0, 1, key(b"a", 9, struct.pack("<IQ", 8, 2**31))), "claims 2147483648 strings"),
    "nested array": (header(0, 1, key(b"a", 9, struct.pack("<IQ", 9, 1))), "array of arrays"),
    "array item": (header(0, 1, key(b"a", 9, struct.pack("<IQ", 77, 1))), "unknown type 77"),
    "alignment": (header(0, 1, key(b"general.alignment", 4, struct.pack("<I", 48))), "power of two"),
    "alignment type": (header(0, 1, key(b"general.alignment", 6, struct.pack("<f", 32))), "power of two"),
    "dimensions": (header(1, 0, tensor(b"a", [1] * 6)), "6 dimensions"),
    "zero": (header(1, 0, tensor(b"a", [4, 0]) + bytes(99)), "dimension of 0"),
    "unknown tensor type": (header(1, 0, tensor(b"a", [32], type=999) + bytes(99)), "unknown type 999"),
    "broken block": (header(1, 0, tensor(b"a", [33], type=8) + bytes(99)), "blocks of 32"),
    "too large": (header(1, 0, tensor(b"a", [2**62, 2**62]) + bytes(99)), "beyond the end"),
    "offset": (header(1, 0, tensor(b"a", [4], offset=2**63) + bytes(99)), "beyond the end"),
    "unaligned": (header(1, 0, tensor(b"a", [4], offset=4) + bytes(99)), "not aligned"),
    "overlap": (header(2, 0, tensor(b"a", [16]) + tensor(b"b", [16], offset=32) + bytes(999)), "overlap"),
    "tensor twice": (header(2, 0, tensor(b"a", [4]) * 2 + bytes(99)), "there twice"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(tmp_path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(GGUFError, match=message):
        GGUFFile.open(tmp_path / "a.gguf")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.gguf")
    with pytest.raises(GGUFError, match="it is a pipe or a device"):
        GGUFFile.open(tmp_path / "a.gguf")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="No such file"):
        GGUFFile.open(tmp_path / "absent.gguf")
    with pytest.raises(GGUFError, match="cannot be read"):
        GGUFFile.open(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_damage_is_noticed_or_harmless(tmp_path: Path, draw: DataObject) -> None:
    """Bytes changed or cut off anywhere: the file still reads within its bounds, or the error is ours."""
    path = tmp_path / "a.gguf"
    if not path.exists():
        write(path)
    content = bytearray(path.read_bytes())
    for _ in range(draw.draw(st.integers(0, 3))):
        content[draw.draw(st.integers(0, 700))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(content)))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content[:cut] if draw.draw(st.booleans()) else content)
    try:
        file = GGUFFile.open(damaged)
    except GGUFError:
        return
    for name, entry in file.tensors.items():
        assert file.data(name).numel() == entry.nbytes
