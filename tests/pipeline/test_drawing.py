"""Recipes of diffusion models, from a folder or a repository to files, card and Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from hubquant import survey
from hubquant.convert.diffusion.importance import HIGH_NOISE
from hubquant.gguf_file import GGUFFile
from hubquant.imatrix import load_imatrix, save
from hubquant.quants import dequantize
from hubquant.ui.html import survey_card
from tests.support.cli import Outcome, hubquant
from tests.support.diffusion import FAMILIES, FRAMES, make_pipeline, save_pipeline
from tests.support.localhub import ALICE, LocalHub

FAMILY = "flux"
SOURCE, TARGET = "org/tiny", "alice/tiny-GGUF"
TYPES = ("Q8_0", "Q4_0")
PICTURES = {"README.md", "recipe.yaml", "measurements.json", "plot.png", "curve.png", "grid.webp"}
IMATRIX_KEY = "quantize.imatrix.chunks_count"
KEYS_BYTES = 512
"""What a file says of its importance matrix."""
PLAIN = ("imatrix.skip=true", "evaluate.skip=true")
CARD = "---\nlicense: apache-2.0\npipeline_tag: text-to-image\n---\n# A tiny model\n"


def small(count: int = 2, **more: int) -> list[str]:
    settings = {"count": count, "steps": 2, "size": 32, **more}
    return [
        f"{part}.pictures.{name}={value}" for part in ("calibration", "evaluate") for name, value in settings.items()
    ]


def run(model: str | Path, out: Path, types: str, *settings: str, words: tuple[str, ...] = ()) -> Outcome:
    """Settings are given as field=value; ``words`` are further ones of the line."""
    given = [part for setting in settings for part in ("--set", setting)]
    return hubquant("run", str(model), "--out", str(out), "--types", types, *words, *given)


def made(model: str | Path, out: Path, types: str, *settings: str, words: tuple[str, ...] = ()) -> str:
    outcome = run(model, out, types, *settings, words=words)
    assert outcome.code == 0, outcome.err
    return outcome.err


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".hubquant" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def tensors(path: Path) -> dict[str, bytes]:
    file = GGUFFile.open(path)
    return {name: file.data(name).numpy().tobytes() for name in file.tensors}


def measurements(out: Path) -> dict[str, dict[str, Any]]:
    return {file["type"]: file for file in json.loads((out / "measurements.json").read_text())["files"]}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_pipeline(FAMILY, tmp_path_factory.mktemp("drawing") / "tiny")
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture(scope="module")
def out(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves, with what it made in the store of this module."""
    folder = tmp_path_factory.mktemp("drawing") / "out"
    made(pipeline, folder, ",".join(TYPES), *small())
    return folder


def test_a_folder_becomes_files_and_a_card_with_pictures(out: Path) -> None:
    assert contents(out).keys() == {f"tiny-{type}.gguf" for type in TYPES} | PICTURES | {"imatrix.gguf"}
    for type, measured in measurements(out).items():
        file = GGUFFile.open(out / f"tiny-{type}.gguf")
        assert file.metadata["general.architecture"].value == "flux"
        assert file.metadata["general.type"].value == "diffusion"
        assert (IMATRIX_KEY in file.metadata) is measured["with_imatrix"]
        assert "double_blocks.0.img_attn.qkv.weight" in file.tensors
    found = load_imatrix(out / "imatrix.gguf")
    assert found.provenance["model_class"] == "FluxTransformer2DModel"
    assert found.datasets == ("hubquant:prompts",)
    fidelity = {type: file["fidelity"] for type, file in measurements(out).items()}
    assert fidelity.keys() == set(TYPES)
    assert 0 < fidelity["Q8_0"]["error"] < fidelity["Q4_0"]["error"] < 1
    assert fidelity["Q8_0"]["psnr"] > fidelity["Q4_0"]["psnr"]
    assert all(len(each["by_step"]) == each["n_pictures"] == 2 for each in fidelity.values())
    card = (out / "README.md").read_text()
    for said in ("grid.webp", "curve.png", "plot.png", "2 steps, 32 × 32 pixels", "ComfyUI-GGUF"):
        assert said in card
    assert "llama.cpp" not in card.replace("stable-diffusion.cpp", "")


