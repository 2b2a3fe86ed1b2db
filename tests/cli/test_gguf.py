"""``hubquant gguf``: what llama.cpp makes of its files, and what it does with mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hubquant.gguf_file import GGUFFile
from hubquant.gguf_file.copying import lay_out, write_files
from hubquant.gguf_file.known_types import check_loads
from hubquant.gguf_file.stored import read_model, read_stored
from tests.support.cli import Outcome, hubquant
from tests.support.gguf_bytes import STRING, U32, Tensor, file_bytes, text, value, write_sample
from tests.support.llamacpp import LlamaCpp

TEXT = "Half a year"


def gguf(*words: str | Path) -> Outcome:
    return hubquant("gguf", *map(str, words))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "model-0.1.gguf"
    assert hubquant("convert", str(tiny_llama), "-t", "F16", "-o", str(out)).code == 0
    return out


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """Of this test alone."""
    return Path(shutil.copyfile(model, tmp_path / "m.gguf"))


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return write_sample(tmp_path / "sample.gguf")


def test_llama_cpp_loads_shards_and_gives_the_same_logits(model: Path, tmp_path: Path) -> None:
    assert gguf("split", model, "-o", tmp_path / "s", "--split-max-tensors", "7", "--no-tensor-first-split").code == 0
    with LlamaCpp(model) as llama:
        ids = llama.tokenize(TEXT)
        expected = llama.logits(ids)
    with LlamaCpp(sorted(tmp_path.iterdir())[0]) as llama:
        assert llama.tokenize(TEXT) == ids
        assert (llama.logits(ids) == expected).all()


@pytest.mark.parametrize("alignment", [64, 4096])  # less than 32 it cannot map
def test_llama_cpp_loads_other_alignments(alignment: int, model: Path, tmp_path: Path) -> None:
    [file] = read_model(model)
    metadata = {**file.metadata, "general.alignment": value(U32, alignment.to_bytes(4, "little"))}
    whole = tmp_path / "whole.gguf"
    write_files({whole: lay_out(3, metadata, file.tensors, alignment)})
    assert gguf("split", whole, "-o", tmp_path / "s", "--split-max-tensors", "7").code == 0
    assert gguf("merge", *tmp_path.glob("s-00001-*"), "-o", tmp_path / "merged.gguf").code == 0
    assert gguf("set", tmp_path / "merged.gguf", "general.name", "a longer name than before", "--in-place").code == 0
    with LlamaCpp(model) as llama:
        ids = llama.tokenize(TEXT)
        expected = llama.logits(ids)
    for path in (*tmp_path.glob("s-00001-*"), tmp_path / "merged.gguf"):
        with LlamaCpp(path) as llama:
            assert (llama.logits(ids) == expected).all()


def test_split_and_merged_it_is_the_same_file(model: Path, tmp_path: Path) -> None:
    planned = gguf("split", model, "-o", tmp_path / "a-0.1", "--split-max-size", "1M", "--dry-run", "--json")
    assert names(tmp_path) == []
    made = gguf("split", model, "-o", tmp_path / "a-0.1.gguf", "--split-max-size", "1M", "--json")
    assert made.out == planned.out
    shards = json.loads(made.out)
    assert [Path(each["path"]).name for each in shards] == [
        f"a-0.1-{n:05d}-of-{len(shards):05d}.gguf" for n in range(1, len(shards) + 1)
    ]
    assert [Path(each["path"]).stat().st_size for each in shards] == [each["size"] for each in shards]
    assert gguf("merge", shards[0]["path"], "-o", tmp_path / "b.gguf").code == 0
    assert (tmp_path / "b.gguf").read_bytes() == model.read_bytes()


def test_sizes_are_llama_gguf_splits_and_ours(sample: Path, tmp_path: Path) -> None:
    for size in ("1M", "1G", "1GiB", "2.5MB"):
        outcome = gguf("split", sample, "-o", tmp_path / "s", "--split-max-size", size, "--dry-run")
        assert outcome.out.startswith(f"{tmp_path / 's'}-00001-of-00001.gguf  10 tensors")
    for size in ("0M", "12", "M", "-1G", "1X"):
        outcome = gguf("split", sample, "-o", tmp_path / "s", f"--split-max-size={size}")
        assert (outcome.code, outcome.is_one_message()) == (2, True), size
    both = gguf("split", sample, "-o", tmp_path / "s", "--split-max-size", "1M", "--split-max-tensors", "2")
    assert both.code == 2
    assert "contradict each other" in both.err
    assert names(tmp_path) == ["sample.gguf"]


def test_what_is_not_ours_is_not_replaced(sample: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_text("mine")
    (tmp_path / "s-00001-of-00003.gguf").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for words in (
        ("split", sample, "-o", tmp_path / "s", "--split-max-tensors", "4"),
        ("set", sample, "general.name", "x", "-o", mine),
        ("set", sample, "general.name", "x", "-o", sample),
        ("set", sample, "general.name", "x", "-o", tmp_path),
    ):
        outcome = gguf(*words)
        assert (outcome.code, outcome.is_one_message()) == (2, True), words
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_with_unknown_types_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(file_bytes({}, [Tensor("a", (3,), 999, bytes(32))]))
    for word in ("x", "y"):
        assert gguf("set", path, "general.name", word, "-o", tmp_path / "b.gguf").code == 0
    assert read_stored(tmp_path / "b.gguf").tensors[0].nbytes == 32


def test_merging_onto_a_shard_is_refused(sample: Path, tmp_path: Path) -> None:
    assert gguf("split", sample, "-o", tmp_path / "s", "--split-max-tensors", "4").code == 0
    outcome = gguf("merge", tmp_path / "s-00001-of-00003.gguf", "-o", tmp_path / "s-00002-of-00003.gguf")
    assert outcome.code == 2
    assert "would be written over" in outcome.err
    whole = gguf("merge", tmp_path / "sample.gguf", "-o", tmp_path / "b.gguf")
    assert whole.code == 0  # as llama-gguf-split left a split.count there


def test_set_and_unset_in_place(copy: Path) -> None:
    before = copy.read_bytes()
    neither, both = gguf("set", copy, "a", "x"), gguf("set", copy, "a", "x", "-o", "b.gguf", "--in-place")
    assert "give -o FILE.gguf, or --in-place" in neither.err
    assert "contradict each other" in both.err
    planned = gguf("set", copy, "general.author", "Jane", "--in-place", "--dry-run")
    assert copy.read_bytes() == before
    done = gguf("set", copy, "general.author", "Jane", "--in-place")
    assert done.out == planned.out
    assert done.out.startswith("general.author: nothing → 'Jane'\n")
    assert GGUFFile.open(copy).metadata["general.author"].value == "Jane"
    gone = json.loads(gguf("unset", copy, "general.author", "--in-place", "--json").out)
    assert gone["changes"] == [{"key": "general.author", "before": "Jane", "after": None}]
    assert copy.read_bytes() == before


def test_in_place_does_not_change_what_links_to_the_file(copy: Path, tmp_path: Path) -> None:
    """The store links what it keeps into outputs, and the Hub's cache links names to contents."""
    before = copy.read_bytes()
    hard, soft = tmp_path / "hard.gguf", tmp_path / "soft.gguf"
    hard.hardlink_to(copy)
    soft.symlink_to(copy)
    assert gguf("set", hard, "general.name", "x", "--in-place").code == 0
    assert gguf("set", soft, "general.name", "y", "--in-place").code == 0
    assert copy.read_bytes() == before
    assert [GGUFFile.open(path).metadata["general.name"].value for path in (hard, soft)] == ["x", "y"]


