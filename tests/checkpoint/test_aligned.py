"""Files whose tensors begin where kernels want them hold the same tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hubquant.checkpoint.aligned import LINE, align


def test_tensors_of_whole_lines_begin_at_lines(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {
        "a.scale": torch.tensor(0.5),
        "b.weight": torch.arange(4 * LINE, dtype=torch.int8).view(4, LINE),
        "c.bias": torch.arange(3).bfloat16(),
        "d.weight": torch.arange(LINE, dtype=torch.float32),
        "e.empty": torch.zeros(0),
    }
    save_file(tensors, path, {"format": "pt"})
    align(path)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], x) and found[name].dtype == x.dtype for name, x in tensors.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    for name in ("b.weight", "d.weight"):
        assert (8 + length + header[name]["data_offsets"][0]) % LINE == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