def test_the_recipe_of_a_card_makes_nothing_anew(out: Path) -> None:
    before = contents(out)
    outcome = hubquant("run", str(out / "recipe.yaml"), "--out", str(out))
    assert outcome.code == 0, outcome.err
    for step in ("imatrix", "draw", "quantize", "verify", "evaluate"):
        assert f"{step}: " in outcome.err
    assert all("done before" in line for line in outcome.err.splitlines() if line.startswith(("imatrix:", "draw:")))
    assert "loading" not in outcome.err
    assert contents(out) == before


def test_a_further_type_is_added_from_what_is_there(pipeline: Path, out: Path, tmp_path: Path) -> None:
    other = tmp_path / "out"
    made(pipeline, other, ",".join(TYPES), *small())
    told = made(pipeline, other, "Q5_0", *small())
    assert all("done before" in line for line in told.splitlines() if line.startswith(("imatrix:", "draw:")))
    assert measurements(other).keys() == {*TYPES, "Q5_0"}
    card = (other / "README.md").read_text()
    assert all(f"tiny-{type}.gguf" in card for type in (*TYPES, "Q5_0"))
    for type in TYPES:
        assert (other / f"tiny-{type}.gguf").read_bytes() == (out / f"tiny-{type}.gguf").read_bytes()


def test_nothing_is_compared_where_the_recipe_says_so(pipeline: Path, tmp_path: Path) -> None:
    made(pipeline, tmp_path / "out", "Q4_0", "imatrix.compare=false", *small())
    assert measurements(tmp_path / "out")["Q4_0"]["with_imatrix"] is None
    assert IMATRIX_KEY in GGUFFile.open(tmp_path / "out" / "tiny-Q4_0.gguf").metadata
    assert "without it" not in (tmp_path / "out" / "README.md").read_text()


def test_a_gate_of_the_prediction_error(pipeline: Path, tmp_path: Path) -> None:
    gates = "gates.prediction_error={Q4_0: 0.0001, Q8_0: 0.9}"
    outcome = run(pipeline, tmp_path / "out", ",".join(TYPES), gates, *small())
    assert outcome.code == 1, outcome.err
    assert "Q4_0 is not published" in outcome.out
    assert not (tmp_path / "out" / "tiny-Q4_0.gguf").exists()
    assert measurements(tmp_path / "out").keys() == {"Q8_0"}


@pytest.mark.parametrize("suffix", ["gguf", "dat"])
def test_a_matrix_that_is_given(suffix: str, pipeline: Path, out: Path, tmp_path: Path) -> None:
    matrix = tmp_path / f"given.{suffix}"
    save(load_imatrix(out / "imatrix.gguf"), matrix)
    made(pipeline, tmp_path / "given", "Q4_0", f"imatrix.file={matrix}", "evaluate.skip=true")
    made(pipeline, tmp_path / "collected", "Q4_0", "evaluate.skip=true", *small())
    made(pipeline, tmp_path / "plain", "Q4_0", *PLAIN)
    given, collected, plain = (tensors(tmp_path / name / "tiny-Q4_0.gguf") for name in ("given", "collected", "plain"))
    assert given == collected
    assert given != plain


