from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from transformers.modeling_utils import _get_resolved_checkpoint_files

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.headers import TensorInfo, read_header
from hubquant.checkpoint.weight_files import local_files, weight_files
from hubquant.errors import CheckpointError, HubquantError

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "U8": torch.uint8}


def parse(data: bytes) -> dict[str, TensorInfo]:
    return read_header(lambda begin, end: data[begin:end], "model.safetensors", len(data))


def packed(header: Any, data: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(begin: int, end: int, dtype: Any = "U8", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


shapes = st.lists(st.integers(0, 4), max_size=3)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda name: name != "__metadata__")


@given(st.dictionaries(names, st.tuples(st.sampled_from(list(DTYPES)), shapes), max_size=6))
def test_reads_what_safetensors_writes(wanted: dict[str, tuple[str, list[int]]]) -> None:
    tensors = {name: torch.randint(0, 100, shape).to(DTYPES[dtype]) for name, (dtype, shape) in wanted.items()}
    data = save(tensors, metadata={"format": "pt"})
    found = parse(data)
    assert {name: (info.dtype, list(info.shape)) for name, info in found.items()} == wanted
    for name, info in found.items():
        assert data[info.begin : info.end] == tensors[name].view(-1).view(torch.uint8).numpy().tobytes()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4"]) | json_values,
        "shape": st.lists(st.integers(-2, 5), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-2, 40), min_size=1, max_size=3) | json_values,
    }
)


@settings(max_examples=300)
@given(st.dictionaries(st.text(max_size=5), entries | json_values, max_size=3) | json_values, st.binary(max_size=40))
def test_any_header_is_sound_or_refused(header: Any, data: bytes) -> None:
    file = packed(header, data)
    try:
        found = parse(file)
    except CheckpointError:
        return
    spans = sorted((info.begin, info.end) for info in found.values())
    assert sum(end - begin for begin, end in spans) == len(data)
    assert all(len(file) - len(data) <= begin <= end <= len(file) for begin, end in spans)


@given(st.binary(max_size=64))
def test_any_bytes_are_refused_or_empty(data: bytes) -> None:
    with suppress(CheckpointError):
        assert parse(data) == {}


