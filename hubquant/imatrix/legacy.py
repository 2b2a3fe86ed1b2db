"""The .dat format: what llama-imatrix wrote before GGUF, and stable-diffusion.cpp writes."""

from __future__ import annotations

import struct

import numpy as np
import torch

from hubquant.errors import ImatrixError
from hubquant.imatrix.matrix import Entry, ImportanceMatrix

# The file does not tell its chunk size; this is llama-imatrix's default.
CHUNK_SIZE = 512

# Where stable-diffusion.cpp's weights stand; no weight of llama.cpp does. Its counts are calls, of unknown length each.
DIFFUSION = ("model.", "cond_stage_model.", "text_encoders.")
DIFFUSION_PROVENANCE = {"counts": "calls of stable-diffusion.cpp, not rows"}

# It has this before the names of all denoisers; hubquant's files have it only where these do, those of UNets.
_DENOISER = "model.diffusion_model."
_UNET = f"{_DENOISER}input_blocks."


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, n: int) -> memoryview:
        if not 0 <= n <= len(self._data) - self._at:
            raise ValueError(
                f"{n:,} bytes are promised at byte {self._at:,}, and {len(self._data) - self._at:,} are left"
            )
        self._at += n
        return self._data[self._at - n : self._at]

    def int32(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])

    def text(self) -> str:
        return str(self.take(self.int32()), "utf-8")


def parse_dat(data: bytes, name: str) -> ImportanceMatrix:
    """The matrix in ``data``; ``name`` is for messages.

    A value is the mean of x² times the number of chunks, so sums and counts come back up to rounding. Experts have one
    count in common, and their values stand in one row. In a file of stable-diffusion.cpp a value is the mean times
    the number of calls; each call counts as one row there. In one that hubquant wrote counts are rows, and the number
    of chunks that of pictures. Raises ``ImatrixError``.
    """
    try:
        return _parse(_Reader(data))
    except (ValueError, struct.error) as error:  # UnicodeDecodeError is a ValueError
        raise ImatrixError(
            f"{name} is no importance matrix",
            why=f"it is no GGUF file, and as a .dat file it is broken: {error}",
            hint="make one with: hubquant imatrix collect MODEL -o imatrix.gguf",
        ) from None


def encode_dat(matrix: ImportanceMatrix) -> bytes:
    """``matrix`` as llama-imatrix writes it with ``--output-format dat``; :func:`lost_in_dat` tells what is not in it.

    Entries stand by name, those of denoisers by that of stable-diffusion.cpp. The number of chunks of each is rounded
    up, and its values are computed in float32 as there: a file that llama-imatrix wrote comes back byte by byte. An
    expert that saw no row has the mean 1. Raises ``ImatrixError`` when no entry has data.
    """
    try:
        return _encode(matrix)
    except struct.error as error:
        raise ImatrixError(
            "the importance matrix does not fit into a .dat file",
            why=f"its counts have 32 bits: {error}",
        ) from None


def _encode(matrix: ImportanceMatrix) -> bytes:
    prefix = _DENOISER if matrix.of_pictures else ""
    named = {n if n.startswith(DIFFUSION) else prefix + n: e for n, e in matrix.entries.items() if _has_data(e)}
    entries = sorted(named.items(), key=lambda item: item[0].encode())
    if not entries:
        raise ImatrixError("the importance matrix is empty", why="no entry has seen a row")
    parts = [struct.pack("<i", len(entries))]
    for name, entry in entries:
        calls, means = entry.by_chunks(matrix.chunk_size)
        values = means.numpy().astype("<f4")
        parts += [_text(name), struct.pack("<ii", calls, values.size), values.tobytes()]
    parts.append(struct.pack("<i", matrix.chunk_count))
    if matrix.datasets:
        parts.append(_text(matrix.datasets[-1]))
    return b"".join(parts)


def lost_in_dat(matrix: ImportanceMatrix) -> list[str]:
    """What :func:`encode_dat` leaves out, a sentence each."""
    entries = matrix.entries.values()
    experts = sum(_has_data(entry) and len(entry.counts) > 1 for entry in entries)
    empty = sum(not _has_data(entry) for entry in entries)
    told = [
        (experts, f"experts have one count in common, not one each (entries: {experts})"),
        (empty, f"entries without data are left out ({empty})"),
        (any(entry.in_sum is not None for entry in entries), "signed sums are left out"),
        (
            not matrix.of_pictures and matrix.chunk_size != CHUNK_SIZE,
            f"readers take the chunks to have {CHUNK_SIZE} tokens, and they have {matrix.chunk_size}",
        ),
        (len(matrix.datasets) > 1, f"of {len(matrix.datasets)} datasets only the last is named"),
        (matrix.provenance.keys() - DIFFUSION_PROVENANCE.keys(), "provenance is left out"),
    ]
    return [f"a .dat file holds less: {sentence}" for lost, sentence in told if lost]


def _parse(reader: _Reader) -> ImportanceMatrix:
    read: dict[str, tuple[int, torch.Tensor]] = {}
    n_entries = reader.int32()
    if n_entries < 1:
        raise ValueError(f"it promises {n_entries} entries")
    for _ in range(n_entries):
        name, calls, n = reader.text(), reader.int32(), reader.int32()
        if n < 1 or calls < 0 or not name or name in read:
            raise ValueError(f"entry {name!r} has {n} values of {calls} chunks")
        values = np.frombuffer(reader.take(4 * n), dtype="<f4").astype(np.float64)
        if not np.isfinite(values).all() or (values < 0).any():
            raise ValueError(f"{name} holds values that are negative, NaN or infinite")
        read[name] = calls, torch.from_numpy(values)[None]
    # Old files end here.
    chunk_count = max(calls for calls, _ in read.values()) if reader.at_end else max(reader.int32(), 0)
    datasets = (reader.text(),) if not reader.at_end else ()
    diffusion = any(name.startswith(DIFFUSION) for name in read)
    chunk_size = 1 if diffusion else CHUNK_SIZE
    prefix = "" if any(name.startswith(_UNET) for name in read) else _DENOISER
    entries = {
        name.removeprefix(prefix): Entry(values * chunk_size, torch.tensor([calls * chunk_size]))
        for name, (calls, values) in read.items()
    }
    # stable-diffusion.cpp's last call is always 0.
    facts = DIFFUSION_PROVENANCE if diffusion and chunk_count == 0 else {}
    return ImportanceMatrix(entries, datasets, chunk_size, chunk_count, facts)


def _has_data(entry: Entry) -> bool:
    return bool((entry.counts > 0).any())


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<i", len(encoded)) + encoded
