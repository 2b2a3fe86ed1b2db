"""GPT-OSS as OpenAI published it: experts in MXFP4, which stay in MXFP4."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from hubquant.backends.gguf.files import assign_types
from hubquant.backends.gguf.target import conversion_weights
from hubquant.checkpoint.mxfp4 import RepackMXFP4, UnpackMXFP4
from hubquant.convert.conversion import stream
from hubquant.convert.restore import read_state_dict
from hubquant.errors import CheckpointError
from hubquant.gguf_file import GGUFFile, GGUFWriter, TensorEntry, plan_layout
from hubquant.quants import quantize
from hubquant.recipe.schema import ModelReference, Quantize, Rule
from hubquant.sources.checkpoint import load_folder
from hubquant.sources.open import open_source
from tests.support.cli import hubquant
from tests.support.conversion import Weights, build_uneven, configure, edit_weights, plan

PACKED = ("gate_up_proj", "down_proj")


def random_codes(rows: int, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    codes = torch.randint(0, 256, (4, rows, blocks, 16), generator=generator, dtype=torch.uint8)
    codes[:, :, 0, 2:] = 0x11  # a block of small numbers
    codes[:, 0] = 0  # a row of zeros
    exponents = torch.randint(118, 124, (4, rows, blocks), generator=generator, dtype=torch.uint8)
    return codes, exponents


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    build_uneven(
        "gpt_oss", folder, dtype=torch.bfloat16, hidden_size=64, intermediate_size=96, head_dim=16, num_local_experts=4
    )

    def pack(weights: Weights) -> None:
        for name in [name for name in weights if name.endswith(PACKED)]:
            x = weights.pop(name)  # [experts, in, out]
            weights[f"{name}_blocks"], weights[f"{name}_scales"] = random_codes(x.shape[2], x.shape[1] // 32)

    configure(folder, quantization_config={"quant_method": "mxfp4"})
    return edit_weights(folder, pack)


def test_numbers_are_those_of_transformers() -> None:
    codes, exponents = random_codes(24, 3)
    (found,) = UnpackMXFP4().forward([codes, exponents])
    expected = convert_moe_packed_tensors(codes, exponents, dtype=torch.bfloat16)
    assert torch.equal(found, expected.transpose(1, 2))


def test_packing_again_gives_the_same_numbers() -> None:
    operation = UnpackMXFP4()
    numbers = operation.forward(random_codes(24, 3))
    packed = operation.inverse(numbers)
    assert [x.dtype for x in packed] == [torch.uint8, torch.uint8]
    assert torch.equal(operation.forward(packed)[0], numbers[0])


def test_bytes_are_those_of_the_checkpoint(packed: Path, tmp_path: Path) -> None:
    assert hubquant("quantize", str(packed), "-t", "Q8_0,Q4_0", "-o", str(tmp_path)).code == 0
    stored = load_file(packed / "model.safetensors")
    for path in tmp_path.glob("*.gguf"):
        file = GGUFFile.open(path)
        for layer in range(2):
            experts = f"model.layers.{layer}.mlp.experts."
            down = [stored[f"{experts}down_proj_{part}"] for part in ("blocks", "scales")]
            both = [stored[f"{experts}gate_up_proj_{part}"] for part in ("blocks", "scales")]
            expected = {
                "down": down,
                "gate": [x[:, 0::2] for x in both],
                "up": [x[:, 1::2] for x in both],
            }
            for name, (codes, exponents) in expected.items():
                entry = file.tensors[f"blk.{layer}.ffn_{name}_exps.weight"]
                assert entry.type == "MXFP4"
                blocks = file.data(entry.name).reshape(*exponents.shape, 17)
                assert torch.equal(blocks[..., 0], exponents)
                for i in range(32):  # a byte of the checkpoint holds neighbours, one of a block numbers 16 apart
                    code = codes[..., i // 2] >> 4 if i % 2 else codes[..., i // 2] & 15
                    found = blocks[..., 1 + i % 16] >> 4 if i >= 16 else blocks[..., 1 + i % 16] & 15
                    assert torch.equal(found, code)
        found = dict(read_state_dict(file))
        for name in [name for name in found if name.endswith(PACKED)]:
            numbers = convert_moe_packed_tensors(
                stored[f"{name}_blocks"], stored[f"{name}_scales"], dtype=torch.float32
            )
            assert torch.equal(found[name], numbers)


def test_repacking_can_be_undone() -> None:
    codes, exponents = random_codes(24, 3)
    (blocks,) = RepackMXFP4().forward([codes, exponents])
    assert all(map(torch.equal, RepackMXFP4().inverse([blocks]), (codes, exponents)))


def test_transformers_loads_the_same_numbers(packed: Path) -> None:
    model = load_folder(packed, "cpu")
    stored = load_file(packed / "model.safetensors")
    for name in [name for name, _ in model.named_parameters() if name.endswith(PACKED)]:
        expected = convert_moe_packed_tensors(stored[f"{name}_blocks"], stored[f"{name}_scales"], dtype=torch.float32)
        assert torch.equal(model.get_parameter(name).float(), expected)


def test_a_rule_of_the_recipe_decides_first(packed: Path) -> None:
    weights = conversion_weights(open_source(ModelReference(folder=str(packed))), plan(packed))
    settings = Quantize(types=["Q8_0"], rules=[Rule(match="FFN_DOWN_exps", type="Q4_0")])
    types = assign_types(weights, "Q8_0", settings, has_imatrix=False)
    assert types["blk.0.ffn_down_exps.weight"] == "Q4_0"
    assert types["blk.0.ffn_up_exps.weight"] == "MXFP4"


def test_llama_cpp_computes_with_them(packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from tests.support.llamacpp import LlamaCpp

    source, conversion = open_source(ModelReference(folder=str(packed))), plan(packed)
    weights = conversion_weights(source, conversion)
    types = assign_types(weights, "F32", Quantize(types=["F32"]), has_imatrix=False)
    logits = []
    for name, kept in {"kept": types, "wide": types | dict.fromkeys(weights.quantized, "F32")}.items():
        entries = [TensorEntry(name, shape, kept[name]) for name, shape in weights.shapes.items()]
        with GGUFWriter(tmp_path / name, plan_layout(weights.metadata, entries)) as writer:
            for tensor, x in stream(conversion, source.checkpoint):
                writer.write(tensor, quantize(x.reshape(-1, x.shape[-1]), kept[tensor]))
            writer.finish()
        with LlamaCpp(tmp_path / name) as llama:
            logits.append(llama.logits(list(range(3, 60))))
    # llama.cpp rounds what it multiplies MXFP4 with to 8 bits
    assert np.abs(logits[0] - logits[1]).max() <= 0.05 * np.abs(logits[1]).max()


def test_exponents_that_are_no_numbers(packed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "model"))
    name = "model.layers.0.mlp.experts.down_proj_scales"

    def spoil(weights: Weights) -> None:
        weights[name][0, 0, 0] = 255
        weights[name.replace("scales", "blocks")][0, 0, 0] = 0x77

    edit_weights(folder, spoil)
    source = open_source(ModelReference(folder=str(folder)))
    conversion = plan(folder)
    for wanted in (None, {name: {"MXFP4"} for name in conversion.shapes}):
        with pytest.raises(CheckpointError, match=r"down_proj_blocks holds .* NaN or infinite"):
            list(stream(conversion, source.checkpoint, wanted))


def test_widths_must_fill_blocks(packed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "model"))
    configure(folder, intermediate_size=72)
    with pytest.raises(CheckpointError, match=r"intermediate_size .* is 72"):
        plan(folder)