HOSTILE = {
    "shorter than a length": (b"\1\0\0", "3 bytes"),
    "longer than the file": ((1 << 20).to_bytes(8, "little") + b"{}", "1,048,576 bytes"),
    "longer than any header": ((1 << 62).to_bytes(8, "little") + b"{}", "more than the format's"),
    "not JSON": (packed(b"{'a'}", b""), "not sound JSON"),
    "not UTF-8": (packed(b'{"\xff": 1}', b""), "not UTF-8"),
    "nested without end": (packed(b"[" * 200_000, b""), "nested too deeply"),
    "a list": (packed([], b""), "not a table"),
    "a repeated name": (packed(b'{"a": {}, "a": {}}', b""), "a is there twice"),
    "an entry without dtype": (packed({"a": {"shape": [1], "data_offsets": [0, 1]}}, b"x"), "no dtype"),
    "an unknown dtype": (packed({"a": entry(0, 1, "F12")}, b"x"), "unknown dtype 'F12'"),
    "a negative size": (packed({"a": entry(0, 1, shape=[-1, -1])}, b"x"), "not a list of sizes"),
    "a huge size": (packed({"a": entry(0, 1, shape=[1 << 70])}, b"x"), "not a list of sizes"),
    "a huge product": (packed({"a": entry(0, 1, shape=[1 << 62] * 8)}, b"x"), "takes 1 bytes"),
    "a boolean size": (packed({"a": entry(0, 1, shape=[True])}, b"x"), "not a list of sizes"),
    "offsets that go back": (packed({"a": entry(1, 0, shape=[1])}, b"x"), "not [begin, end]"),
    "bytes that do not fit": (packed({"a": entry(0, 4, "F32", [2])}, b"1234"), "takes 4 bytes, which is not F32 [2]"),
    "a tensor beyond the end": (packed({"a": entry(0, 8)}, b"1234"), "ends at byte"),
    "an overlap": (packed({"a": entry(0, 3), "b": entry(2, 4)}, b"1234"), "a and b overlap"),
    "a hole": (packed({"a": entry(0, 1), "b": entry(2, 4)}, b"1234"), "owns the 1 bytes after a"),
    "a hole at the start": (packed({"a": entry(1, 4)}, b"1234"), "after the header"),
    "bytes without owner": (packed({"a": entry(0, 3)}, b"1234"), "the last 1 bytes"),
    "control characters": (packed({"\x1b[2J": entry(0, 3, "F12")}, b"123"), r"'\x1b[2J'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_named(case: str) -> None:
    data, reason = HOSTILE[case]
    with pytest.raises(CheckpointError) as caught:
        parse(data)
    assert reason in str(caught.value)
    assert str(caught.value).startswith("model.safetensors is not a sound safetensors file")
    assert caught.value.hint


def test_a_source_that_gives_fewer_bytes() -> None:
    data = save({"a": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_header(lambda begin, end: data[begin : end - 1], "model.safetensors", len(data))


def test_the_header_alone_is_read() -> None:
    data = save({"a": torch.zeros(1000)})
    furthest = 0

    def read_range(begin: int, end: int) -> bytes:
        nonlocal furthest
        furthest = max(furthest, end)
        return data[begin:end]

    (info,) = read_header(read_range, "model.safetensors", len(data)).values()
    assert furthest == info.begin == len(data) - 4000


def sharded(folder: Path, change: Callable[[dict[str, str]], object] = lambda _: None) -> Path:
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}, folder / "model-1.safetensors")
    save_file({"c": torch.zeros(0, 4, dtype=torch.bfloat16)}, folder / "model-2.safetensors")
    index = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    change(index)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text("{}")
    return folder


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    checkpoint = Checkpoint.from_folder(sharded(tmp_path))
    assert list(checkpoint.tensors) == ["a", "b", "c"]
    assert torch.equal(checkpoint.read("a"), torch.arange(6.0).view(2, 3))
    assert checkpoint.read("c").shape == (0, 4)
    assert checkpoint.read("c").dtype == torch.bfloat16


def test_headers_from_elsewhere_give_the_same_checkpoint(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    headers = {}
    for file in ("model-1.safetensors", "model-2.safetensors"):
        data = (folder / file).read_bytes()
        headers[file] = read_header(lambda begin, end, data=data: data[begin:end], file, len(data))
    remote = Checkpoint.from_headers(folder, weight_files(folder, local_files(folder)), headers)
    assert remote.tensors == Checkpoint.from_folder(folder).tensors
    with pytest.raises(CheckpointError, match="not on this machine"):
        remote.read("a")
    assert torch.equal(remote.with_folder(folder).read("b"), torch.ones(2))


INDEXES: dict[str, tuple[Callable[[dict[str, str]], object], str]] = {
    "missing shard": (lambda index: index.update(d="model-3.safetensors"), "1 of 3 weight files are missing: model-3"),
    "path outside": (lambda index: index.update(a="../secret.safetensors"), "names ../secret.safetensors"),
    "not safetensors": (lambda index: index.update(a="weights.bin"), "names weights.bin"),
    "nothing": (lambda index: index.clear(), "no weight_map"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_wrong_indexes_are_named(case: str, tmp_path: Path) -> None:
    change, reason = INDEXES[case]
    with pytest.raises(CheckpointError, match=reason):
        Checkpoint.from_folder(sharded(tmp_path, change))


def test_which_tensors_there_are_is_told_by_the_files(tmp_path: Path) -> None:
    listed = sharded(tmp_path, lambda index: index.update(a="model-2.safetensors", d="model-1.safetensors"))
    assert Checkpoint.from_folder(listed).tensors.keys() == {"a", "b", "c"}


def test_an_index_may_name_files_from_its_folder(tmp_path: Path) -> None:
    listed = sharded(tmp_path, lambda index: index.update({name: f"./{file}" for name, file in index.items()}))
    assert Checkpoint.from_folder(listed).tensors.keys() == {"a", "b", "c"}


def test_of_a_name_in_two_shards_the_later_one_counts(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    save_file({"a": torch.full((1,), 7.0), "c": torch.zeros(1)}, folder / "model-2.safetensors")
    checkpoint = Checkpoint.from_folder(folder)
    assert checkpoint.read("a").tolist() == [7.0]
    assert checkpoint.notes == ("1 tensor is in two files, and the later one is read: a",)


def test_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickled weights only.*pytorch_model.bin"):
        Checkpoint.from_folder(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        Checkpoint.from_folder(tmp_path)


CONFIGS = {
    "none": (None, "there is no config.json"),
    "corrupt": (b'{"hidden_size": ', "config.json is not sound JSON"),
    "binary": (b"\xff\xfe\0", "not UTF-8"),
    "list": (b"[1]", "does not hold a table"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_wrong_configs_are_named(case: str, tmp_path: Path) -> None:
    raw, reason = CONFIGS[case]
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    if raw is not None:
        (tmp_path / "config.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=reason):
        Checkpoint.from_folder(tmp_path)


def test_a_file_cut_after_planning(tmp_path: Path) -> None:
    checkpoint = Checkpoint.from_folder(sharded(tmp_path))
    path = tmp_path / "model-1.safetensors"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors ends inside tensor"):
        [checkpoint.read(name) for name in ("a", "b")]


FOLDERS: dict[str, tuple[list[str], str, str]] = {
    "adapter": (
        ["adapter_config.json", "adapter_model.safetensors"],
        "an adapter, not a model",
        r"for one model of both add --set model\.merge=org/base",
    ),
    "adapter beside a config": (
        ["config.json", "tokenizer.json", "adapter_config.json", "adapter_model.bin"],
        "an adapter, not a model",
        r"model\.merge=org/base",
    ),
    "shards alone": (
        ["config.json", "model-00001-of-00002.safetensors"],
        r"no model\.safetensors\.index\.json, and model-00002-of-00002\.safetensors are missing",
        "get what is missing",
    ),
    "all shards": (
        ["config.json", "model-00001-of-00001.safetensors"],
        r"no model\.safetensors\.index\.json: ",
        "get what is missing",
    ),
    "another name": (
        ["config.json", "llama.safetensors"],
        r"look for llama\.safetensors",
        r"name it model\.safetensors",
    ),
    "Mistral's own": (
        ["consolidated.safetensors", "tekken.json"],
        r"there is no params\.json .* Mistral's own format",
        "get it from where the model comes from",
    ),
    "GGUF": (["config.json", "tiny-Q8_0.gguf", "README.md"], "GGUF files and no safetensors", r"tiny-Q8_0\.gguf"),
    "pickles": (
        ["config.json", "pytorch_model.bin"],
        r"pickled weights only: pytorch_model\.bin",
        "safetensors/convert",
    ),
    "a folder below": (["out/config.json", "out/model.safetensors"], "the model lies below it: out", "name .*/out$"),
    "a cached repository": (
        ["refs/main", "snapshots/0af1/config.json", "snapshots/0af1/model.safetensors"],
        "the model lies below it: snapshots/0af1",
        "name .*/snapshots/0af1$",
    ),
    "weights below": (["config.json", "fp16/model.safetensors"], "fp16/model.safetensors", "into one folder"),
    "a pipeline": (["model_index.json", "unet/config.json"], "diffusers models", "text-generation model"),
    "nothing": (["config.json", "tokenizer.json"], r"no model\.safetensors$", "check that"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_without_weights_that_transformers_reads(case: str, tmp_path: Path) -> None:
    files, message, hint = FOLDERS[case]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = '{"base_model_name_or_path": "org/base"}' if name == "adapter_config.json" else "{}"
        (tmp_path / name).write_text(text)
    with pytest.raises(HubquantError, match=message) as caught:
        Checkpoint.from_folder(tmp_path)
    assert re.search(hint, str(caught.value.hint))


def test_the_files_are_those_that_transformers_takes(tmp_path: Path) -> None:
    """``_get_resolved_checkpoint_files`` decides there."""
    folder, found = sharded(tmp_path), []
    (folder / "pytorch_model.bin").write_bytes(b"")
    (folder / "other.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"c": "model-2.safetensors"}})
    )

    def same(explicit: str | None = None) -> None:
        (folder / "config.json").write_text(json.dumps({"transformers_weights": explicit}))
        theirs, _ = _get_resolved_checkpoint_files(folder, None, None, True, None, False, explicit)
        ours = weight_files(folder, local_files(folder)).names
        assert [str(folder / name) for name in ours] == theirs
        found.append(ours)

    same()
    same("other.safetensors.index.json")
    same("model-1.safetensors")
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    same()
    same("model-1.safetensors")
    both = ("model-1.safetensors", "model-2.safetensors")
    assert found == [both, both[1:], both[:1], ("model.safetensors",), both[:1]]


def test_what_lies_beside_the_model_is_noted(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text("not even JSON")
    (folder / "adapter_config.json").write_text("{}")
    (note, adapter) = Checkpoint.from_folder(folder).notes
    assert note == "as transformers does, model.safetensors is read, and not what model.safetensors.index.json lists"
    assert "the adapter beside it is not applied" in adapter


@pytest.mark.parametrize(
    "explicit", ["../model.safetensors", "/model.safetensors", "weights.bin", 1, "none.safetensors"]
)
def test_explicit_files_that_are_not_there(explicit: object, tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    (folder / "config.json").write_text(json.dumps({"transformers_weights": explicit}))
    with pytest.raises(CheckpointError, match=r"transformers_weights in config\.json"):
        Checkpoint.from_folder(folder)


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(pointer)
    with pytest.raises(CheckpointError, match="a pointer of Git LFS"):
        Checkpoint.from_folder(tmp_path)
