"""What a survey tells is what a run would make, and it tells nobody what he may not see."""

from __future__ import annotations

from pathlib import Path

import pytest

import hubquant
from hubquant.errors import HubAccessError
from hubquant.mix import FTYPES
from tests.support.localhub import ALICE, BOB, LocalHub

FEW = ["Q8_0", "Q4_K_M", "IQ2_XXS"]


def test_sizes_are_those_of_a_run(tiny_llama: Path, tmp_path: Path) -> None:
    found = hubquant.survey(tiny_llama)
    assert {each.name for each in found.types} == {*FTYPES}
    report = hubquant.run(tiny_llama, types=FEW, out=tmp_path / "out", overrides=["calibration.chunks=2"], no_eval=True)
    sizes = {each.name: each.size for each in found.types}
    assert {name: sizes[name] for name in FEW} == {
        name: (tmp_path / "out" / f"tiny-llama-{name}.gguf").stat().st_size for name in FEW
    }
    assert report


def test_a_private_model_is_there_for_its_owner_alone(hub: LocalHub, tiny_llama: Path) -> None:
    hub.add("alice/secret", tiny_llama, private=True)
    assert hubquant.survey("alice/secret", token=ALICE).private
    for token in (BOB, False):
        with pytest.raises(HubAccessError) as seen:
            hubquant.survey("alice/secret", token=token)  # type: ignore[arg-type]
        with pytest.raises(HubAccessError) as missing:
            hubquant.survey("alice/nothing", token=token)  # type: ignore[arg-type]
        assert str(seen.value) == str(missing.value).replace("nothing", "secret")