def test_values_keep_the_type_that_the_key_has(copy: Path) -> None:
    key = "llama.context_length"
    before = GGUFFile.open(copy).metadata[key]
    assert gguf("set", copy, key, "77", "--in-place").code == 0
    after = GGUFFile.open(copy).metadata[key]
    assert (after.value, after.type) == (77, before.type)
    assert "is a whole number" in gguf("set", copy, key, "many", "--in-place").err
    assert "add --type" in gguf("set", copy, "llama.new", "5", "--in-place").err
    assert gguf("set", copy, "llama.new", "--type", "float32", "--in-place", "--", "-5").code == 0
    assert GGUFFile.open(copy).metadata["llama.new"].value == -5.0
    assert "did you mean llama.new?" in gguf("unset", copy, "llama.nwe", "--in-place").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("general.architecture 5 --type uint32", "general.architecture cannot be uint32: llama.cpp reads string"),
        ("tokenizer.ggml.tokens x --type string", "tokenizer.ggml.tokens cannot be string: llama.cpp reads [string]"),
        ('tokenizer.ggml.tokens ["a","b"]', "tokenizer.ggml.tokens has 2 values, and the file "),
        ("tokenizer.ggml.bos_token_id 1 --type int32", "llama.cpp reads uint32"),
        ("llama.rope.freq_base 1 --type uint32", "llama.cpp reads float32"),
    ],
)
def test_what_llama_cpp_would_not_load_is_not_written(words: str, said: str, copy: Path) -> None:
    before = copy.read_bytes()
    outcome = gguf("set", copy, *words.split(), "--in-place")
    assert outcome.is_one_message()
    assert said in outcome.err
    assert copy.read_bytes() == before


