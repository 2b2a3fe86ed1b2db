"""Every recipe of recipes/ can be planned, on a tiny model of the kind that it is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hubquant.calibration.bundled import bundled_path
from hubquant.imatrix import save
from hubquant.imatrix.matrix import Entry, ImportanceMatrix
from hubquant.models.tiny import build
from tests.convert.test_encoders import TINY as ENCODER
from tests.support.cli import hubquant

RECIPES = Path(__file__).parents[2] / "recipes"
CHAT_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": True}


def chat(folder: Path) -> Path:
    (build("llama", folder) / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {
    "chat-model": chat,
    "embeddings": lambda folder: build("bert", folder, **ENCODER),
    "ladder": lambda folder: build("qwen3", folder),
    "laptop": lambda folder: build("qwen3", folder),
    "larger-than-memory": lambda folder: build("llama", folder),
    "low-bit": lambda folder: build("llama", folder),
    "moe": lambda folder: build("qwen3_moe", folder, **MOE),
    "own-text": lambda folder: build("llama", folder),
    "reuse-imatrix": lambda folder: build("qwen3", folder),
}


def on_this_machine(recipe: dict[str, Any], model: Path, folder: Path) -> dict[str, Any]:
    """The recipe with texts, a matrix and a model that are here, and without the place to publish to."""
    text = bundled_path("test").read_text("utf-8")[:40_000]
    messages = [{"role": "user", "content": text[:2000]}, {"role": "assistant", "content": text[2000:4000]}]
    rows = [json.dumps({"text": text, "body": text, "messages": messages})] * 20
    (folder / "rows.jsonl").write_text("\n".join(rows))
    for part in ("calibration", "evaluate"):
        for source in recipe.get(part, {}).get("sources", ()):
            for key in ("dataset", "config", "split"):
                source.pop(key, None)
            source["file"] = str(folder / "rows.jsonl")
    if "file" in recipe.get("imatrix", {}):
        entry = Entry(torch.ones(1, 256, dtype=torch.float64), torch.tensor([512]))
        save(ImportanceMatrix({"blk.0.attn_q.weight": entry}, ("a.txt",), 512, 1), folder / "imatrix.gguf")
        recipe["imatrix"]["file"] = str(folder / "imatrix.gguf")
    recipe.get("publish", {}).pop("to", None)
    return {**recipe, "model": {"folder": str(model)}}


def test_every_recipe_has_a_model() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_recipe_can_be_planned(name: str, tmp_path: Path) -> None:
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text("utf-8"))
    (tmp_path / "model").mkdir()
    given = on_this_machine(recipe, MODELS[name](tmp_path / "model"), tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
    planned = hubquant("plan", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), "--json")
    assert planned.code == 0, planned.err
    plan = json.loads(planned.out)
    types = [entry if isinstance(entry, str) else entry["name"] for entry in recipe["quantize"]["types"]]
    assert [file["type"] for file in plan["files"]] == types
    assert not [note for note in plan["notes"] if "fits no tensor" in note and "_shexp" not in note]
    assert not (tmp_path / "out").exists()
