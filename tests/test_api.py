"""``import hubquant``: names, arguments, what is returned and what is seen meanwhile."""

from __future__ import annotations

import dataclasses
import inspect
import io
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import hubquant
from hubquant.errors import MixError, RecipeError, UserError
from hubquant.recipe import Recipe
from tests.support.cli import commands
from tests.support.localhub import LocalHub

FEW = {"calibration.chunks": 2, "evaluate.chunks": 2, "evaluate.chunk_size": 64}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_dir_and_help_show_what_is_public() -> None:
    assert {*hubquant.__all__} < {*dir(hubquant)}
    shown = pydoc.plain(pydoc.render_doc(hubquant))
    assert all(f"    {name}(" in shown or f"class {name}(" in shown for name in hubquant.__all__)
    assert all(getattr(hubquant, name).__doc__ for name in hubquant.__all__)
    assert hubquant.quants.TYPES["Q4_K"].row_bytes(256) == 144
    with pytest.raises(AttributeError, match="nothing"):
        hubquant.nothing  # noqa: B018


def test_names_are_found_without_heavy_imports() -> None:
    code = "import sys, hubquant; dir(hubquant), hubquant.Recipe, hubquant.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_function_stays_where_a_folder_has_its_name() -> None:
    import hubquant.convert.conversion
    import hubquant.evaluate.scoring
    import hubquant.publish.table

    for name in ("convert", "evaluate", "publish"):
        assert getattr(hubquant, name).__module__.startswith("hubquant.api")


def test_whatever_stands_for_a_recipe(tiny_llama: Path, tmp_path: Path) -> None:
    matrix = tmp_path / "i.gguf"
    hubquant.collect_imatrix(tiny_llama, out=matrix, chunks=1, chunk_size=64, no_ppl=True)
    keywords = {"types": ["Q8_0", "Q4_K_M"], "mode": "exact", "overrides": FEW, "out": "somewhere"}
    plans = [
        hubquant.plan(recipe, **keywords)  # type: ignore[arg-type]
        for recipe in (
            str(tiny_llama),
            tiny_llama,
            Recipe(model=str(tiny_llama)),
            Recipe(model=tiny_llama),  # type: ignore[arg-type]
            hubquant.load_recipe(tiny_llama),
            {"model": str(tiny_llama)},
            {"model": {"folder": str(tiny_llama)}, "quantize": {"types": ["F16"]}},
        )
    ]
    assert len({plan.recipe.model_dump_json() for plan in plans}) == 1
    assert plans[0].recipe.quantize.types == ("Q8_0", "Q4_K_M")
    assert plans[0].recipe.quantize.mode == "exact"
    assert plans[0].recipe.evaluate.chunk_size == 64
    assert plans[0].output == Path("somewhere")
    assert hubquant.plan(tiny_llama, **{**keywords, "types": "Q8_0, Q4_K_M"}).recipe == plans[0].recipe  # type: ignore[arg-type]
    given = hubquant.plan(tiny_llama, types="F16", push=None, overrides=["evaluate.skip=true", "imatrix.skip=true"])
    assert given.recipe.quantize.types == ("F16",)
    assert not given.tasks.imatrix
    two = hubquant.plan(tiny_llama, types="F16", imatrix=matrix, offload="none", no_eval=True)
    assert two.recipe.imatrix.given == (str(matrix),)
    assert two.recipe.evaluate.skip
    skipped = {"model": str(tiny_llama), "imatrix": {"skip": True}}
    three = hubquant.plan(skipped, types="F16", imatrix=[matrix, str(matrix)], no_eval=True)
    assert three.recipe.imatrix.given == (str(matrix), str(matrix))


