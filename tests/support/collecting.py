"""What llama.cpp collects of a model that transformers cannot run."""

from __future__ import annotations

from pathlib import Path

from hubquant.imatrix import load_imatrix
from hubquant.observe.collection import collected_names
from tests.support.cli import hubquant
from tests.support.conversion import plan


def assert_llama_cpp_collects(folder: Path, place: Path) -> None:
    """A matrix of the model in ``folder`` has an entry for each of its weights; ``place`` is for what is made."""
    out = place / "imatrix.gguf"
    sizes = ("--chunks", "2", "--chunk-size", "64")
    where = ("-o", str(out), "--store", str(place / "store"))
    assert hubquant("imatrix", "collect", str(folder), *sizes, "--process-output", *where).code == 0
    assert load_imatrix(out).entries.keys() == {*collected_names(plan(folder).taps, process_output=True)}
