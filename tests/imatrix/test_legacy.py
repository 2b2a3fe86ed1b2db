"""The .dat format, against a writer made from its description."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hubquant.errors import ImatrixError, OutputError
from hubquant.imatrix import Entry, ImportanceMatrix, load_imatrix, lost_in_dat, merge, save
from hubquant.imatrix.legacy import encode_dat, parse_dat

F32 = NDArray[np.float32]


def dat(entries: dict[str, tuple[int, list[float]]], tail: tuple[int, str | None] | None = None) -> bytes:
    out = struct.pack("<i", len(entries))
    for name, (calls, values) in entries.items():
        out += struct.pack(f"<i{len(name)}sii{len(values)}f", len(name), name.encode(), calls, len(values), *values)
    if tail:
        out += struct.pack("<i", tail[0])
        out += b"" if tail[1] is None else struct.pack("<i", len(tail[1])) + tail[1].encode()
    return out


def stock_values(sums: F32, counts: F32, calls: int) -> list[float]:
    """What llama-imatrix writes for sums [n_mat, n_in] and counts [n_mat], in its order of float32 operations."""
    sums, counts = np.where(counts[:, None] == 0, np.float32(1), sums), np.maximum(counts, 1)
    return ((sums / counts[:, None]) * np.float32(calls)).ravel().tolist()


def stock_dat(seed: int = 0) -> bytes:
    random = np.random.default_rng(seed)
    entries = {}
    for number in range(40):
        calls = int(random.integers(1, 2000))
        counts = np.array([calls * 512], np.float32)
        entries[f"blk.{number:02}.attn_q.weight"] = (
            calls,
            stock_values((random.lognormal(size=(1, 256)) * calls).astype(np.float32), counts, calls),
        )
    return dat(entries, (1999, "wiki.train.raw"))


def test_dat_file(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(dat({"blk.0.q.weight": (3, [6.0, 1.0]), "blk.0.k.weight": (0, [1.0])}, (3, "wiki.txt")))
    matrix = load_imatrix(path)
    assert (matrix.datasets, matrix.chunk_count, matrix.chunk_size) == (("wiki.txt",), 3, 512)
    assert matrix.entries["blk.0.q.weight"].counts.tolist() == [3 * 512]
    found = matrix.importance("blk.0.q.weight")
    assert found is not None
    assert torch.equal(found, torch.tensor([6.0, 1.0]) / 3)
    unseen = matrix.importance("blk.0.k.weight")
    assert unseen is not None
    assert unseen.tolist() == [1.0]


def test_dat_file_without_tail() -> None:
    assert parse_dat(dat({"w": (7, [1.0])}), "x").chunk_count == 7


@settings(max_examples=300)
@given(
    st.binary(max_size=80)
    | st.integers(0, 60).map(lambda n: dat({"w": (2, [1.0, 2.0]), "v": (1, [3.0])}, (2, "t"))[:n])
)
def test_hostile_dat_files(data: bytes) -> None:
    with suppress(ImatrixError):
        assert parse_dat(data, "x").entries


def test_it_is_written_as_llama_imatrix_does(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    dense, experts = (random.lognormal(size=shape).astype(np.float32) * 999 for shape in ((1, 64), (3, 32)))
    counts = np.array([700, 0, 324], np.float32)
    entries = {
        "blk.2.attn_q.weight": Entry(torch.from_numpy(dense).double(), torch.tensor([1025])),
        "blk.10.ffn_up_exps.weight": Entry(torch.from_numpy(experts).double(), torch.from_numpy(counts).long()),
        "blk.0.unseen.weight": Entry(torch.zeros(1, 8).double(), torch.tensor([0])),
    }
    matrix = ImportanceMatrix(entries, ("first.txt", "last.txt"), 512, 2)
    save(matrix, tmp_path / "imatrix.dat")
    expected = {
        "blk.10.ffn_up_exps.weight": (2, stock_values(experts, counts, 2)),
        "blk.2.attn_q.weight": (3, stock_values(dense, np.array([1025], np.float32), 3)),
    }
    assert (tmp_path / "imatrix.dat").read_bytes() == dat(expected, (2, "last.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["imatrix.dat"]
    assert lost_in_dat(matrix) == [
        "a .dat file holds less: experts have one count in common, not one each (entries: 1)",
        "a .dat file holds less: entries without data are left out (1)",
        "a .dat file holds less: of 2 datasets only the last is named",
    ]


@pytest.mark.parametrize("tail", [(3, "wiki.txt"), (3, ""), (0, None)])
def test_a_dat_file_comes_back_byte_by_byte_through_gguf(tail: tuple[int, str | None], tmp_path: Path) -> None:
    original = dat({"blk.0.q.weight": (3, [6.0, 1.5]), "blk.1.q.weight": (3, [0.25, 9.0])}, tail)
    (tmp_path / "a.dat").write_bytes(original)
    save(load_imatrix(tmp_path / "a.dat"), tmp_path / "b.gguf")
    found = load_imatrix(tmp_path / "b.gguf")
    save(found, tmp_path / "c.dat")
    assert (tmp_path / "c.dat").read_bytes() == original
    assert lost_in_dat(found) == []


def test_many_values_come_back_byte_by_byte(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(stock_dat())
    save(load_imatrix(tmp_path / "a.dat"), tmp_path / "b.gguf")
    assert encode_dat(load_imatrix(tmp_path / "b.gguf")) == stock_dat()


def test_means_survive_the_dat_format(tmp_path: Path) -> None:
    entry = Entry(torch.rand(1, 64).double() * 1000, torch.tensor([5 * 512]))
    matrix = ImportanceMatrix({"blk.0.attn_q.weight": entry}, ("a.txt",), 512, 5)
    save(matrix, tmp_path / "a.dat")
    found = load_imatrix(tmp_path / "a.dat")
    assert found.entries["blk.0.attn_q.weight"].counts.tolist() == [5 * 512]
    torch.testing.assert_close(found.entries["blk.0.attn_q.weight"].in_sum2, entry.in_sum2, rtol=3e-7, atol=0)


def test_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(ImatrixError, match="no entry has seen a row"):
        save(ImportanceMatrix({"w": Entry(torch.zeros(1, 4), torch.tensor([0]))}, (), 512, 0), tmp_path / "a.dat")
    matrix = ImportanceMatrix({"w": Entry(torch.ones(1, 4), torch.tensor([4]))}, (), 512, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save(matrix, tmp_path / "file" / "a.dat")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


DIFFUSION = {
    # two calls of 4096 rows with a mean of 9 and 0.5; experts have a mean each
    "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (2, [18.0, 1.0]),
    "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.k.weight": (1, [3.0]),
    "cond_stage_model.experts.weight": (4, [4.0, 8.0, 12.0, 16.0]),
}


def test_a_file_of_stable_diffusion_cpp(tmp_path: Path) -> None:
    """It ends after a last call that is always 0, and its calls are no chunks."""
    path = tmp_path / "imatrix.dat"
    path.write_bytes(dat(DIFFUSION, (0, None)))
    matrix = load_imatrix(path)
    assert (matrix.datasets, matrix.chunk_size, matrix.chunk_count) == ((), 1, 0)
    assert matrix.provenance == {"counts": "calls of stable-diffusion.cpp, not rows"}
    means = {name: entry.means().tolist() for name, entry in matrix.entries.items()}
    assert list(means.values()) == [[[9.0, 0.5]], [[3.0]], [[1.0, 2.0, 3.0, 4.0]]]
    assert [entry.counts.tolist() for entry in matrix.entries.values()] == [[2], [1], [4]]
    assert matrix.entries["cond_stage_model.experts.weight"].by_matrix(2).means().tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert lost_in_dat(matrix) == []
    assert encode_dat(matrix) == dat(dict(sorted(DIFFUSION.items())), (0, None))
    assert next(iter(matrix.entries)) == "double_blocks.0.img_attn.qkv.weight"  # as in our files
    twice = merge([matrix, matrix])
    assert twice.chunk_count == 0
    assert twice.entries["text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.k.weight"].counts == 2


def test_our_matrix_of_pictures_in_their_format() -> None:
    """Rows are the calls, so that what they add later weighs as much as it should; the tail tells the pictures."""
    names = ("double_blocks.0.img_attn.qkv.weight", "text_encoders.t5xxl.transformer.shared.weight")
    entries = {name: Entry(torch.rand(1, 8).double() * 300, torch.tensor([300]), torch.rand(1, 8)) for name in names}
    matrix = ImportanceMatrix(entries, (), 1, 7, {"denoiser_calls": "56"})
    data = encode_dat(matrix)
    values = {name: (300, (entry.means() * 300)[0].tolist()) for name, entry in entries.items()}
    theirs = {name if name in names[1:] else f"model.diffusion_model.{name}": each for name, each in values.items()}
    assert data == dat(theirs, (7, None))
    found = parse_dat(data, "x")
    assert (found.chunk_count, found.provenance, [*found.entries]) == (7, {}, [*names])
    assert all(found.entries[name].counts.tolist() == [300] for name in names)
    assert lost_in_dat(matrix) == [
        "a .dat file holds less: signed sums are left out",
        "a .dat file holds less: provenance is left out",
    ]


def test_names_of_a_unet_keep_their_prefix() -> None:
    names = ("model.diffusion_model.input_blocks.1.1.proj_in.weight", "model.diffusion_model.time_embed.0.weight")
    data = dat({name: (2, [3.0, 4.0]) for name in names}, (0, None))
    found = parse_dat(data, "x")
    assert [*found.entries] == [*names]
    assert encode_dat(found) == data


def test_language_and_diffusion_models_do_not_mix() -> None:
    language = parse_dat(dat({"blk.0.attn_q.weight": (2, [1.0, 2.0])}), "x")
    with pytest.raises(ImatrixError, match="different chunk sizes"):
        merge([language, parse_dat(dat(DIFFUSION, (0, None)), "y")])


def test_counts_that_no_file_holds() -> None:
    matrix = ImportanceMatrix({"blk.0.ffn_up.weight": Entry(torch.ones(1, 4), torch.tensor([512]))}, (), 512, 1 << 33)
    with pytest.raises(ImatrixError, match=r"does not fit into a \.dat file"):
        encode_dat(matrix)
