"""Which device models run on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hubquant.devices import chosen_device, default_device
from hubquant.errors import UserError
from tests.support.cli import hubquant

HERE = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
GONE = next(name for name, found in HERE.items() if not found)
FEW = ("--chunks", "2", "--chunk-size", "32")


def test_a_device_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(UserError, match=f"there is no device {GONE}"):
        chosen_device(GONE)  # type: ignore[arg-type]
    assert chosen_device("auto") == default_device()
    assert chosen_device("cpu") == "cpu"


@pytest.mark.parametrize("offload", ["none", "stream"])
def test_every_way_to_collect_asks_for_the_device(offload: str, tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "imatrix.gguf"
    words = ["imatrix", "collect", str(tiny_llama), "-o", str(out), *FEW, "--offload", offload]
    refused = hubquant(*words, "--device", GONE)
    assert refused.code == 2
    assert f"there is no device {GONE}" in refused.err
    assert not out.exists()
    assert hubquant(*words, "--device", "cpu").code == 0


def test_a_device_that_would_be_taken_anyway_finds_what_is_there(tiny_llama: Path) -> None:
    words = ["evaluate", "ppl", str(tiny_llama), *FEW]
    assert "reading what" in hubquant(*words).err
    assert "done before" in hubquant(*words, "--device", default_device(), "--dry-run").out
