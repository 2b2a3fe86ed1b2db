"""What users do with importance matrices that are there, and what is said when they do not fit."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image

from hubquant.gguf_file import GGUFFile
from hubquant.imatrix import Entry, ImportanceMatrix, load_imatrix, save
from hubquant.models.tiny import build
from tests.support.cli import Outcome, hubquant
from tests.support.llamacpp import ggml_quantize
from tests.support.localhub import LocalHub

FEW = ("--chunks", "4", "--chunk-size", "64")
Q4_K = 12
PUBLISHED = "hub:alice/tiny-GGUF/tiny-imatrix.gguf"


@pytest.fixture(scope="module")
def folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.gguf in F32 and imatrix.gguf."""
    folder = tmp_path_factory.mktemp("matrices")
    assert hubquant("convert", str(tiny_llama), "-o", str(folder / "tiny.gguf"), "-t", "F32").code == 0
    made = hubquant("imatrix", "collect", str(tiny_llama), "-o", str(folder / "imatrix.gguf"), *FEW)
    assert made.code == 0, made.err
    return folder


@pytest.fixture
def matrix(folder: Path) -> ImportanceMatrix:
    return load_imatrix(folder / "imatrix.gguf")


def refused(*arguments: str | Path) -> str:
    outcome = hubquant(*map(str, arguments))
    assert outcome.code == 2, outcome.err
    assert outcome.is_one_message(), outcome.err
    return outcome.err


def done(*arguments: str | Path) -> Outcome:
    outcome = hubquant(*map(str, arguments))
    assert outcome.code == 0, outcome.err
    return outcome


def test_merge(folder: Path, matrix: ImportanceMatrix, tmp_path: Path) -> None:
    one, out = folder / "imatrix.gguf", tmp_path / "new" / "sum.gguf"
    made = json.loads(done("imatrix", "merge", one, one, "-o", out, "-w", "2", "-w", "1", "--json").out)
    assert made == {"path": str(out), "entries": 14, "chunks": 12}
    merged = load_imatrix(out)
    assert merged.provenance == matrix.provenance
    for name, entry in matrix.entries.items():
        torch.testing.assert_close(merged.entries[name].in_sum2, 3 * entry.in_sum2, rtol=1e-12, atol=0)
        assert merged.entries[name].counts.tolist() == [3 * 256]


def test_convert_both_ways(folder: Path, matrix: ImportanceMatrix, tmp_path: Path) -> None:
    dat, gguf, again = tmp_path / "a.dat", tmp_path / "b.gguf", tmp_path / "c.dat"
    experts = Entry(torch.rand(4, 8).double(), torch.tensor([1, 2, 3, 4]))
    save(replace(matrix, entries={**matrix.entries, "blk.0.ffn_up_exps.weight": experts}), tmp_path / "moe.gguf")
    outcome = done("imatrix", "convert", tmp_path / "moe.gguf", "-o", dat)
    assert "note: a .dat file holds less: experts have one count in common" in outcome.err
    assert "chunks to have 512 tokens, and they have 64" in outcome.err
    assert "note" not in done("imatrix", "convert", dat, "-o", gguf).err
    done("imatrix", "convert", gguf, "-o", again)
    assert again.read_bytes() == dat.read_bytes()
    difference = json.loads(hubquant("imatrix", "diff", str(folder / "imatrix.gguf"), str(gguf), "--json").out)
    assert difference["only_second"] == ["blk.0.ffn_up_exps.weight"]
    assert max(entry["relative"] for entry in difference["entries"]) < 1e-6


