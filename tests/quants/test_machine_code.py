"""Machine code on disk: found, made anew when a source changes, and named so that no kernel takes another's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import hubquant
from hubquant.quants.cpu import exact
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.traits import TRAITS

CALL = """
import sys
import numpy
from hubquant.quants.cpu.best import legacy
legacy.q4_0(numpy.ones((16, 32), "float32"), numpy.empty((16, 18), "uint8"))
print("compiled" if "numba" in sys.modules else "found")
"""
QUANTIZE = """
import sys
import torch
import hubquant.quants
hubquant.quants.quantize(torch.ones(16, 32), "Q4_0", mode="best", threads=1)
print("compiled" if "numba" in sys.modules else "found")
"""


def kernels() -> list[Kernel]:
    """All that quantize or dequantize by machine code alone."""
    pairs = [pair for traits in TRAITS.values() for pair in (traits.exact, traits.best) if pair]
    found = [each for pair in pairs for each in (pair.plain, pair.weighted) if isinstance(each, Kernel)]
    decoders = [traits.decoder.kernel for traits in TRAITS.values() if traits.decoder]
    return found + [each for each in decoders if isinstance(each, Kernel)]


def test_each_reference_leads_to_the_kernel_of_its_name() -> None:
    assert len(kernels()) > 110
    for reference in kernels():
        found = getattr(import_module(reference.module), reference.name)
        assert isinstance(found, Kernel)
        assert (found.module, found.name) == (reference.module, reference.name)


def test_modes_keep_their_machine_code_apart() -> None:
    """Modules and kernels of the two have the same names."""
    assert len({kernel._file() for kernel in kernels()}) == len(kernels())


def test_a_module_that_does_not_exist_is_no_reference() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = exact.nothing


@pytest.mark.slow
def test_machine_code_serves_until_a_source_of_it_changes(tmp_path: Path) -> None:
    package = tmp_path / "hubquant"
    shutil.copytree(Path(hubquant.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"PYTHONPATH": "", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run(code: str = CALL) -> str:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def change(source: str) -> None:
        with (package / "quants" / source).open("a", encoding="utf-8") as file:
            file.write("# changed\n")

    assert [run(), run(), run(QUANTIZE)] == ["compiled", "found", "found"]
    for other in ("cpu/exact/legacy.py", "cpu/best/iq1.py"):
        change(other)
    assert run() == "found"
    for own in ("cpu/best/legacy.py", "cpu/exact/search.py", "formats.py"):  # the second and the third are imported
        change(own)
        assert run() == "compiled", own
    assert run() == "found"
