"""What cannot be drawn is said before anything is downloaded."""

from __future__ import annotations

from pathlib import Path

from tests.support.cli import hubquant
from tests.support.diffusion import save_pipeline
from tests.support.localhub import LocalHub


def test_pictures_of_a_pipeline_on_the_hub_are_checked_by_its_metadata(hub: LocalHub, tmp_path: Path) -> None:
    hub.add("org/tiny", save_pipeline("flux", tmp_path / "tiny"))
    (tmp_path / "prompts.txt").write_text("a red cat\n" + "long " * 120)
    prompts = f"[{{file: {tmp_path / 'prompts.txt'}}}]"

    def planned(size: int) -> tuple[int, str]:
        settings = {"size": size, "count": 2, "prompts": prompts}
        given = [f"--set={part}.pictures.{k}={v}" for part in ("calibration", "evaluate") for k, v in settings.items()]
        outcome = hubquant("plan", "org/tiny", "--types", "Q8_0", *given)
        return outcome.code, " ".join((outcome.out + outcome.err).split())

    code, text = planned(40)
    assert code == 2
    assert "FluxPipeline cannot make pictures of 40x40" in text
    assert "48x48" in text
    code, text = planned(32)
    assert code == 0, text
    assert "1 prompt is longer than the 77 tokens that text_encoder reads" in text
