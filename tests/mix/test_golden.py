"""Every choice of llama.cpp recorded in golden/: each tensor of each file type, those at the default type included.

Norms and biases that a model has beyond tests/support/tensor_lists.py are left out: they are never quantized and count
in no rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from hubquant.mix import FTYPES, assign
from hubquant.mix.storage import kept
from tests.support.tensor_lists import Shapes, deepseek_v3, dense, glm4_moe

GOLDEN = Path(__file__).parent / "golden"
ARCHITECTURES = {
    "deepseek-v3.1": ("deepseek2", lambda _: deepseek_v3()),
    "gemma-3-4b-it": ("gemma3", lambda h: dense(**h, head_dim=256, tied=True)),
    "glm-4.6v": ("glm4moe", lambda _: glm4_moe()),
    "meta-llama-3.1-70b-instruct": ("llama", lambda h: dense(**h, head_dim=128)),
    "qwen3-0.6b": ("qwen3", lambda h: dense(**h, head_dim=128)),
    "qwen3-14b": ("qwen3", lambda h: dense(**h, head_dim=128)),
}


@dataclass(frozen=True)
class Golden:
    architecture: str
    hparams: dict[str, int]
    tensors: Shapes
    sections: dict[str, tuple[str, dict[str, str]]]


def read(model: str) -> Golden:
    text = (GOLDEN / f"{model}.schema").read_text()
    hparams = {name: int(value) for name, value in re.findall(r"(n_\w+)=(\d+)", text)}
    architecture, build = ARCHITECTURES[model]
    sections = {}
    for body in re.split(r"^\[", text, flags=re.MULTILINE)[1:]:
        head, *lines = [line for line in body.splitlines() if line]
        ftype, default = head.split("] ")
        sections[ftype] = (default.upper(), {name: type.upper() for name, type in map(str.split, lines)})
    return Golden(architecture, hparams, build(hparams), sections)


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_every_tensor_of_every_file_type_is_as_llama_cpp_has_it(model: str) -> None:
    golden = read(model)
    assert set(golden.sections) >= set(FTYPES) - {"NVFP4", "Q1_0", "Q2_0", "Q3_K_HIFI"}
    quantized = {name for name, shape in golden.tensors.items() if not kept(name, shape)}
    for ftype, (default, exceptions) in golden.sections.items():
        assert FTYPES[ftype].default == default
        types = assign(golden.tensors, ftype, golden.architecture, golden.hparams, has_imatrix=False)
        assert set(exceptions) <= quantized, "the tensor list lacks names of the golden file"
        assert {name: types[name] for name in quantized} == {
            name: exceptions.get(name, default) for name in quantized
        }, ftype


def test_all_golden_files_are_read() -> None:
    assert {path.stem for path in GOLDEN.glob("*.schema")} == set(ARCHITECTURES)
