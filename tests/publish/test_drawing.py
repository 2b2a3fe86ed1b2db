"""The card of a diffusion model: its measurements, its grid of pictures, and how its files are loaded."""

from __future__ import annotations

import ast
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from hubquant.evaluate import TensorCheck
from hubquant.evaluate.pictures import Fidelity
from hubquant.publish.card import Card, CardText, render
from hubquant.publish.drawing import Drawing
from hubquant.publish.grid import CELL, MOST_ROWS, PLAIN, WIDEST, Column, _font, grid, thumbnail, wrapped
from hubquant.publish.measurements import FileMeasurement, MadeWith, dump_measurements, read_measurements
from hubquant.publish.plot import plot
from hubquant.publish.recommendation import MeasuredFile, recommend
from hubquant.publish.report import FileReport, Report
from hubquant.publish.step_plot import plot_steps
from hubquant.publish.table import narrow, plain, table


def drawn(type: str, gigabytes: float, error: float, *, with_imatrix: bool | None = None, n: int = 8) -> MeasuredFile:
    """With an error that falls by half over four steps."""
    steps = tuple(error * factor for factor in (4 / 3, 10 / 9, 8 / 9, 2 / 3))
    found = Fidelity(error, error / 40, steps, n, 4 * n, error / 2, 30.04, 0.9504)
    size = int(gigabytes * 1e9)
    programs = ("ComfyUI-GGUF", "diffusers") if type in ("Q5_0", "Q4_0") else ("ComfyUI-GGUF",)
    path = f"M-{type}.gguf"
    return MeasuredFile(path, type, size, gigabytes, fidelity=found, with_imatrix=with_imatrix, loaded_by=programs)


FILES = (
    drawn("Q8_0", 8.5, 0.0061),
    drawn("Q5_0", 5.5, 0.05, with_imatrix=True),
    drawn("IQ4_NL", 4.5, 0.127, with_imatrix=False),
    drawn("Q4_0", 4.4, 0.1),
    drawn("Q2_K", 2.6, 0.45),
)
CARD = Card(
    model_name="M",
    files=FILES,
    reproduce="hubquant run hub:me/M-GGUF",
    version="0.3",
    model_id="org/M",
    repo_id="me/M-GGUF",
    source={"tags": ["diffusers", "art"]},
    imatrix="imatrix.gguf",
    calibration=(CardText("hubquant:prompts"),),
    evaluation=(CardText("hubquant:prompts-test"),),
    plot="plot.png",
    drawing=Drawing(
        "FluxPipeline",
        "FluxTransformer2DModel",
        prompts=("a cat", "](http://x) | *"),
        settings="28 steps",
        n_calibrated=32,
    ),
    grid="grid.webp",
    curve="curve.png",
)


def test_recommendations_follow_the_prediction_error() -> None:
    assert recommend(FILES) == {
        "M-Q8_0.gguf": "hardly measurable losses",
        "M-Q5_0.gguf": "recommended: small losses",
        "M-IQ4_NL.gguf": "noticeable losses; Q4_0 is not larger and nearer to the source",
        "M-Q4_0.gguf": "noticeable losses",  # with two standard errors
        "M-Q2_K.gguf": "very large losses",
    }
    assert recommend([drawn("Q8_0", 8.5, 0.001, n=1)]) == {"M-Q8_0.gguf": "not judged: 1 picture is too few"}


def test_the_table_tells_which_way_was_nearer() -> None:
    made = table(FILES)
    assert dict(zip(made.columns, made.rows[1], strict=True)) == {
        "File": "M-Q5_0.gguf",
        "Type": "Q5_0",
        "Size": "5.50 GB",
        "bpw": "5.50",
        "Prediction error": "0.050 ± 0.001",
        "Recommendation": "recommended: small losses",
        "Imatrix": "yes",
        "Drift": "0.025",
        "PSNR": "30.0 dB",
        "SSIM": "0.950",
    }
    assert [row[6] for row in made.rows] == ["–", "yes", "no", "–", "–"]
    assert "Imatrix" not in table(FILES[:1]).columns
    assert max(map(len, plain(table(FILES, narrow(FILES))).splitlines())) <= 80
    undrawn = replace(FILES[0], fidelity=Fidelity(0.1, 0.01, (0.1,), 4, 4))
    assert table([undrawn]).rows[0][-3:] == ("–", "–", "–")