def test_show(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    save(replace(matrix, provenance={"model_revision": "abc"}), tmp_path / "a.gguf")
    text = done("imatrix", "show", tmp_path / "a.gguf", "--plot", tmp_path / "new" / "a.png").out
    lines = text.splitlines()
    assert lines[:4] == [
        "datasets        hubquant:calibration",
        "chunks          4 of 64 tokens",
        "entries         14",
        "model_revision  abc",
    ]
    assert "CosSim" in lines[5]
    assert image.imread(tmp_path / "new" / "a.png").shape[1] > 400
    shown = json.loads(done("imatrix", "show", tmp_path / "a.gguf", "--json").out)
    assert shown["provenance"] == {"model_revision": "abc"}
    assert (shown["chunk_count"], shown["chunk_size"], shown["datasets"]) == (4, 64, ["hubquant:calibration"])
    assert (len(shown["tensors"]), len(shown["layers"])) == (14, 2)


def test_diff(folder: Path, matrix: ImportanceMatrix, tmp_path: Path) -> None:
    one, other = folder / "imatrix.gguf", tmp_path / "other.gguf"
    assert "0 differ" in done("imatrix", "diff", one, one).out
    changed = matrix.entries["blk.1.ffn_up.weight"]
    near = {"blk.1.ffn_up.weight": replace(changed, in_sum2=changed.in_sum2 * 1.001)}
    save(replace(matrix, entries={**matrix.entries, **near}), other)
    outcome = hubquant("imatrix", "diff", str(one), str(other))
    assert outcome.code == 1
    assert not outcome.err
    assert "14 weights in both: 1 differs, the largest relative difference is 0.000999" in outcome.out
    assert done("imatrix", "diff", one, other, "--tolerance", "0.01")
    assert json.loads(hubquant("imatrix", "diff", str(one), str(other), "--json").out)["equal"] is False
    assert "there is no imatrix" in refused("imatrix", "diff", one, tmp_path / "absent")


def test_a_published_matrix_is_used_as_a_file_is(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    hub.add("alice/tiny-GGUF", {"tiny-imatrix.gguf": (folder / "imatrix.gguf").read_bytes()})
    assert "CosSim" in done("imatrix", "show", PUBLISHED).out
    assert "0 differ" in done("imatrix", "diff", PUBLISHED, folder / "imatrix.gguf").out
    done("imatrix", "convert", PUBLISHED, "-o", tmp_path / "a.dat")
    done("imatrix", "merge", PUBLISHED, folder / "imatrix.gguf", "-o", tmp_path / "b.gguf")
    for name, matrix in (("hub", PUBLISHED), ("file", folder / "imatrix.gguf")):
        done("quantize", folder / "tiny.gguf", "-t", "Q4_0", "--imatrix", matrix, "-o", tmp_path / name)
    hub_file, file = (GGUFFile.open(tmp_path / name / "tiny-Q4_0.gguf") for name in ("hub", "file"))
    assert all(torch.equal(hub_file.data(name), file.data(name)) for name in file.tensors)
    assert hub_file.metadata["quantize.imatrix.file"].value == "tiny-imatrix.gguf"
    assert "has no file none.gguf" in refused("imatrix", "show", "hub:alice/tiny-GGUF/none.gguf")
    assert "hub:org/repo/imatrix.gguf" in refused("imatrix", "show", "hub:alice/tiny-GGUF")
    assert f"write {PUBLISHED}" in refused("imatrix", "show", PUBLISHED.removeprefix("hub:"))


def tensors_of(folder: Path, out: Path, *options: str | Path) -> GGUFFile:
    done("quantize", folder / "tiny.gguf", "-t", "Q4_0", "-o", out, *options)
    return GGUFFile.open(out / "tiny-Q4_0.gguf")


def test_weights_are_included_and_excluded(folder: Path, tmp_path: Path) -> None:
    given = ("--imatrix", folder / "imatrix.gguf")
    whole, none = tensors_of(folder, tmp_path / "whole", *given), tensors_of(folder, tmp_path / "none")
    parts = ("attn_output", "ffn_gate")
    included = [part for name in parts for part in ("--include-weights", name)]
    excluded = [part for name in parts for part in ("--exclude-weights", name)]
    some = tensors_of(folder, tmp_path / "some", *given, *included)
    others = tensors_of(folder, tmp_path / "others", *given, *excluded)
    counts = [file.metadata["quantize.imatrix.entries_count"].value for file in (whole, some, others)]
    assert counts == [14, 4, 10]
    differing = [name for name in whole.tensors if not torch.equal(whole.data(name), none.data(name))]
    assert len(differing) == 14
    for name in whole.tensors:
        uses, spares = (some, others) if any(part in name for part in parts) else (others, some)
        assert torch.equal(uses.data(name), whole.data(name))
        assert torch.equal(spares.data(name), none.data(name))


def test_how_many_entries_are_dropped_is_said(folder: Path, tmp_path: Path) -> None:
    line = ("quantize", folder / "tiny.gguf", "-t", "Q4_0", "-o", tmp_path, "--imatrix", folder / "imatrix.gguf")
    assert "10 of the importance matrix's 14 entries are not used (include_weights: attn_output ffn_gate)" in (
        done(*line, "--include-weights", "attn_output", "--include-weights", "ffn_gate").err
    )
    assert "leaves no entry" in refused(*line, "--include-weights", "attn_out.put")
    assert "contradict" in refused(*line, "--include-weights", "a", "--exclude-weights", "b")
    assert "--imatrix" in refused(*line[:-2], "--include-weights", "a")
    needy = ("quantize", folder / "tiny.gguf", "-t", "IQ2_XS", "-o", tmp_path, "--imatrix", folder / "imatrix.gguf")
    assert "blk.0.ffn_up.weight Q2_K instead of IQ2_XS" in done(*needy, "--exclude-weights", "ffn_up").err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-IQ2_XS.gguf", "tiny-Q4_0.gguf"]


def test_what_a_stopped_run_left_is_not_used_with_another_matrix(
    folder: Path, matrix: ImportanceMatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files have the same header: it holds the matrix's name and datasets, which are equal."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    line = ("quantize", folder / "tiny.gguf", "-t", "Q4_0", "--imatrix")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        outcome = hubquant(*map(str, (*line, folder / "imatrix.gguf", "-o", tmp_path / "a")))
    assert "disk is full" in outcome.err
    flat = {name: replace(entry, in_sum2=torch.ones_like(entry.in_sum2)) for name, entry in matrix.entries.items()}
    other = tmp_path / "other" / "imatrix.gguf"
    save(replace(matrix, entries=flat), other)
    for place in ("a", "b"):
        done(*line, other, "-o", tmp_path / place)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["tiny-Q4_0.gguf"]
    assert (tmp_path / "a" / "tiny-Q4_0.gguf").read_bytes() == (tmp_path / "b" / "tiny-Q4_0.gguf").read_bytes()


def run(model: Path, out: Path, settings: list[str], *more: str) -> Outcome:
    return done("run", model, "--out", out, *settings, "--set", "evaluate.skip=true", *more)


def test_recipes_choose_and_merge(
    tiny_llama: Path, folder: Path, matrix: ImportanceMatrix, tmp_path: Path, small_settings: list[str]
) -> None:
    out, files = tmp_path / "out", f"imatrix.files=[{folder / 'imatrix.gguf'}, {tmp_path / 'other.dat'}]"
    save(matrix, tmp_path / "other.dat")
    assert "different chunk sizes" in refused("plan", tiny_llama, "--out", out, *small_settings, "--set", files)
    save(replace(matrix, datasets=("other.txt",)), tmp_path / "other.dat")
    files = f"imatrix.files=[{folder / 'imatrix.gguf'}, {tmp_path / 'other.gguf'}]"
    save(replace(matrix, datasets=("other.txt",)), tmp_path / "other.gguf")
    first = run(tiny_llama, out, small_settings, "--set", files)
    assert "imatrix:" not in first.err
    placed = load_imatrix(out / "imatrix.gguf")
    assert placed.datasets == ("hubquant:calibration", "other.txt")
    assert placed.entries["blk.0.attn_q.weight"].counts.tolist() == [512]
    metadata = GGUFFile.open(out / "tiny-llama-Q4_K_M.gguf").metadata
    assert metadata["quantize.imatrix.file"].value == "imatrix.gguf, other.gguf"

    choice = ("--set", files, "--set", "imatrix.exclude_weights=[ffn_up, ffn_down]")
    planned = json.loads(done("plan", tiny_llama, "--out", out, *small_settings, *choice, "--json").out)
    assert any("4 of the importance matrix's 14 entries are not used" in note for note in planned["notes"])
    assert not next(step for step in planned["steps"] if step["name"] == "quantize")["done"]
    run(tiny_llama, out, small_settings, *choice)
    assert GGUFFile.open(out / "tiny-llama-Q4_K_M.gguf").metadata["quantize.imatrix.entries_count"].value == 10
    assert load_imatrix(out / "imatrix.gguf").entries.keys() == matrix.entries.keys()


def test_a_published_recipe_names_the_published_matrix(
    hub: LocalHub, tiny_llama: Path, folder: Path, tmp_path: Path, small_settings: list[str]
) -> None:
    hub.add("org/tiny", tiny_llama)
    local = f"imatrix.files=[{folder / 'imatrix.gguf'}, {folder / 'imatrix.gguf'}]"
    line = ("run", "org/tiny", "--push", "alice/tiny-GGUF", "--set", "evaluate.skip=true", "--set", local)
    done(*line, *small_settings, "--out", tmp_path / "a")
    recipe = hub.content("alice/tiny-GGUF", "recipe.yaml").decode()
    assert "file: hub:alice/tiny-GGUF/imatrix.gguf" in recipe
    assert str(folder) not in recipe
    done("run", "hub:alice/tiny-GGUF", "--out", tmp_path / "b")
    first, second = (GGUFFile.open(tmp_path / name / "tiny-Q4_K_M.gguf") for name in ("a", "b"))
    assert all(torch.equal(first.data(name), second.data(name)) for name in first.tensors)


def test_a_collected_matrix_is_kept_when_the_choice_changes(
    tiny_llama: Path, tmp_path: Path, small_settings: list[str]
) -> None:
    out = tmp_path / "out"
    run(tiny_llama, out, small_settings)
    before = (out / "tiny-llama-Q4_K_M.gguf").read_bytes()
    second = run(tiny_llama, out, small_settings, "--set", "imatrix.include_weights=[attn]")
    assert "imatrix: 4 chunks of 64 tokens from hubquant:calibration (done before)" in second.err
    assert "quantize: Q8_0, Q4_K_M (done before)" not in second.err
    assert (out / "tiny-llama-Q4_K_M.gguf").read_bytes() != before
    assert len(load_imatrix(out / "imatrix.gguf").entries) == 14
    settings = ("--set", "imatrix.include_weights=[attn]", "--set", "quantize.types=[IQ2_XS]")
    assert "blk.0.ffn_down.weight Q2_K instead of" in done("plan", tiny_llama, *small_settings, *settings).out


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["imatrix.file=a", "imatrix.files=[b]"], "file and files contradict"),
        (["imatrix.skip=true", "imatrix.file=a"], "skip contradicts"),
        (["imatrix.include_weights=[a]", "imatrix.exclude_weights=[b]"], "contradict"),
        (["imatrix.exclude_weights=['']"], "imatrix.exclude_weights.0"),
        (["imatrix.exclude_weights=[blk]"], "leaves no entry"),
    ],
)
def test_settings_that_contradict(settings: list[str], named: str, tiny_llama: Path) -> None:
    assert named in refused("plan", tiny_llama, *(part for setting in settings for part in ("--set", setting)))


