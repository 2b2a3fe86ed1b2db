"""Models as people paste them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubquant.errors import UserError
from hubquant.models.tiny import build
from hubquant.recipe.load import load_recipe
from hubquant.recipe.references import model_reference
from tests.support.cli import hubquant

SHA = "0af1" * 10
ON_THE_HUB: dict[str, tuple[str, str]] = {
    "org/M": ("org/M", "main"),
    "gpt2": ("gpt2", "main"),
    "org/M/": ("org/M", "main"),
    "org/M@v1.0": ("org/M", "v1.0"),
    "https://huggingface.co/org/M": ("org/M", "main"),
    "http://www.huggingface.co/org/M/": ("org/M", "main"),
    "huggingface.co/org/M": ("org/M", "main"),
    "https://huggingface.co/gpt2": ("gpt2", "main"),
    "https://huggingface.co/gpt2/tree/main": ("gpt2", "main"),
    "https://hf.co/org/M?library=transformers": ("org/M", "main"),
    "https://huggingface.co/org/M#usage": ("org/M", "main"),
    "https://huggingface.co/org/M/tree/v1.0": ("org/M", "v1.0"),
    "https://huggingface.co/org/M/tree/refs%2Fpr%2F7": ("org/M", "refs/pr/7"),
    "https://huggingface.co/org/M/tree/refs/pr/7": ("org/M", "refs/pr/7"),
    f"https://huggingface.co/org/M/commit/{SHA}": ("org/M", SHA),
    "https://huggingface.co/org/M/discussions/3": ("org/M", "main"),
    "https://huggingface.co/org/M/blob/main/config.json": ("org/M", "main"),
    "https://huggingface.co/org/M/resolve/v2/model-00001-of-00002.safetensors?download=true": ("org/M", "v2"),
    "hf://org/M": ("org/M", "main"),
    "hf://models/org/M": ("org/M", "main"),
    "hf://org/M@v2": ("org/M", "v2"),
    "hf://org/M@v2/config.json": ("org/M", "v2"),
    "hf.co/org/M": ("org/M", "main"),
    "git@hf.co:org/M": ("org/M", "main"),
    "https://huggingface.co/org/M.git": ("org/M", "main"),
}
REFUSED: dict[str, tuple[str, str]] = {
    "https://huggingface.co/datasets/org/D": ("is a dataset, not a model", "calibration.sources"),
    "https://huggingface.co/spaces/org/S": ("is a Space, not a model", "name a model"),
    "hf://datasets/org/D": ("is a dataset, not a model", "name a model"),
    "https://huggingface.co/org/M/blob/main/M-Q8_0.gguf": (
        "M-Q8_0.gguf is a GGUF file on the Hub",
        "hf download org/M M-Q8_0.gguf --revision main --local-dir ., and name M-Q8_0.gguf",
    ),
    "hf://org/M/M-Q8_0.gguf": ("is a GGUF file on the Hub", "hf download org/M M-Q8_0.gguf --local-dir ."),
    "https://huggingface.co/org/M/tree/main/fp16": ("fp16 is within the repository org/M", "name org/M"),
    "hf.co/org/M:Q4_K_M": ("is no model", "name org/M, and the type with -t"),
    "https://huggingface.co/": ("is no model", "check the spelling"),
    "https://example.org/org/M": ("is no model", "check the spelling"),
    "model.safetensors": ("there is no model.safetensors", "check the path"),
    "M/pytorch_model.bin": ("there is no M/pytorch_model.bin", "check the path"),
    "nothing/": ("there is no nothing/", "check the path"),
    "org/M/x/y": ("x/y is within the repository org/M", "name org/M"),
}


@pytest.mark.parametrize("text", ON_THE_HUB)
def test_names_and_addresses_of_the_hub(text: str) -> None:
    model = load_recipe(text).model
    assert (model.id, model.revision) == ON_THE_HUB[text]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_model_is_told(text: str) -> None:
    what, hint = REFUSED[text]
    with pytest.raises(UserError) as caught:
        model_reference(text)
    assert what in caught.value.what
    assert hint in str(caught.value.hint)


def test_a_mistyped_packaged_recipe_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(UserError, match="there is no quickstrat") as caught:
        load_recipe("quickstrat")
    assert "did you mean quickstart?" in str(caught.value.hint)
    assert load_recipe("hf://quickstrat").model.id == "quickstrat"


def test_the_endpoints_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.acme.example/hf/")
    assert model_reference("https://hub.acme.example/hf/org/M/tree/v1") == {"id": "org/M", "revision": "v1"}


def test_files_of_a_folder_stand_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build("llama", tmp_path / "tiny-1B", num_hidden_layers=1)
    for text in (f"{folder}/", folder / "model.safetensors", folder / "config.json"):
        assert Path(str(load_recipe(str(text)).model.folder)) == folder
        made = hubquant("convert", str(text), "-o", str(tmp_path / "out.gguf"))
        assert made.code == 0, made.err
        (tmp_path / "out.gguf").unlink()
    (folder / "old.safetensors").touch()
    for other in ("tokenizer.json", "old.safetensors"):
        with pytest.raises(UserError, match=r"is not the model: of this folder model\.safetensors is"):
            model_reference(str(folder / other))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="is no model: it is a file of another kind"):
        model_reference(str(tmp_path / "notes.txt"))
    monkeypatch.chdir(folder)
    assert model_reference("model.safetensors") == {"folder": "."}
    assert model_reference("../nothing") == {"folder": "../nothing"}
    assert model_reference("nothing.gguf") == {"file": "nothing.gguf"}
    shown = hubquant("plan", "config.json", "--types", "Q8_0")
    assert shown.out.startswith("tiny-1B"), shown.err
