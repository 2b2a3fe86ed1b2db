"""A model folder as a GGUF file with float32 weights, for the oracle."""

from __future__ import annotations

from pathlib import Path

from hubquant.convert.checkpoint import Checkpoint
from hubquant.convert.conversion import Conversion, plan_conversion, stream
from hubquant.gguf_file import GGUFWriter, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import u32


def write_f32(folder: Path, path: Path) -> Conversion:
    checkpoint = Checkpoint.from_folder(folder)
    conversion = plan_conversion(folder, checkpoint)
    entries = [TensorEntry(recipe.name, recipe.shape, "F32") for recipe in conversion.tensors]
    with GGUFWriter(path, plan_layout(conversion.metadata | {"general.file_type": u32(0)}, entries)) as writer:
        for name, x in stream(conversion, checkpoint):
            writer.write(name, x.float())
        writer.finish()
    return conversion
