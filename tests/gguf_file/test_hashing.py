"""Digests are those of llama.cpp's gguf-hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import xxhash

from hubquant.gguf_file.hashing import Digest, digests
from hubquant.gguf_file.stored import read_model
from tests.support.gguf_bytes import sample, write_sample

# What gguf-hash --all --uuid (as in llama-cpp-python 0.3.36) prints last for the sample.
LLAMA_CPP = [
    Digest("xxh64", "blk.9.weight", "5891e2ffc41b7fb1"),
    Digest("sha1", "blk.9.weight", "e5aee91dafbac23ebcceb1535143659766e429df"),
    Digest("sha256", "blk.9.weight", "87e3fb3fbab52bf47c67c4af978eaff83bc3695311bb8f6466bc5553f2ae34d1"),
    Digest("xxh64", None, "5ebd0559c23ee9ae"),
    Digest("sha1", None, "43acf20ce8dd93b78d485dff744e7af72c4f310c"),
    Digest("sha256", None, "95eb6629b38a1b94e59f0cd85248be2825f96c4db1750dc9707a7001ff1939a2"),
    Digest("uuid", None, "6c6f0e49-dbd7-5f44-88fa-41a2885e2d00"),
]


def test_digests_are_gguf_hashs(tmp_path: Path) -> None:
    files = read_model(write_sample(tmp_path / "a.gguf"))
    found = list(digests(files, ["xxh64", "sha1", "sha256", "uuid"]))
    assert found[-len(LLAMA_CPP) :] == LLAMA_CPP
    assert len(found) == 3 * 10 + 4


def test_tensors_have_the_digests_of_their_bytes(tmp_path: Path) -> None:
    files = read_model(write_sample(tmp_path / "a.gguf"))
    found = [(each.tensor, each.value) for each in digests(files, ["xxh64"]) if each.tensor]
    assert found == [(tensor.name, xxhash.xxh64(tensor.data).hexdigest()) for tensor in sample()]


def test_without_tensors_and_with_a_count_of_bytes(tmp_path: Path) -> None:
    files = read_model(write_sample(tmp_path / "a.gguf"))
    counted: list[int] = []
    data = b"".join(tensor.data for tensor in sample())
    found = list(digests(files, ["sha256"], counted.append, tensors=False))
    assert found == [Digest("sha256", None, hashlib.sha256(data).hexdigest())]
    assert sum(counted) == len(data)
