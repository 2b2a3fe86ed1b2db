"""The header as gguf_dump.py of the gguf package shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from hubquant.gguf_file.copying import write_files
from hubquant.gguf_file.dump import Dump
from hubquant.gguf_file.splitting import Limit, split
from hubquant.gguf_file.stored import read_model
from tests.support.gguf_bytes import BOOL, STRING, Tensor, array, file_bytes, text, value


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("a name with a ` in it")
    writer.add_description("é" * 61)
    writer.add_float32("a.f32", 1e-5)
    writer.add_float64("a.f64", 1e-5)
    writer.add_uint64("a.u64", 2**63)
    writer.add_bool("a.bool", True)
    writer.add_array("a.texts", ["x" * 31, "`", "y", "z", "", "last"])
    writer.add_array("a.numbers", list(range(8)))
    writer.add_array("a.floats", [0.1, 0.2])
    for name, shape in (
        ("token_embd.weight", (3, 400, 2)),
        ("blk.0.attn_q.weight", (64, 64)),
        ("blk.0.attn_q.bias", (64,)),
        ("blk.1.ffn_gate_inp.weight", (4, 8)),
        ("enc.blk.0.attn_k.weight", (2, 32)),
        ("enc.output_norm.weight", (1200,)),
    ):
        writer.add_tensor(name, np.zeros(shape, np.float32))
    data = np.zeros((2, 144), np.uint8)
    writer.add_tensor("blk.1.ffn_up.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def theirs(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "gguf.scripts.gguf_dump", *arguments], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("tensors", [True, False])
def test_markdown_is_gguf_dumps(model: Path, tensors: bool) -> None:
    expected = theirs("--markdown", *([] if tensors else ["--no-tensors"]), str(model))
    assert Dump(str(model), read_model(model)).as_markdown(tensors=tensors) + "\n" == expected


def test_text_is_gguf_dumps_but_for_the_machine(model: Path) -> None:
    expected = theirs(str(model)).splitlines()[1:]
    assert Dump(str(model), read_model(model)).as_text(tensors=True).splitlines()[1:] == expected


def test_shards_are_one_model(model: Path, tmp_path: Path) -> None:
    shards = split(read_model(model), Limit(max_tensors=3))
    paths = [tmp_path / f"s-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    write_files(dict(zip(paths, shards, strict=True)))
    found = Dump("s", read_model(paths[0])).as_dict(tensors=True)
    assert found["metadata"]["GGUF.tensor_count"]["value"] == 7
    assert [each["file"] for each in found["tensors"]] == [paths[i // 3].name for i in range(7)]
    assert found["metadata"]["a.numbers"] == {"type": "[INT32]", "value": list(range(8))}


def test_what_nobody_understands_is_shown_as_far_as_it_can_be(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    metadata = {
        "a": array(9, [value(BOOL, bytes(8)), value(STRING, bytes(8))]),
        "b": value(STRING, text(b"\xff")),
        "c": value(STRING, text(b"a | b\n`c`\x1b[2J")),
    }
    path.write_bytes(file_bytes(metadata, [Tensor("blk", (3,), 999, bytes(32)), Tensor("dec", (1,), 0, bytes(4))]))
    dump = Dump("a.gguf", read_model(path))
    assert dump.as_dict(tensors=False)["metadata"]["a"] == {"type": "UNKNOWN", "value": None}
    text_, markdown = dump.as_text(tensors=True), dump.as_markdown(tensors=True)
    assert "type 999" in text_
    assert "type 999" in markdown
    assert r"`` a \| b\n`c`\x1b[2J ``" not in markdown  # the text does not end with a backtick
    assert r"``a \| b\n`c`\x1b[2J``" in markdown
    assert "\x1b" not in text_ + markdown