def test_a_gate_on_the_prediction_error() -> None:
    worst = TensorCheck("blocks.0.weight", "Q4_0", 0.05, 0.1)
    report = Report("M", Path("out"), [FileReport(file, worst, gate=0.06) for file in FILES[1:3]])
    assert [file.passed for file in report.files] == [True, False]
    text = report.text()
    assert "IQ4_NL is not published: its prediction error is above 0.06" in text.splitlines()
    assert "llama.cpp" not in text
    assert report.table.rows[0]["prediction_error"] == 0.05
    assert 'alt="file size and prediction error of M"' in report._repr_html_()


def test_measurements_are_read_back() -> None:
    made = MadeWith(model="m", imatrix=None, settings="s", evaluation="e", hubquant="0.3")
    file = FileMeasurement.of(FILES[1], {"M-Q5_0.gguf": "0" * 64}, made)
    assert [each.measured for each in read_measurements(dump_measurements([file], "c")).files] == [FILES[1]]


def test_front_matter_is_that_of_a_model_of_pictures() -> None:
    data = ModelCard(render(CARD)).data.to_dict()
    assert data["pipeline_tag"] == "text-to-image"
    assert data["library_name"] == "gguf"
    assert data["tags"] == ["gguf", "quantized", "hubquant", "imatrix", "art"]
    assert data["base_model"] == "org/M"
    video = replace(CARD, drawing=replace(CARD.drawing, is_video=True))  # type: ignore[type-var]
    assert ModelCard(render(video)).data.to_dict()["pipeline_tag"] == "text-to-video"