def test_what_we_write_has_the_types_that_llama_cpp_reads(copy: Path) -> None:
    metadata = GGUFFile.open(copy).metadata
    tokens = metadata["tokenizer.ggml.tokens"].value
    assert isinstance(tokens, tuple)
    for key, kv in metadata.items():
        check_loads(key, kv, len(tokens))


def test_the_first_shard_has_the_metadata(sample: Path, tmp_path: Path) -> None:
    assert gguf("split", sample, "-o", tmp_path / "s", "--split-max-tensors", "4").code == 0
    first, second = (tmp_path / f"s-0000{n}-of-00003.gguf" for n in (1, 2))
    assert "is not the first shard" in gguf("set", second, "general.name", "x", "--in-place").err
    assert "the others would not be found" in gguf("set", first, "general.name", "x", "-o", tmp_path / "x.gguf").err
    assert gguf("set", first, "general.name", "x", "--in-place").code == 0
    assert GGUFFile.open(second).metadata["general.name"].value == "x"


def test_new_metadata(model: Path, tmp_path: Path) -> None:
    out, template = tmp_path / "new.gguf", tmp_path / "chat.jinja"
    template.write_text("{{ messages }}", "utf-8")
    tokens = GGUFFile.open(model).metadata["tokenizer.ggml.tokens"].value
    assert isinstance(tokens, tuple)
    flags = ("--general-name", "A", "--general-description", "B", "--chat-template-file", str(template))
    special = ("--special-token", f"eot={tokens[5]}", "--special-token-by-id", "pad=3")
    wrong = gguf("new-metadata", model, "-o", out, *flags, *special)
    assert "there is no special token 'pad'" in wrong.err
    special = ("--special-token", f"eot={tokens[5]}", "--special-token-by-id", "padding=3")
    other = ("--set", "general.author=C", "--remove-metadata", "general.file_type", "--pre-tokenizer", "qwen2")
    assert gguf("new-metadata", model, "-o", out, *flags, *special, *other).code == 0
    made = GGUFFile.open(out).metadata
    assert {key: made[key].value for key in made if made[key] != GGUFFile.open(model).metadata.get(key)} == {
        "general.name": "A",
        "general.description": "B",
        "general.author": "C",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.ggml.eot_token_id": 5,
        "tokenizer.ggml.padding_token_id": 3,
    }
    assert "general.file_type" not in made
    assert gguf("hash", out, "--no-layer").out.split()[1] == gguf("hash", model, "--no-layer").out.split()[1]


