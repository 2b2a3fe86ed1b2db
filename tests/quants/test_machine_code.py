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

QUANTIZE = """
import sys
import hubquant.quants
assert "numba" not in sys.modules
import torch
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


@pytest.mark.parametrize(
    ("changed", "then"),
    [
        ("cpu/best/legacy.py", "compiled"),
        ("cpu/exact/search.py", "compiled"),  # imported by that
        ("formats.py", "compiled"),
        ("cpu/exact/legacy.py", "found"),
        ("cpu/best/iq1.py", "found"),
    ],
)
def test_machine_code_serves_until_a_source_of_it_changes(tmp_path: Path, changed: str, then: str) -> None:
    package = tmp_path / "hubquant"
    shutil.copytree(Path(hubquant.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"PYTHONPATH": "", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def quantize() -> str:
        command = [sys.executable, "-c", QUANTIZE]
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert [quantize(), quantize()] == ["compiled", "found"]
    with (package / "quants" / changed).open("a", encoding="utf-8") as source:
        source.write("# changed\n")
    assert quantize() == then
    assert quantize() == "found"
