"""The planned bytes are those that the gguf package writes."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubquant.errors import GGUFError
from hubquant.gguf_file import KV, GGUFWriter, Metadata, Split, TensorEntry, plan_layout, shard, shard_paths
from hubquant.gguf_file.metadata import boolean, f32, f32s, i32, i32s, string, strings, u16, u32
from hubquant.quants import TYPES

METADATA: Metadata = {
    "general.architecture": string("llama"),
    "general.name": string("Größe 🙂"),
    "llama.block_count": u32(2**32 - 1),
    "a.u16": u16(7),
    "a.i32": i32(-7),
    "a.f32": f32(1e-5),
    "a.flag": boolean(True),
    "a.u64": KV(2**63, gguf.GGUFValueType.UINT64),
    "tokenizer.ggml.tokens": strings(["a", "", "Ġб"]),
    "tokenizer.ggml.scores": f32s([0.5, -1000.0]),
    "tokenizer.ggml.token_type": i32s([1, -1]),
}
ADD = {
    gguf.GGUFValueType.STRING: gguf.GGUFWriter.add_string,
    gguf.GGUFValueType.UINT32: gguf.GGUFWriter.add_uint32,
    gguf.GGUFValueType.UINT16: gguf.GGUFWriter.add_uint16,
    gguf.GGUFValueType.INT32: gguf.GGUFWriter.add_int32,
    gguf.GGUFValueType.FLOAT32: gguf.GGUFWriter.add_float32,
    gguf.GGUFValueType.BOOL: gguf.GGUFWriter.add_bool,
    gguf.GGUFValueType.UINT64: gguf.GGUFWriter.add_uint64,
    gguf.GGUFValueType.ARRAY: gguf.GGUFWriter.add_array,
}
ENTRIES = [
    TensorEntry("token_embd.weight", (5, 64), "F16"),
    TensorEntry("norm.weight", (7,), "F32"),
    TensorEntry("blk.0.exps.weight", (3, 2, 256), "Q4_K"),
    TensorEntry("one.weight", (1, 32), "Q8_0"),
]


def content(entry: TensorEntry) -> np.ndarray:
    rng = np.random.default_rng(len(entry.name))
    return rng.integers(0, 256, (*entry.shape[:-1], entry.row_bytes), dtype=np.uint8)


def write_with_gguf(path: Path, **options: int) -> None:
    writer = gguf.GGUFWriter(path, "llama", **options)
    for key, kv in METADATA.items():
        if key != "general.architecture":
            ADD[kv.type](writer, key, list(kv.value) if isinstance(kv.value, tuple) else kv.value)
    for entry in ENTRIES:
        writer.add_tensor(entry.name, content(entry), raw_dtype=gguf.GGMLQuantizationType[entry.type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_file_equals_the_gguf_packages(tmp_path: Path) -> None:
    write_with_gguf(tmp_path / "theirs.gguf")
    layout = plan_layout(METADATA, ENTRIES)
    with GGUFWriter(tmp_path / "ours.gguf", layout) as writer:
        for entry in ENTRIES:
            writer.write(entry.name, content(entry))
        writer.finish()
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()
    assert layout.size == (tmp_path / "theirs.gguf").stat().st_size


def test_shards_equal_the_gguf_packages(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    write_with_gguf(tmp_path / "theirs/m.gguf", split_max_size=880)
    layouts = shard(METADATA, ENTRIES, Split(880))
    paths = shard_paths(tmp_path / "ours/m.gguf", len(layouts))
    for path, layout in zip(paths, layouts, strict=True):
        with GGUFWriter(path, layout) as writer:
            for entry in layout.tensors.values():
                writer.write(entry.name, content(entry))
            writer.finish()
    theirs = sorted((tmp_path / "theirs").iterdir())
    assert [path.name for path in paths] == [path.name for path in theirs]
    assert len(paths) == 3
    for ours, other in zip(paths, theirs, strict=True):
        assert ours.read_bytes() == other.read_bytes()


def test_a_model_that_fits_is_not_split() -> None:
    (layout,) = shard(METADATA | {"split.count": u16(9)}, ENTRIES, Split(1 << 30))
    assert layout == plan_layout(METADATA, ENTRIES)


shapes = st.lists(st.integers(1, 5), max_size=2).map(tuple)
types = st.sampled_from(sorted(TYPES))


@given(st.lists(st.tuples(shapes, st.integers(1, 3), types), max_size=8), st.sampled_from([None, 32, 64, 4096]))
def test_tensors_are_aligned_and_follow_each_other(
    drawn: list[tuple[tuple[int, ...], int, str]], alignment: int | None
) -> None:
    entries = [
        TensorEntry(f"t{i}.weight", (*rows, n_blocks * TYPES[type].block_size), type)
        for i, (rows, n_blocks, type) in enumerate(drawn)
    ]
    layout = plan_layout({} if alignment is None else {"general.alignment": u32(alignment)}, entries)
    step, end = alignment or 32, len(layout.header)
    for entry in entries:
        assert layout.offsets[entry.name] == end
        assert end % step == 0
        end = -(-(end + entry.nbytes) // step) * step
    assert layout.size == end


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([TensorEntry("a", (4, 100), "Q4_K")], "blocks of 256"),
        ([TensorEntry("a", (4,), "Q9_Z")], "unknown tensor type"),
        ([TensorEntry("a" * 64, (4,), "F32")], "1 to 63 bytes"),
        ([TensorEntry("a", (), "F32")], "1 to 4 dimensions"),
        ([TensorEntry("a", (1, 1, 1, 1, 1), "F32")], "1 to 4 dimensions"),
        ([TensorEntry("a", (0, 4), "F32")], "1 to 4 dimensions"),
        ([TensorEntry("a", (4,), "F32")] * 2, "two tensors"),
    ],
)
def test_impossible_tensors(entries: list[TensorEntry], message: str) -> None:
    with pytest.raises(GGUFError, match=message):
        plan_layout({}, entries)


@pytest.mark.parametrize(
    "kv",
    [
        KV(-1, gguf.GGUFValueType.UINT32),
        KV(1, gguf.GGUFValueType.STRING),
        string("\ud800"),
        KV(("a",), gguf.GGUFValueType.ARRAY),
    ],
)
def test_impossible_metadata(kv: KV) -> None:
    with pytest.raises(GGUFError, match=r"a\.key"):
        plan_layout({"a.key": kv}, [])