FUNCTIONS = {
    "run": "run",
    "plan": "plan",
    "convert": "convert",
    "quantize": "quantize",
    "imatrix collect": "collect_imatrix",
    "evaluate run": "evaluate",
    "evaluate ppl": "evaluate",
    "evaluate join": "join_baselines",
    "inspect": "inspect",
    "detect": "detect",
    "refine": "refine",
    "tune": "tune",
    "dataset build": "build_dataset",
    "publish": "publish",
}
OF_THE_COMMAND_LINE = {
    *("json", "quiet", "verbose", "log_file", "dry_run", "tensors", "list_architectures", "by_chunk"),  # what is shown
    *("set", "resume", "type", "tensor_type_file"),  # overrides, fresh, types and tensor_type
    "threads",  # the process's, by torch.set_num_threads
}


def test_keywords_are_the_options_of_the_command_line() -> None:
    for words, function in FUNCTIONS.items():
        keywords = {*inspect.signature(getattr(hubquant, function)).parameters}
        for parameter in commands()[words].params:
            names = {name.lstrip("-").replace("-", "_") for name in parameter.opts if name.startswith("--")}
            assert not names or names & (keywords | OF_THE_COMMAND_LINE), (words, names)


def test_a_plan_is_shown_as_text_and_in_a_notebook(tiny_llama: Path) -> None:
    plan = hubquant.plan(tiny_llama, types=["Q4_K_M"], overrides=FEW)
    assert "tiny-llama-Q4_K_M.gguf" in str(plan)
    html = plan._repr_html_()
    assert '<td style="text-align: left">tiny-llama-Q4_K_M.gguf</td>' in html
    assert '<td style="text-align: left">imatrix</td>' in html


def test_single_steps(tiny_llama: Path, tmp_path: Path) -> None:
    floats = hubquant.convert(
        tiny_llama, out=tmp_path / "floats.gguf", type="f16", model_name="Tiny", metadata={"general.author": "me"}
    )
    metadata = hubquant.inspect(floats.path).metadata
    assert (metadata["general.name"], metadata["general.author"]) == ("Tiny", "me")
    assert (floats.path, floats.type, floats.size) == (
        tmp_path / "floats.gguf",
        "F16",
        (tmp_path / "floats.gguf").stat().st_size,
    )
    matrix = hubquant.collect_imatrix(tiny_llama, out=tmp_path / "i.gguf", chunks=2, chunk_size=64, no_ppl=True)
    assert matrix.chunk_count == 2
    assert repr(matrix) == "<ImportanceMatrix of 14 weights: 2 chunks of 64 tokens from hubquant:calibration>"
    assert str(hubquant.inspect(floats.path)).startswith("llama, 1.38 M weights, 2.76 MB, 16.")
    made = hubquant.quantize(
        floats.path, ["Q8_0", "Q4_K_M"], out=tmp_path, imatrix=tmp_path / "i.gguf", tensor_type={"ffn_down": "Q8_0"}
    )
    assert [file.type for file in made] == ["Q8_0", "Q4_K_M"]
    assert [dataclasses.is_dataclass(file) for file in made] == [True, True]
    [cut] = hubquant.quantize(
        floats.path, "Q8_0", out=tmp_path, name="cut-{type}", split_max_tensors=12, override_kv="a.b=int:7"
    )
    assert cut.path.name.startswith("cut-Q8_0-00001-of-")
    assert cut.shards > 1
    assert hubquant.inspect(cut.path).metadata["a.b"] == 7
    [short] = hubquant.quantize(floats.path, "Q8_0", out=tmp_path / "short.gguf", prune_layers=[1])
    assert hubquant.inspect(short.path).metadata["llama.block_count"] == 1
    both = hubquant.collect_imatrix(
        tiny_llama, out=tmp_path / "j.gguf", in_file=tmp_path / "i.gguf", chunks=1, chunk=2, chunk_size=64, no_ppl=True
    )
    assert both.chunk_count == 3
    shown = hubquant.inspect(made[1].path)
    types = {tensor.name: tensor.type for tensor in shown.tensors}
    assert types["blk.0.ffn_down.weight"] == "Q8_0"
    assert types["blk.0.attn_q.weight"] == "Q4_K"
    assert shown.metadata["quantize.imatrix.chunks_count"] == 2

    few = {"chunks": 2, "chunk_size": 64}
    far = hubquant.evaluate(made[1].path, baseline=tiny_llama, **few)
    near = hubquant.evaluate(made[0].path, baseline=str(tiny_llama), **few)
    assert 0 < near.kld.mean < far.kld.mean
    alone = hubquant.evaluate(made[0].path, **few)
    strided = hubquant.evaluate(made[0].path, ppl_stride=32, **few)
    assert strided.n_tokens != alone.n_tokens
    assert alone.ppl == pytest.approx(near.ppl.ppl, rel=1e-3)