def test_what_is_not_measured_is_not_shown(pipeline: Path, tmp_path: Path) -> None:
    made(pipeline, tmp_path / "out", "Q8_0", *PLAIN)
    assert contents(tmp_path / "out").keys() == {"tiny-Q8_0.gguf", "README.md", "recipe.yaml", "measurements.json"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert not any(said in card for said in ("grid.webp", "Prediction error", "importance matrix"))


def test_names_of_diffusers(pipeline: Path, tmp_path: Path) -> None:
    made(pipeline, tmp_path / "out", "Q8_0", "publish.layout=diffusers", *PLAIN)
    assert "transformer_blocks.0.attn.to_q.weight" in GGUFFile.open(tmp_path / "out" / "tiny-Q8_0.gguf").tensors
    recipe = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert recipe["publish"] == {"layout": "diffusers"}
    again = made(tmp_path / "out" / "recipe.yaml", tmp_path / "again", "Q8_0")
    assert "done before" in again
    assert contents(tmp_path / "again")["tiny-Q8_0.gguf"] == contents(tmp_path / "out")["tiny-Q8_0.gguf"]


@pytest.mark.usefixtures("store")
def test_from_the_hub_to_the_hub(hub: LocalHub, pipeline: Path, tmp_path: Path) -> None:
    hub.add(SOURCE, {path.relative_to(pipeline).as_posix(): path.read_bytes() for path in pipeline.rglob("*.*")})
    line = [SOURCE, "--types", "Q8_0,Q4_0", "--push", TARGET, "--out", str(tmp_path / "out")]
    line += [part for setting in small() for part in ("--set", setting)]
    planned = json.loads(hubquant("plan", *line, "--json").out)
    weights = sum(path.stat().st_size for path in pipeline.rglob("*.safetensors"))
    assert planned["download_bytes"] == weights
    assert all("range" in call.headers for call in hub.requests("GET .*_cdn"))  # headers alone
    found = survey(SOURCE, token=ALICE)
    assert found.supported
    shown = survey_card(found, 16e9, 8e9)
    assert not any(said in shown for said in ("✗", "best that fits", "Longest text"))
    surveyed = {each.name: each for each in found.types}
    assert {file["type"]: file["size"] for file in planned["files"]} == {t: surveyed[t].size for t in TYPES}
    assert surveyed["Q4_0"].programs == ("ComfyUI-GGUF", "stable-diffusion.cpp")  # for diffusers it is too small
    wrong = hubquant("plan", *line, "--set", "evaluate.pictures.size=100")
    assert wrong.code == 2
    assert "cannot make pictures of 100x100" in wrong.err

    outcome = hubquant("run", *line)
    assert outcome.code == 0, outcome.err
    published = hub.repository(TARGET).files
    assert {"tiny-Q8_0.gguf", "tiny-Q4_0.gguf", "imatrix.gguf"} | PICTURES < {*published}
    for file in planned["files"]:
        keys = 0 if measurements(tmp_path / "out")[file["type"]]["with_imatrix"] else KEYS_BYTES
        assert file["size"] - keys <= len(hub.content(TARGET, file["name"])) <= file["size"]
    assert any("made with the importance matrix and without it" in note for note in planned["notes"])
    recipe = yaml.safe_load(hub.content(TARGET, "recipe.yaml"))
    assert recipe["model"] == {"id": SOURCE, "revision": planned["revision"]}
    card = hub.content(TARGET, "README.md").decode()
    assert f"hubquant run hub:{TARGET}" in card
    assert yaml.safe_load(card.split("---")[1])["base_model"] == SOURCE
    assert str(tmp_path) not in card
    head = hub.repository(TARGET).head
    assert hubquant("run", *line).code == 0
    assert hub.repository(TARGET).head == head
    again = hubquant("run", f"hub:{TARGET}", "--out", str(tmp_path / "again"))
    assert again.code == 0, again.err
    assert "loading" not in again.err
    for name in ("tiny-Q8_0.gguf", "tiny-Q4_0.gguf", "imatrix.gguf", "grid.webp"):
        assert (tmp_path / "again" / name).read_bytes() == hub.content(TARGET, name)


def test_files_with_prompts_are_named_without_their_folders(pipeline: Path, tmp_path: Path, hub: LocalHub) -> None:
    (tmp_path / "mine").mkdir()
    prompts = tmp_path / "mine" / "prompts.txt"
    prompts.write_text("a lighthouse at dusk\na red bicycle\n")
    given = f"calibration.pictures.prompts=[{{file: {prompts}}}]"
    made(pipeline, tmp_path / "out", "Q8_0", given, "evaluate.skip=true", *small(), words=("--push", TARGET))
    recipe = yaml.safe_load(hub.content(TARGET, "recipe.yaml"))
    assert recipe["calibration"]["pictures"]["prompts"] == [{"file": "prompts.txt"}]
    assert "prompts.txt" in hub.content(TARGET, "README.md").decode().split("## Make it again")[1]
    assert load_imatrix(tmp_path / "out" / "imatrix.gguf").datasets == ("prompts.txt",)


@pytest.mark.parametrize("part", ["calibration", "evaluate"])
def test_a_recipe_of_a_stranger_reads_no_prompts_of_this_machine(part: str, tmp_path: Path, hub: LocalHub) -> None:
    (tmp_path / "diary.txt").write_text("my private diary")
    recipe = {"model": {"id": SOURCE}, part: {"pictures": {"prompts": [{"file": str(tmp_path / "diary.txt")}]}}}
    hub.add("evil/recipe", {"recipe.yaml": json.dumps(recipe).encode()})
    outcome = hubquant("run", "hub:evil/recipe", "--out", str(tmp_path / "out"))
    assert outcome.code == 2, outcome.err
    assert f"{part}.pictures.prompts" in outcome.err
    assert not (tmp_path / "out").exists()


def two_denoisers(folder: Path) -> Path:
    """As Wan 2.2: the first makes the first step, the second the last."""
    first, second = make_pipeline("wan"), make_pipeline("wan", seed=1)
    first.register_modules(transformer_2=second.transformer)
    first.register_to_config(boundary_ratio=0.9)
    first.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_the_second_of_two_denoisers(tmp_path: Path) -> None:
    folder = two_denoisers(tmp_path / "tiny")
    settings = [*small(1, frames=5), "imatrix.compare=false"]
    made(folder, tmp_path / "first", "Q4_0", *settings)
    told = made(folder, tmp_path / "second", "Q4_0", "model.component=transformer_2", *settings)
    assert "imatrix: 1 picture of hubquant:prompts (done before)" in told
    matrix = tmp_path / "first" / "imatrix.gguf"
    assert matrix.read_bytes() == (tmp_path / "second" / "imatrix.gguf").read_bytes()
    assert any(name.startswith(HIGH_NOISE) for name in load_imatrix(matrix).entries)
    first, second = tmp_path / "first" / "tiny-Q4_0.gguf", tmp_path / "second" / "tiny-transformer_2-Q4_0.gguf"
    name = "blocks.1.ffn.2.weight"
    assert tensors(first)[name] != tensors(second)[name]
    for file, part in ((first, "transformer"), (second, "transformer_2")):
        weights = load_file(folder / part / "diffusion_pytorch_model.safetensors")["blocks.1.ffn.net.2.weight"]
        read = GGUFFile.open(file)
        found = dequantize(read.data(name), read.tensors[name].type, weights.shape[-1])
        assert (found - weights).norm() < 0.15 * weights.norm()
        assert 0 < measurements(file.parent)["Q4_0"]["fidelity"]["error"] < 1
    recipe = yaml.safe_load((tmp_path / "second" / "recipe.yaml").read_text())
    assert recipe["model"]["component"] == "transformer_2"
    card = (tmp_path / "second" / "README.md").read_text()
    assert "# tiny GGUF" in card
    assert 'config="tiny",\n    subfolder="transformer_2"' in card
    made_with = [measurements(each.parent)["Q4_0"]["made_with"] for each in (first, second)]
    assert made_with[0] != made_with[1]


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted({*FAMILIES} - {FAMILY}))
def test_every_family(family: str, tmp_path: Path) -> None:
    folder = save_pipeline(family, tmp_path / "tiny")
    frames = {"frames": FRAMES[family]} if family in FRAMES else {}
    made(folder, tmp_path / "out", "Q4_0", *small(1, **frames))
    assert contents(tmp_path / "out").keys() == {"tiny-Q4_0.gguf", "imatrix.gguf"} | PICTURES
    assert 0 < measurements(tmp_path / "out")["Q4_0"]["fidelity"]["error"] < 1
    assert tensors(tmp_path / "out" / "tiny-Q4_0.gguf")