def test_every_expert_is_quantized_with_its_own_importance(tmp_path: Path) -> None:
    """In llama.cpp's own bytes; a .dat has one count for all experts."""
    model = build(
        "qwen3_moe",
        tmp_path / "moe",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        norm_topk_prob=True,
    )
    floats = tmp_path / "moe.gguf"
    done("convert", model, "-o", floats, "-t", "F32")
    source, name = GGUFFile.open(floats), "blk.0.ffn_up_exps.weight"
    shape = source.tensors[name].shape
    generator = torch.Generator().manual_seed(0)
    sums = torch.rand(4, shape[-1], generator=generator).double() * 100
    matrix = ImportanceMatrix({name: Entry(sums, torch.tensor([300, 0, 40, 684]))}, ("a.txt",), 512, 2)
    for suffix in ("gguf", "dat"):
        path = tmp_path / f"imatrix.{suffix}"
        save(matrix, path)
        out = tmp_path / suffix
        done("quantize", floats, "-t", "Q4_K_S", "--mode", "exact", "--imatrix", path, "-o", out)
        made = GGUFFile.open(out / "moe-Q4_K_S.gguf")
        assert made.tensors[name].type == "Q4_K"
        loaded = load_imatrix(path).fit({name: shape})
        for expert, (rows, found) in enumerate(
            zip(
                source.data(name).clone().view(torch.float32).reshape(shape),
                made.data(name).reshape(4, -1),
                strict=True,
            )
        ):
            importance = loaded.entries[name].means()[expert].numpy()
            assert np.array_equal(ggml_quantize(rows.numpy(), Q4_K, importance).ravel(), found.numpy())
    wrong = replace(matrix, entries={name: Entry(sums[:3], torch.tensor([300, 0, 40]))})
    save(wrong, tmp_path / "wrong.gguf")
    line = ("quantize", floats, "-t", "Q4_K_S", "--imatrix", tmp_path / "wrong.gguf", "-o", tmp_path / "out")
    assert f"{name} has 3 × 256 columns there and 4 × 256 in the model" in refused(*line)


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif how == "NaN":
        path.write_bytes(content[:-32] + b"\xff" * 32)
    else:
        path.write_bytes({"empty": b"", "text": b"no matrix at all\n" * 9}[how])


