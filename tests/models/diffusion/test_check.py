from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hubquant.errors import CalibrationError, NotSupportedYet, RecipeError
from hubquant.models.diffusion import check_pictures, draw, empty_pipeline
from hubquant.recipe.pictures import Pictures
from tests.support.diffusion import make_pipeline, save_pipeline

PROMPT = ["a red cat"]


@pytest.mark.parametrize(
    ("family", "values", "message", "hint"),
    [
        ("flux", {"size": 40}, "pictures of 40x40: edges are multiples of 16", "is 48x48"),
        ("sd15", {"size": (44, 8)}, "pictures of 44x8: edges are multiples of 8", "is 48x8"),
        ("sd3", {"size": (300, 32)}, "pictures of 300x32: edges are multiples of 16 up to 256", "is 256x32"),
        ("z_image", {"size": 1040}, "edges are multiples of 16 up to 1,024", "is 1024x1024"),
        ("wan", {"frames": 6}, "videos of 6 frames: its VAE makes one latent of 4 frames", "frames to 5"),
        ("ltx", {"frames": 15, "size": 64}, "videos of 15 frames: its VAE makes one latent of 8", "frames to 17"),
        ("flux", {"frames": 5}, "FluxPipeline has no frames to be set", "leave frames out"),
    ],
)
def test_what_a_pipeline_cannot_make(family: str, values: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        check_pictures(make_pipeline(family), PROMPT, Pictures(**values))
    assert str(caught.value.hint).endswith(hint) or hint in str(caught.value.hint)


@pytest.mark.parametrize(("family", "step"), [("sd15", 8), ("flux", 16), ("sd3", 16)])
def test_a_size_that_is_allowed_is_drawn(family: str, step: int) -> None:
    pipe = make_pipeline(family)
    pictures = Pictures(size=(3 * step, step), steps=1)
    assert check_pictures(pipe, PROMPT, pictures) == ()
    assert draw(pipe, PROMPT, [0], pictures).pictures.shape[-2:] == (step, 3 * step)


def test_without_prompts() -> None:
    for prompts in ([], [" "]):
        with pytest.raises(CalibrationError, match="there are no prompts"):
            check_pictures(make_pipeline("sana"), prompts, Pictures())


def test_prompts_that_are_cut_are_noted_for_each_text_encoder() -> None:
    long = "a" * 520 + "the end"
    notes = check_pictures(make_pipeline("flux"), [*PROMPT, long, long], Pictures())
    assert [note.partition("; ")[0] for note in notes] == [
        "2 prompts are longer than the 77 tokens that text_encoder reads",
        "2 prompts are longer than the 512 tokens that text_encoder_2 reads",
    ]
    assert notes[1].endswith("the end")
    assert len(notes[0]) < 200


def test_a_pipeline_that_wants_more_than_a_prompt() -> None:
    from diffusers import WanImageToVideoPipeline

    parts = {**make_pipeline("wan").components, "image_processor": None, "image_encoder": None}
    with pytest.raises(NotSupportedYet, match=r"WanImageToVideoPipeline: .* but from image too"):
        check_pictures(WanImageToVideoPipeline(**parts), PROMPT, Pictures())


def test_a_pipeline_without_weights_is_checked_alike(tmp_path: Path) -> None:
    for weights in save_pipeline("sd3", tmp_path).rglob("*.safetensors"):
        weights.unlink()
    pipe = empty_pipeline(tmp_path)
    assert {parameter.device.type for parameter in pipe.transformer.parameters()} == {"meta"}
    assert len(check_pictures(pipe, ["a" * 100], Pictures(size=64))) == 2
    with pytest.raises(RecipeError, match="multiples of 16"):
        check_pictures(pipe, PROMPT, Pictures(size=40))