def test_several_chat_templates(sample: Path, tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"
    templates = [{"name": "default", "template": "D"}, {"name": "tool use", "template": "T"}]
    config.write_text(json.dumps({"chat_template": templates}), "utf-8")
    assert gguf("new-metadata", sample, "-o", tmp_path / "a.gguf", "--chat-template-config", config).code == 0
    made = GGUFFile.open(tmp_path / "a.gguf").metadata
    assert {key: kv.value for key, kv in made.items() if key.startswith("tokenizer.")} == {
        "tokenizer.chat_templates": ("tool_use",),
        "tokenizer.chat_template": "D",
        "tokenizer.chat_template.tool_use": "T",
    }
    given = ("--chat-template", json.dumps(templates[:1]))
    assert gguf("new-metadata", tmp_path / "a.gguf", "--in-place", *given).code == 0
    made = GGUFFile.open(tmp_path / "a.gguf").metadata
    assert [key for key in made if key.startswith("tokenizer.")] == ["tokenizer.chat_template"]
    assert "give one of the" in gguf("new-metadata", sample, "--in-place", *given, "--chat-template-file", config).err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("new-metadata {} --in-place", "nothing says what to change"),
        ("new-metadata {} --in-place --special-token eos=absent", "is no token"),
        ("new-metadata {} --in-place --special-token eos", "write --special-token eos=TOKEN"),
        ("new-metadata {} --in-place --special-token-by-id eos=9", "has 0 tokens"),
        ("new-metadata {} --in-place --set general.name", "is no value of a key"),
        ("new-metadata {} --in-place --chat-template [1", "is not JSON"),
        ("new-metadata {} --in-place --chat-template [1]", "no name or no text"),
        ("new-metadata {} --in-place --chat-template-file absent.jinja", "cannot be read"),
        ("new-metadata {} --in-place --chat-template-config {}", "cannot be read"),
        ("set {} general.alignment 64 --in-place", "cannot be changed"),
        ("set {} split.count 3 --in-place", "cannot be changed"),
        ("set {} a.u8 256 --in-place", "a.u8 cannot be 256: it is a number from 0 to 255"),
        ("unset {} a.u88 --in-place", "did you mean a.u8?"),
        ("hash {} --check absent", "cannot be read"),
        ("hash absent.gguf", "cannot be read"),
    ],
)
def test_mistakes(words: str, said: str, sample: Path) -> None:
    before = sample.read_bytes()
    outcome = gguf(*words.replace("{}", str(sample)).split())
    assert (outcome.code, outcome.out, outcome.is_one_message()) == (2, "", True)
    assert said in outcome.err
    assert sample.read_bytes() == before


def test_hashes_and_manifests(sample: Path, tmp_path: Path) -> None:
    printed = gguf("hash", sample, "--all", "--uuid").out
    assert printed.splitlines()[-1] == f"uuid      6c6f0e49-dbd7-5f44-88fa-41a2885e2d00  {sample}"
    manifest = tmp_path / "manifest"
    manifest.write_text(printed, "utf-8")
    checked = gguf("hash", sample, "--check", manifest)
    assert (checked.code, checked.out.count("sha256"), checked.out.count("  -  Ok\n")) == (0, 11, 11)
    moved = tmp_path / "moved"
    moved.mkdir()
    moved = sample.rename(moved / "sample.gguf")
    assert gguf("hash", moved, "--check", manifest, "--xxh64").code == 0
    content = bytearray(moved.read_bytes())
    content[-300] ^= 1
    moved.write_bytes(content)
    damaged = gguf("hash", moved, "-c", manifest, "--json")
    assert damaged.code == 1
    wrong = [each["tensor"] for each in json.loads(damaged.out)["digests"] if each["digest"] != each["expected"]]
    assert len(wrong) == 2
    assert wrong[-1] is None
    other = moved.rename(tmp_path / "other.gguf")
    assert "says nothing of" in gguf("hash", other, "-c", manifest).err
    (tmp_path / "none").write_text("no hash\n", "utf-8")
    assert "is no manifest" in gguf("hash", other, "-c", tmp_path / "none").err


def test_shards_have_the_digests_of_the_model(sample: Path, tmp_path: Path) -> None:
    assert gguf("split", sample, "-o", tmp_path / "s", "--split-max-tensors", "4").code == 0
    whole = json.loads(gguf("hash", sample, "--json").out)
    assert json.loads(gguf("hash", tmp_path / "s-00001-of-00003.gguf", "--json").out) == whole


def test_names_that_no_terminal_should_be_given(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    metadata = {"general.name": value(STRING, text(b"\x1b[31mred"))}
    path.write_bytes(file_bytes(metadata, [Tensor("a\x1b[2J", (1,), 0, bytes(4))]))
    for outcome in (gguf("hash", path), gguf("unset", path, "general.name", "--in-place")):
        assert outcome.code == 0
        assert "\x1b" not in outcome.out
