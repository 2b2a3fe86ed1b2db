"""What llama-quantize's users expect of ``hubquant quantize``."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest

from hubquant.gguf_file import GGUFFile
from tests.support.cli import Outcome, hubquant
from tests.support.llamacpp import LlamaCpp

OVERRIDES = {
    "general.name=str:My model: 1=2": ("general.name", "My model: 1=2", "STRING"),
    "llama.context_length=int:77": ("llama.context_length", 77, "UINT32"),
    "tokenizer.ggml.bos_token_id=int:1": ("tokenizer.ggml.bos_token_id", 1, "UINT32"),
    "mine.rate=float:0.25": ("mine.rate", 0.25, "FLOAT32"),
    "tokenizer.ggml.add_bos_token=bool:false": ("tokenizer.ggml.add_bos_token", False, "BOOL"),
}


def quantize(*arguments: object) -> Outcome:
    outcome = hubquant("quantize", *map(str, arguments))
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.fixture(scope="module")
def floats(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("floats") / "tiny.gguf"
    assert hubquant("convert", str(tiny_llama), "-o", str(path), "-t", "BF16").code == 0
    return path


@pytest.fixture(scope="module")
def shards(floats: Path) -> list[Path]:
    out = floats.parent / "cut.gguf"
    quantize(floats, "-t", "Q8_0", "--split-max-tensors", 9, "-o", out)
    return sorted(floats.parent.glob("cut-*"))


def types_in(path: Path) -> dict[str, str]:
    return {name: entry.type for name, entry in GGUFFile.open(path).tensors.items()}


def test_override_kv_gives_the_types_of_llama_quantize(floats: Path, tmp_path: Path) -> None:
    flags = [part for text in OVERRIDES for part in ("--override-kv", text)]
    quantize(floats, "-t", "Q8_0", *flags, "-o", tmp_path / "a.gguf")
    quantize(floats, "-t", "Q8_0", "-o", tmp_path / "b.gguf")
    reader, plain = gguf.GGUFReader(tmp_path / "a.gguf"), GGUFFile.open(tmp_path / "b.gguf")
    for key, value, type in OVERRIDES.values():
        found = reader.fields[key]
        assert (found.contents(), [each.name for each in found.types]) == (value, [type])
    metadata = GGUFFile.open(tmp_path / "a.gguf").metadata
    changed = {key for key in metadata if metadata[key] != plain.metadata.get(key)}
    assert changed == {"hubquant.recipe_sha256", *(key for key, *_ in OVERRIDES.values())}
    with LlamaCpp(tmp_path / "a.gguf") as model:
        assert (model.meta()["general.name"], model.meta()["llama.context_length"]) == ("My model: 1=2", "77")
        assert model.tokenize("ab", add_special=True) == model.tokenize("ab", add_special=False)


def test_copy_takes_everything_over(floats: Path, shards: list[Path], tmp_path: Path) -> None:
    quantize(floats, "-t", "copy", "-o", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == floats.read_bytes()
    quantize(shards[0], "-t", "COPY", "-o", tmp_path)
    quantize(floats, "-t", "7", "-o", tmp_path / "whole.gguf")
    assert (tmp_path / "cut-COPY.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_the_output_tensor_is_left(floats: Path, tiny_llama: Path, tmp_path: Path) -> None:
    plain = quantize(floats, "-t", "Q4_K_M", "-o", tmp_path / "plain.gguf")
    assert plain.out
    for source, type in ((floats, "BF16"), (tiny_llama, "F16")):
        quantize(source, "-t", "Q4_K_M", "--leave-output-tensor", "-o", tmp_path / "left.gguf")
        assert types_in(tmp_path / "left.gguf") == {**types_in(tmp_path / "plain.gguf"), "output.weight": type}


def test_rules_from_a_file_come_after_those_of_the_line(floats: Path, tmp_path: Path) -> None:
    (tmp_path / "types.txt").write_text("ffn_down=q5_k\n\nattn_v=Q6_K  blk\\.0\\.attn_q=Q8_0\n")
    listed = ["--tensor-type-file", tmp_path / "types.txt", "--tensor-type", "attn_v=Q5_0"]
    quantize(floats, "-t", "Q4_0", "--pure", *listed, "-o", tmp_path / "a.gguf")
    found = types_in(tmp_path / "a.gguf")
    expected = {"blk.1.ffn_down": "Q5_K", "blk.1.attn_v": "Q5_0", "blk.0.attn_q": "Q8_0", "blk.1.attn_q": "Q4_0"}
    assert {name: found[f"{name}.weight"] for name in expected} == expected


def test_shards_can_be_kept_and_cut(shards: list[Path], tmp_path: Path) -> None:
    assert [len(gguf.GGUFReader(path).tensors) for path in shards] == [9, 9, 3]
    line = [shards[1], "--allow-requantize", "-t", "Q4_0,Q5_0", "--name", "{type}.of.{model}", "-o", tmp_path]
    quantize(*line, "--keep-split")
    for type in ("Q4_0", "Q5_0"):
        kept = sorted(tmp_path.glob(f"{type}.of.cut-*.gguf"))
        assert [list(tensors_of(path)) for path in kept] == [list(tensors_of(path)) for path in shards]
    quantize(*line, "--split-max-size", "600K")
    cut = GGUFFile.open(tmp_path / "Q5_0.of.cut-00001-of-00002.gguf")
    assert all(sum(tensor.n_bytes for tensor in gguf.GGUFReader(path).tensors) <= 600_000 for path in cut.paths)
    quantize(*line)
    assert types_in(tmp_path / "Q5_0.of.cut.gguf") == types_in(cut.paths[0])
    assert cut.tensors.keys() == GGUFFile.open(shards[0]).tensors.keys()


def tensors_of(path: Path) -> list[str]:
    return [tensor.name for tensor in gguf.GGUFReader(path).tensors]


def test_a_dry_run_shows_sizes_and_types(floats: Path, tmp_path: Path) -> None:
    line = [floats, "-t", "Q8_0,Q4_K_M", "-o", tmp_path, "--dry-run"]
    shown = quantize(*line, "--threads", 1).out
    assert "tiny-Q4_K_M.gguf\n" in shown
    assert "bpw" in shown
    planned = json.loads(quantize(*line, "--json").out)["files"]
    assert not list(tmp_path.iterdir())
    quantize(*line[:-1])
    for file in planned:
        path = tmp_path / file["name"]
        assert (path.stat().st_size, types_in(path)) == (file["size"], file["tensors"])


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("-t COPY -o x", "there is no file to copy"),
        ("-t Q8_0 --keep-split -o x", "there are no shards to keep"),
        ("-t Q8_0 --keep-split --split-max-size 5G -o x", "--keep-split contradicts"),
        ("-t Q8_0 --split-max-size 5X -o x", "--split-max-size: '5X' is not a size"),
        ("-t Q8_0 --split-max-tensors 0 -o x", "--split-max-tensors"),
        ("-t Q8_0 --leave-output-tensor --output-tensor-type Q6_K -o x", "contradict each other"),
        ("-t Q8_0,Q4_0 --name mine -o x", "--name mine is the same for every type"),
        ("-t Q8_0 --name {typ} -o x", "--name knows no {typ}"),
        ("-t Q8_0 --name {type -o x", "cannot be read"),
        ("-t Q8_0 --name ../{type} -o x", "is no name of a file"),
        ("-t Q8_0 --name {type} -o x.gguf", "contradict each other"),
        ("-t 99 -o x", "unknown file type '99'"),
        ("-t Q8_0 --override-kv a -o x", "'a' sets no metadata"),
        ("-t Q8_0 --override-kv a=u32:1 -o x", "'a=u32:1' sets no metadata"),
        ("-t Q8_0 --override-kv a=int:1.5 -o x", "a: '1.5' is no whole number"),
        ("-t Q8_0 --override-kv a=bool:yes -o x", "a: 'yes' is no truth value"),
        ("-t Q8_0 --override-kv a=int:-1 -o x", "a cannot be -1"),
        ("-t Q8_0 --override-kv general.alignment=int:64 -o x", "general.alignment cannot be set"),
        ("-t Q8_0 --tensor-type-file none.txt -o x", "none.txt cannot be read"),
        ("-t Q8_0 --tensor-type-file bad.txt -o x", "'attn_v' is not a tensor rule"),
        ("-t Q8_0 --tensor-type-file empty.txt -o x", "empty.txt is empty"),
        ("-t Q8_0 --tensor-type-file binary.txt -o x", "binary.txt is no text file"),
    ],
)
def test_mistakes(line: str, what: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_text("attn_v Q6_K")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe=Q8_0")
    before = sorted(tmp_path.iterdir())
    outcome = hubquant("quantize", str(tiny_llama), *line.split())
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert what in outcome.err
    assert "  next: " in outcome.err
    assert sorted(tmp_path.iterdir()) == before