def test_what_a_run_made_is_published(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    settings = {"imatrix.skip": True, "publish.base_model": "org/tiny"}
    report = hubquant.run(tiny_llama, types=["Q8_0"], no_eval=True, overrides=settings, out=tmp_path / "out")
    assert report.url is None
    pushed = hubquant.publish(report.output, to="alice/tiny-GGUF", private=True, commit_message="First files")
    assert "tiny-llama-Q8_0.gguf" in pushed.uploaded
    assert "tiny-llama-Q8_0.gguf" in hub.repository("alice/tiny-GGUF").files
    keywords = {"types": ["Q4_0"], "push": "alice/tiny-GGUF", "create_pr": True, "commit_message": "One more"}
    hubquant.run(tiny_llama, no_eval=True, overrides=settings, out=tmp_path / "out", **keywords)  # type: ignore[arg-type]
    assert "tiny-llama-Q4_0.gguf" not in hub.repository("alice/tiny-GGUF").files
    assert [each["title"] for each in hub.repository("alice/tiny-GGUF").discussions] == ["One more"]


def test_mistakes_name_the_argument(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="chunks must be a whole number larger than 0"):
        hubquant.collect_imatrix(tiny_llama, out=tmp_path / "i.gguf", chunks=0)
    with pytest.raises(UserError, match="batch must be at least 1, not 0"):
        hubquant.collect_imatrix(tiny_llama, out=tmp_path / "i.gguf", batch=0)
    with pytest.raises(RecipeError, match="chunk_size must be"):
        hubquant.evaluate(tiny_llama, chunk_size=3)
    with pytest.raises(RecipeError, match="chunks must be") as caught:
        hubquant.evaluate(tiny_llama, chunks=2.5)  # type: ignore[call-overload]
    assert caught.value.hint == "write chunks=48"
    with pytest.raises(RecipeError, match=r"types: quantize\.types\.0 must be") as caught:
        hubquant.plan(tiny_llama, types=[3])  # type: ignore[list-item]
    assert caught.value.hint == "write '3'"
    with pytest.raises(UserError, match="there is no device 'gpu'"):
        hubquant.evaluate(tiny_llama, device="gpu")  # type: ignore[call-overload]
    with pytest.raises(UserError, match="progress='loud' is none"):
        hubquant.plan(tiny_llama, progress="loud")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="ppl_stride and baseline contradict"):
        hubquant.evaluate(tiny_llama, baseline="b.h5", ppl_stride=32)  # type: ignore[call-overload]
    with pytest.raises(RecipeError, match="mode must be one of exact, best"):
        hubquant.quantize(tiny_llama, "Q8_0", out=tmp_path, mode="fast")  # type: ignore[arg-type]
    with pytest.raises(MixError, match="Q4_K_X"):
        hubquant.quantize(tiny_llama, "Q4_K_X", out=tmp_path)
    with pytest.raises(UserError, match="keep-split contradicts"):
        hubquant.quantize(tiny_llama, "Q8_0", out=tmp_path, keep_split=True, split_max_tensors=3)
    with pytest.raises(UserError, match="there is no importance matrix"):
        hubquant.quantize(tiny_llama, "Q8_0", out=tmp_path, include_weights="ffn")
    with pytest.raises(UserError, match="convert does not write Q4_K_M"):
        hubquant.convert(tiny_llama, out=tmp_path / "x.gguf", type="Q4_K_M")
    with pytest.raises(UserError, match="a vocabulary cannot be split"):
        hubquant.convert(tiny_llama, out=tmp_path / "x.gguf", vocab_only=True, split_max_tensors=3)
    with pytest.raises(UserError, match=r"there is no metadata general\.autor"):
        hubquant.convert(tiny_llama, out=tmp_path / "x.gguf", metadata={"general.autor": "me"})
    with pytest.raises(RecipeError, match=r"quantize\.mode must be one of"):
        hubquant.plan(tiny_llama, overrides={"quantize.mode": "fast"})
    with pytest.raises(RecipeError, match="private must be true or false"):
        hubquant.publish(tmp_path, to="me/x", private="perhaps")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="hubquant did not make"):
        hubquant.publish(tmp_path, to="me/x")
    assert list(tmp_path.iterdir()) == []