@pytest.mark.parametrize("suffix", ["gguf", "dat"])
@pytest.mark.parametrize("how", ["cut", "NaN", "empty", "text"])
def test_damaged_files(how: str, suffix: str, folder: Path, matrix: ImportanceMatrix, tmp_path: Path) -> None:
    damaged, whole, out = tmp_path / f"damaged.{suffix}", folder / "imatrix.gguf", tmp_path / "out.gguf"
    save(replace(matrix, datasets=()), damaged)
    spoil(damaged, how)
    for line in (
        ("imatrix", "show", damaged),
        ("imatrix", "diff", whole, damaged),
        ("imatrix", "convert", damaged, "-o", out),
        ("imatrix", "merge", whole, damaged, "-o", out),
        ("quantize", folder / "tiny.gguf", "-t", "Q4_0", "--imatrix", damaged, "-o", out),
    ):
        assert f"damaged.{suffix}" in refused(*line)
    assert [path.name for path in tmp_path.iterdir()] == [damaged.name]


def test_matrices_that_do_not_fit_together(folder: Path, matrix: ImportanceMatrix, tmp_path: Path) -> None:
    one, other, out = folder / "imatrix.gguf", tmp_path / "other.gguf", tmp_path / "out.gguf"
    merge = ("imatrix", "merge", one, other, "-o", out)
    name = "blk.1.attn_q.weight"
    save(replace(matrix, chunk_size=512), other)
    assert "different chunk sizes: 64 tokens in matrix 1 and 512 in matrix 2" in refused(*merge)
    cut = Entry(matrix.entries[name].in_sum2[:, :128], matrix.entries[name].counts)
    save(replace(matrix, entries={**matrix.entries, name: cut}), other)
    assert f"{name} has different sizes: [1, 128] in matrix 2 and [1, 256] before" in refused(*merge)
    quantize = ("quantize", folder / "tiny.gguf", "-t", "Q4_0", "-o", tmp_path / "files", "--imatrix", other)
    assert f"{name} has 128 columns there and 256 in the model (1 of 14 weights differ)" in refused(*quantize)
    deeper = {**matrix.entries, "blk.7.attn_q.weight": matrix.entries[name]}
    save(replace(matrix, entries=deeper), other)
    assert "it has blk.7.attn_q.weight, and the model has no such block" in refused(*quantize)
    facts = {"model_revision": "abc"}, {"model_revision": "def"}
    for path, provenance in zip((tmp_path / "a.gguf", other), facts, strict=True):
        save(replace(matrix, provenance=provenance), path)
    error = refused("imatrix", "merge", tmp_path / "a.gguf", other, "-o", out)
    assert "model_revision is abc in matrix 1 and def in matrix 2" in error
    assert "2 matrices" in refused("imatrix", "merge", one, one, "-o", out, "--weight", "2")
    assert "larger than 0" in refused("imatrix", "merge", one, "-o", out, "--weight", "0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "other.gguf"]


def assert_close(found: ImportanceMatrix, expected: ImportanceMatrix) -> None:
    assert found.entries.keys() == expected.entries.keys()
    for name, entry in expected.entries.items():
        assert torch.equal(found.entries[name].counts, entry.counts)
        torch.testing.assert_close(found.entries[name].in_sum2, entry.in_sum2, rtol=1e-5, atol=0)


def test_a_collection_goes_on_from_files(folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    """The first four chunks are there; the next four, added to them, are the first eight."""
    collect = ("imatrix", "collect", tiny_llama, "--chunk-size", "64", "--chunks")
    whole, out = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    done(*collect, 8, "-o", whole)
    more = (*collect, 4, "--chunk", 4, "--in-file", folder / "imatrix.gguf")
    made = json.loads(done(*more, "-o", out, "--save-frequency", 1, "--batch", 64, "--json").out)
    assert (made["entries"], made["chunks"]) == (14, 8)
    assert_close(load_imatrix(out), load_imatrix(whole))
    assert load_imatrix(tmp_path / "out.gguf.at_1").chunk_count == 5
    done(*more, "--in-file", out, "-o", out)
    assert load_imatrix(out).chunk_count == 4 + 8 + 4
    assert "reading what" in done(*more, "-o", tmp_path / "out.dat").err
    assert load_imatrix(tmp_path / "out.dat").datasets == load_imatrix(whole).datasets


def test_a_collection_goes_on_from_its_own_model_only(
    folder: Path, matrix: ImportanceMatrix, tiny_llama: Path, tmp_path: Path
) -> None:
    given, out = folder / "imatrix.gguf", tmp_path / "out.gguf"
    onto = ("--in-file", given, "-o", out)
    assert "different chunk sizes" in refused("imatrix", "collect", tiny_llama, *onto, "--chunk-size", 32)
    other = build("llama", tmp_path / "other", initializer_range=0.3)
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    assert "do not belong to one model" in refused("imatrix", "collect", other, *onto, *FEW)
    save(replace(matrix, provenance={}), tmp_path / "anonymous.gguf")
    shallow = build("llama", tmp_path / "shallow", num_hidden_layers=1)
    assert "another model" in refused(
        "imatrix", "collect", shallow, "--in-file", tmp_path / "anonymous.gguf", *onto[2:]
    )
    assert not out.exists()
    same = ("imatrix", "collect", tiny_llama, "--in-file", given, "-o", given, *FEW)
    assert "twice" in refused(*same, "--output-frequency", 1)


@pytest.mark.parametrize("batch", [1, 100, 256])
def test_the_batch_changes_the_last_bits_at_most(
    batch: int, matrix: ImportanceMatrix, tiny_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.gguf"
    done("imatrix", "collect", tiny_llama, "-o", out, *FEW, "-b", batch)
    assert_close(load_imatrix(out), matrix)


def test_the_batch_is_how_many_chunks_run_at_a_time(tiny_llama: Path, tmp_path: Path) -> None:
    words = ("imatrix", "collect", tiny_llama, "-o", tmp_path / "out.gguf", *FEW, "--save-frequency", 1)
    done(*words, "-b", 128)
    assert sorted(path.name for path in tmp_path.glob("*.at_*")) == ["out.gguf.at_2", "out.gguf.at_4"]


@pytest.mark.usefixtures("store")
def test_the_plan_counts_the_logits_of_a_batch(folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    def ram(*words: str | int) -> int:
        line = ("imatrix", "collect", tiny_llama, "-o", tmp_path / "out.gguf", *FEW, "--dry-run", "--json", *words)
        found: int = json.loads(done(*line).out)["ram_bytes"]
        return found

    n_vocab = GGUFFile.open(folder / "tiny.gguf").tensors["token_embd.weight"].shape[0]
    without, one, all_four = ram("--no-ppl"), ram("-b", 64), ram("-b", 4096)
    assert one - without == 4 * 32 * n_vocab
    assert all_four - without == 4 * 4 * 32 * n_vocab
