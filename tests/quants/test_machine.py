"""What a machine may lack: half-precision instructions, wide vectors, a writable cache."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from numba import njit

from hubquant.quants import quantize
from hubquant.quants.cpu.vector.block import from_half, half_bits
from hubquant.quants.cpu.vector.simd import float_bits, from_bits, load, pointer, store

PROGRAM = """
import torch
from hubquant.quants import quantize
x, importance = torch.load({inputs!r})
{before}
torch.save(quantize(x, "Q4_0", importance), {output!r})
"""
X = torch.sin(torch.arange(16 * 512.0) ** 1.5).view(16, 512)
IMPORTANCE = torch.linspace(0, 3, 512)


def assert_same_bytes_in_a_fresh_process(folder: Path, before: str = "", **environment: str) -> None:
    inputs, output = folder / "inputs.pt", folder / "output.pt"
    torch.save((X, IMPORTANCE), inputs)
    program = PROGRAM.format(inputs=str(inputs), output=str(output), before=before)
    subprocess.run([sys.executable, "-c", program], env=os.environ | environment, check=True)
    assert torch.equal(torch.load(output), quantize(X, "Q4_0", IMPORTANCE))


def test_without_any_cache_directory(tmp_path: Path) -> None:
    nowhere = {"NUMBA_CACHE_DIR": "/dev/null/none", "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    assert_same_bytes_in_a_fresh_process(tmp_path, **nowhere)


def test_with_a_cache_directory_that_vanishes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    vanish = f"import shutil; shutil.rmtree({str(cache)!r}); open({str(cache)!r}, 'w').close()"
    assert_same_bytes_in_a_fresh_process(tmp_path, before=vanish, NUMBA_CACHE_DIR=str(cache))


def test_on_the_oldest_x86_64_then_with_a_corrupt_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    oldest = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}
    assert_same_bytes_in_a_fresh_process(tmp_path, NUMBA_CACHE_DIR=str(cache), **oldest)
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(b"not a pickle")
    assert_same_bytes_in_a_fresh_process(tmp_path, NUMBA_CACHE_DIR=str(cache))


@njit
def _to_half(values, out):
    for start in range(0, values.size, 16):
        store(pointer(out), start, from_bits(half_bits(load(pointer(values), start))))


@njit
def _from_half(halves, out):
    for start in range(0, halves.size, 16):
        store(pointer(out), start, from_half(float_bits(load(pointer(halves), start))))


def test_every_half_and_its_neighbours() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    widened = np.empty(halves.size, np.float32)
    _from_half(halves.astype(np.uint32).view(np.float32), widened)
    np.testing.assert_array_equal(widened.view(np.uint32), halves.view(np.float16).astype(np.float32).view(np.uint32))

    finite = halves[(halves & 0x7C00) != 0x7C00].view(np.float16)
    with np.errstate(over="ignore"):
        middles = (finite.astype(np.float32) + np.nextafter(finite, np.float16(np.inf)).astype(np.float32)) / 2
        around = [np.nextafter(middles, np.float32(s * np.inf)) for s in (-1, 1)]
        values = np.concatenate([finite.astype(np.float32), middles, *around, np.float32([np.inf, -np.inf] * 8)])
        rounded = np.empty(values.size, np.float32)
        _to_half(values, rounded)
        np.testing.assert_array_equal(rounded.view(np.uint32), values.astype(np.float16).view(np.uint16))
