"""What is known of a recipe before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubquant.backends.gguf.backend import GGUF
from hubquant.engine.progress import Silent
from hubquant.engine.store import Store
from hubquant.errors import CalibrationError, HubquantError, ImatrixError
from hubquant.gguf_file import Split
from hubquant.pipeline.prepare import prepare
from hubquant.pipeline.work import Work, open_model
from hubquant.recipe import Recipe
from tests.support.conversion import build_uneven

SMALL = {"chunk_size": 32, "chunks": 2}
IN_LLAMA_CPP = "llamacpp-evaluation"


def work(model: Path, **parts: object) -> Work:
    fields = {"calibration": SMALL, "evaluate": SMALL, "quantize": {"types": ["Q8_0"]}, **parts}
    recipe = Recipe.model_validate({"model": {"folder": str(model)}, **fields})
    backend = GGUF(Split(1 << 40), "say how", compares=not recipe.evaluate.skip)
    return prepare(recipe, open_model(recipe.model, None, Silent()), backend, Store(), Silent())


def test_only_what_is_asked_for_is_a_task(tiny_llama: Path) -> None:
    whole = work(tiny_llama)
    assert [task.kind for task in whole.tasks] == [
        *("imatrix", "baseline", "file", "verification", "evaluation", IN_LLAMA_CPP, "runtime")
    ]
    assert [task.kind for task in whole.tasks.goals] == [task.kind for task in whole.tasks if task.kind != "baseline"]
    bare = work(tiny_llama, imatrix={"skip": True}, evaluate={"skip": True})
    assert [task.kind for task in bare.tasks] == ["file", "verification"]
    assert (bare.texts.calibration, bare.texts.evaluation, bare.importance) == (None, None, None)
    measured = work(tiny_llama, imatrix={"skip": True}, evaluate={**SMALL, "engine": "torch"})
    assert [task.kind for task in measured.tasks] == ["baseline", "file", "verification", "evaluation", "runtime"]


def test_an_encoder_is_calibrated_and_measured(tmp_path: Path) -> None:
    padding = {**dict.fromkeys(("head_dim", "num_key_value_heads", "tie_word_embeddings"), ...), "pad_token_id": 0}
    folder = build_uneven("bert", tmp_path / "bert", type_vocab_size=2, **padding)
    skip = {"skip": True}
    assert [task.kind for task in work(folder, evaluate=skip).tasks] == ["imatrix", "file", "verification"]
    measured = ["embeddings", "file", "verification", "embedding-evaluation"]
    assert [task.kind for task in work(folder, imatrix=skip, evaluate=SMALL | {"chunks": 4}).tasks] == measured


def test_text_that_is_calibrated_and_evaluated_on_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(
        "".join(
            f"line {number} of a text whose lines are all long enough to be looked for in another text\n"
            for number in range(200)
        )
    )
    same = {**SMALL, "sources": [{"file": str(text)}]}
    assert any("looks better than it is" in note for note in work(tiny_llama, calibration=same, evaluate=same).notes)
    assert not any("looks better" in note for note in work(tiny_llama, calibration=same).notes)


@pytest.mark.parametrize(
    ("parts", "error", "what"),
    [
        ({"calibration": {**SMALL, "sources": [{"file": "none.txt"}]}}, CalibrationError, "none.txt"),
        ({"evaluate": {**SMALL, "sources": [{"file": "none.txt"}]}}, CalibrationError, "none.txt"),
        ({"imatrix": {"file": "none.gguf"}}, ImatrixError, "none.gguf"),
        ({"imatrix": {"skip": True}, "quantize": {"types": ["IQ2_XS"]}}, ImatrixError, "IQ2_XS needs"),
        ({"imatrix": {"exclude_weights": ["blk"]}}, ImatrixError, "leaves no entry"),
        ({"quantize": {"types": ["Q8_0"], "rules": [{"match": "(", "type": "Q6_K"}]}}, HubquantError, "expression"),
    ],
)
def test_mistakes_are_known_before_any_work(
    parts: dict[str, object], error: type[HubquantError], what: str, tiny_llama: Path, store: Path
) -> None:
    with pytest.raises(error, match=what) as raised:
        work(tiny_llama, **parts)
    assert raised.value.exit_code == 2
    assert not store.exists()
    if what == "IQ2_XS needs":
        assert str(raised.value.hint).startswith("say how, or ")