def test_bars_are_for_those_who_look(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def convert(name: str, **keywords: None) -> None:
        hubquant.convert(tiny_llama, out=tmp_path / name, type="Q8_0", store=tmp_path / f"store {name}", **keywords)

    convert("a.gguf")
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    convert("b.gguf", progress=None)
    assert terminal.getvalue() == ""
    convert("c.gguf")
    assert "\r  quantize:" in terminal.getvalue()
    assert "  quantize  Q8_0\n" in terminal.getvalue()
    assert capfd.readouterr() == ("", "")


def test_text_matrix_and_batch(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"word {i} comes before {i * i}" for i in range(900)))
    counted = hubquant.build_dataset(file=[tmp_path / "a.txt"], tokenizer=tiny_llama, count_only=True)
    assert (counted.unit, counted.files, counted.sources[0].found.documents) == ("tokens", [], 900)
    texts = {"sources": [{"file": str(tmp_path / "a.txt")}], "chunk_size": 32}
    recipe = {"model": str(tiny_llama), "calibration": texts, "evaluate": {"chunks": 4}}
    built = hubquant.build_dataset(recipe, out=tmp_path / "b.txt", split_test="20%", max_tokens=5000)
    assert [file.part for file in built.files] == ["pool", "test"]
    refined = hubquant.refine(recipe, type="q2_k", sizes="64,128", confidence=0.5, out=tmp_path / "i.gguf")
    assert hubquant.load_imatrix(refined.imatrix).chunk_count == refined.climb.best.chunks
    assert (refined.imatrix, refined.climb.confidence) == (tmp_path / "i.gguf", 0.5)
    assert hubquant.load_recipe(refined.recipe).imatrix.file == str(tmp_path / "i.gguf")
    store = tmp_path / "store"
    first, second = (hubquant.tune(tiny_llama, context=32, seconds=0, store=store) for _ in range(2))
    assert (first.is_known, second.is_known, second.tuned) == (False, True, first.tuned)
    assert "32  " in str(first)


def test_mistakes_in_searches_name_the_argument(tiny_llama: Path) -> None:
    with pytest.raises(UserError, match=r"factor must be at least 1\.1"):
        hubquant.refine(tiny_llama, type="Q2_K", factor=1)
    with pytest.raises(MixError, match="Q2_X"):
        hubquant.refine(tiny_llama, type="Q2_X")
    with pytest.raises(UserError, match="context must be at least 16"):
        hubquant.tune(tiny_llama, context=1)
    with pytest.raises(UserError, match="engine must be one of"):
        hubquant.tune(tiny_llama, engine="onnx")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="samples must be at least 1"):
        hubquant.build_dataset(file="a.txt", samples=0, count_only=True)
    with pytest.raises(UserError, match="nothing to build a text of"):
        hubquant.build_dataset(count_only=True)