def test_the_card_names_programs_that_load_the_files() -> None:
    body = render(CARD)
    assert "for [diffusers](https://huggingface.co/docs/diffusers/quantization/gguf) and [ComfyUI-GGUF](" in body
    assert "which does not load Q8_0, IQ4_NL, Q2_K:" in body
    assert "stable-diffusion.cpp" not in body
    assert "hf download me/M-GGUF M-Q8_0.gguf --local-dir ComfyUI/models/unet" in body
    code = body.split("```python\n")[1].split("```")[0]
    called = [ast.unparse(node.func) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert {"FluxTransformer2DModel.from_single_file", "FluxPipeline.from_pretrained"} < set(called)
    assert '"https://huggingface.co/me/M-GGUF/blob/main/M-Q5_0.gguf"' in code
    for absent in ("llama", "ollama", "tokens", "KLD", "Which file", "None", "{{", "{%"):
        assert absent not in body, absent


def test_the_card_shows_and_explains_the_pictures() -> None:
    body = render(CARD)
    assert "Row 1: a cat; Row 2: \\](http://x) \\| \\*](./grid.webp)" in body
    assert "![Prediction error of each file by step](./curve.png)" in body
    assert "![Size against prediction error](./plot.png)" in body
    assert "The source model drew 8 pictures (28 steps). Every file was read back" in body
    assert "its 32 predictions were compared" in body
    assert "the column Imatrix says" in body
    assert "It was collected while 32 pictures were drawn" in body
    bare = replace(CARD, files=(replace(FILES[0], fidelity=None),), evaluation=(), grid=None, curve=None, plot=None)
    assert "No measurements were made." in render(bare)
    assert "![" not in render(bare)


def test_a_local_video_model() -> None:
    drawing = replace(CARD.drawing, is_video=True, prompts=())  # type: ignore[type-var]
    body = render(replace(CARD, drawing=drawing, model_id=None, repo_id=None, grid=None))
    assert 'export_to_video(pipe("a lighthouse at dusk").frames[0], "video.mp4")' in body
    assert '    "M-Q5_0.gguf",\n    config="M",' in body
    assert "Put M-Q8_0.gguf into `ComfyUI/models/unet`" in body
    assert "32 videos were drawn" in body


def test_plots_have_the_same_bytes_each_time() -> None:
    for draw in (plot, plot_steps):
        assert draw(FILES, "M") == draw(FILES, "M") != draw(FILES[:3], "M")
        assert draw(FILES[:1], "M")[:4] == b"\x89PNG"
        with pytest.raises(ValueError, match="measured"):
            draw([replace(FILES[0], fidelity=None)], "M")


def pictures(folder: Path, value: float, count: int, height: int, width: int) -> list[Path]:
    paths = [folder / f"{value}-{number}.png" for number in range(count)]
    for path in paths:
        path.write_bytes(thumbnail(torch.full((3, 3, height, width), value)))
    return paths


def test_a_thumbnail_is_the_middle_frame(tmp_path: Path) -> None:
    video = torch.stack([torch.full((3, 300, 600), value) for value in (0.0, 1.2, 0.5)])
    with Image.open(BytesIO(thumbnail(video))) as image:
        assert image.size == (CELL, CELL // 2)
        assert image.getextrema() == ((255, 255),) * 3
    assert pictures(tmp_path, 0.5, 1, 8, 8)[0].stat().st_size < 200


def test_the_grid_has_a_row_for_each_prompt_and_a_column_for_each_file(tmp_path: Path) -> None:
    prompts = ["a long prompt " * 30, *["b"] * MOST_ROWS]
    columns = [
        Column(title, "1 GB", pictures(tmp_path, value, len(prompts), 40, 64))
        for title, value in (("Source", 0.2), ("Q8_0", 0.4), ("Q2_K", 0.8))
    ]
    made = grid(prompts, columns)
    assert made == grid(prompts, columns)
    with Image.open(BytesIO(made)) as image:
        assert image.format == "WEBP"
        values = image.convert("L")
    down, across = 160 + 6, 256 + 6  # each pixel of 64 × 40 is a square of 4
    left, top = values.width - 12 - 3 * across, values.height - 12 - MOST_ROWS * down
    assert top > 40
    for row in range(MOST_ROWS):
        for column, value in enumerate((0.2, 0.4, 0.8)):
            for x, y in ((2, 2), (250, 2), (2, 154), (250, 154)):
                found = values.getpixel((left + column * across + x, top + row * down + y))
                assert found == pytest.approx(255 * value, abs=3)
    prompt = values.crop((0, top, left, top + down))
    assert min(prompt.tobytes()) < 100 < 255 == max(prompt.tobytes())
    assert values.crop((0, 0, left, top)).getextrema()[0] > 250
    with pytest.raises(ValueError, match="no pictures"):
        grid([], columns)


def test_a_grid_of_many_files_stays_within_bounds(tmp_path: Path) -> None:
    columns = [Column("MXFP4_MOE", "F16, 23.8 GB", pictures(tmp_path, 0.5, 2, 300, 200)) for _ in range(20)]
    with Image.open(BytesIO(grid(["a", "b"], columns))) as image:
        assert WIDEST // 2 < image.width <= WIDEST


@pytest.mark.parametrize("text", ["", "one", "a b " * 50, "x" * 300, "short " + "y" * 90 + " end"])
def test_wrapped_lines_fit(text: str) -> None:
    font = _font(PLAIN, 13)
    lines = wrapped(text, font, 120, 1000)
    assert all(font.getlength(line) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    few = wrapped(text, font, 120, 2)
    assert len(few) <= 2
    assert few == lines if len(lines) <= 2 else few[-1].endswith("…")
    assert all(font.getlength(line) <= 120 for line in few)
