"""What users of convert_hf_to_gguf.py expect of ``hubquant convert``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf
import pytest

from hubquant.gguf_file import GGUFFile
from tests.support.cli import Outcome, hubquant
from tests.support.llamacpp import library

AUTHORSHIP: dict[str, Any] = {
    "general.name": "My Model",
    "general.author": "me",
    "general.license": "mit",
    "general.license.name": "A name",
    "general.source.repo_url": "https://example.org/source",
    "general.tags": ["one", "two"],
    "general.languages": ["en"],
    "general.base_models": [
        {"name": "Base", "organization": "Org", "repo_url": "https://example.org/base"},
        {"name": "B"},
    ],
    "general.datasets": [{"name": "Texts", "author": "them"}],
    "general.sampling.top_k": 40,
    "general.sampling.temp": 0.5,
    "general.sampling.sequence": "top_k;temp",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(*arguments: object) -> Outcome:
    outcome = hubquant("convert", *map(str, arguments))
    assert outcome.code == 0, outcome.err
    return outcome


def fields_of(path: Path) -> dict[str, Any]:
    return {name: (field.contents(), field.types) for name, field in gguf.GGUFReader(path).fields.items()}


def test_the_type_stands_in_the_name(tiny_llama: Path, here: Path) -> None:
    convert(tiny_llama)
    convert(tiny_llama, "--outtype", "auto", "-o", here / "a-{ftype}.gguf")
    convert(tiny_llama, "--outtype", "q8_0", "--outfile", here / "{ftype}.{OUTTYPE}.gguf")
    assert {path.name for path in here.iterdir()} == {"tiny-llama-F16.gguf", "a-f16.gguf", "q8_0.Q8_0.gguf"}


def test_metadata_is_that_of_the_gguf_package(tiny_llama: Path, here: Path) -> None:
    given = here / "metadata.json"
    given.write_text(json.dumps(AUTHORSHIP))
    convert(tiny_llama, "--metadata", given, "-o", "a.gguf")
    writer = gguf.GGUFWriter(here / "theirs.gguf", "llama")
    gguf.Metadata.load(given, tiny_llama, None, 0).set_gguf_meta_model(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    ours, theirs = fields_of(here / "a.gguf"), fields_of(here / "theirs.gguf")
    named = ("general.base_model", "general.dataset", *AUTHORSHIP)
    keys = {key for key in theirs if key.startswith(named)} - {"general.license"}  # which it takes from the card alone
    assert len(keys) > len(AUTHORSHIP)
    assert {key: ours.get(key) for key in keys} == {key: theirs[key] for key in keys}
    assert ours["general.license"][0] == AUTHORSHIP["general.license"]

    convert(here / "a.gguf", "--model-name", "Another: name", "--metadata", given, "-o", "b.gguf")
    again = GGUFFile.open(here / "b.gguf").metadata
    assert again.pop("general.name").value == "Another: name"
    before = GGUFFile.open(here / "a.gguf").metadata
    assert again == {key: kv for key, kv in before.items() if key != "general.name"}


def test_only_the_vocabulary(tiny_llama: Path, here: Path) -> None:
    assert "tiny-llama-vocab.gguf" in convert(tiny_llama, "--vocab-only", "--dry-run").out
    assert not list(here.iterdir())
    made = json.loads(convert(tiny_llama, "--vocab-only", "--json").out)
    path = here / "tiny-llama-vocab.gguf"
    assert (made["path"], made["size"]) == (path.name, path.stat().st_size)
    convert(tiny_llama, "-o", "whole.gguf")
    assert GGUFFile.open(path).metadata == GGUFFile.open(here / "whole.gguf").metadata
    assert not GGUFFile.open(path).tensors
    lib = library()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    assert model
    assert lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model)) == made_tokens(path)
    lib.llama_model_free(model)


def made_tokens(path: Path) -> int:
    return len(gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents())


def test_splits(tiny_llama: Path, here: Path) -> None:
    convert(tiny_llama, "-o", "whole.gguf")
    convert(tiny_llama, "-o", "cut.gguf", "--split-max-tensors", 8)
    cut, whole = GGUFFile.open(here / "cut-00001-of-00003.gguf"), GGUFFile.open(here / "whole.gguf")
    assert [len(gguf.GGUFReader(path).tensors) for path in cut.paths] == [8, 8, 5]
    assert cut.metadata == whole.metadata
    assert all(cut.data(name).equal(whole.data(name)) for name in whole.tensors)


def test_architectures_can_be_listed() -> None:
    listed = {
        each["architecture"]: each["classes"] for each in json.loads(convert("--list-architectures", "--json").out)
    }
    assert "Qwen3ForCausalLM" in listed["qwen3"]
    assert "qwen3 " in convert("--list-architectures").out


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("--metadata none.json", "none.json cannot be read"),
        ("--metadata bad.json", "bad.json is not JSON"),
        ("--metadata list.json", "list.json holds no keys"),
        ("--metadata unknown.json", "there is no metadata general.autor\n  next: did you mean general.author?"),
        ("--metadata number.json", "general.author must be text, not 3"),
        ("--metadata origin.json", "general.base_models knows no nme"),
        ("--metadata large.json", "general.sampling.top_k cannot be"),
        ("--vocab-only --split-max-size 1M", "a vocabulary cannot be split"),
        ("--split-max-size 0G", "--split-max-size: '0G"),
        ("--outtype Q4_K_M", "convert does not write Q4_K_M"),
        ("-o folder/missing", "is no GGUF file"),
    ],
)
def test_mistakes(line: str, what: str, tiny_llama: Path, here: Path) -> None:
    files = {
        "bad": "{",
        "list": "[]",
        "unknown": '{"general.autor": "me"}',
        "number": '{"general.author": 3}',
        "origin": '{"general.base_models": [{"nme": "x"}]}',
        "large": '{"general.sampling.top_k": 99999999999}',
    }
    for name, text in files.items():
        (here / f"{name}.json").write_text(text)
    before = sorted(here.iterdir())
    outcome = hubquant("convert", str(tiny_llama), *line.split())
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert what in outcome.err
    assert "  next: " in outcome.err
    assert sorted(here.iterdir()) == before
