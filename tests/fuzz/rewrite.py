"""A GGUF file with sound structure and other contents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np

from hubquant.errors import GGUFError
from hubquant.gguf_file import GGUFFile, GGUFWriter, plan_layout
from hubquant.gguf_file.metadata import KV, Metadata, f32, i32, string, strings, u32

ODD = (
    string(""), string("x"), string("llama"), string("a" * 3000), string("(a+)+$"), string("{{ 1 }}"),
    string("\x1b[2J"), u32(0), u32(1), u32(7), u32(2**32 - 1), i32(-1), f32(0.0), f32(float("nan")), f32(1e38),
    strings([]), strings(["x"] * 384),
)  # fmt: skip


def rewrite_gguf(path: Path, random: Random) -> None:
    """With one to three keys, or a tensor's name or shape, changed. The data of what keeps its size stays."""
    file = GGUFFile.open(path)
    metadata, entries = dict(file.metadata), list(file.tensors.values())
    for _ in range(random.randint(1, 3)):
        _change(metadata, random)
    sources = {entry.name: entry.name for entry in entries}
    if random.random() < 0.3:
        at = random.randrange(len(entries))
        match random.randrange(4):
            case 0:
                sources.pop(entries.pop(at).name)
            case 1:
                entries[at] = replace(entries[at], name=random.choice(("x", "output.weight", "blk.99.ffn_up.weight")))
            case 2:
                entries[at] = replace(entries[at], shape=entries[at].shape[::-1])
            case 3:
                entries[at] = replace(entries[at], type=random.choice(("F32", "F16", "BF16")))
    data = {name: file.data(name).numpy().copy() for name in file.tensors}
    try:
        layout = plan_layout(metadata, entries)
    except GGUFError:
        return
    path.unlink()
    with GGUFWriter(path, layout) as writer:
        for name, entry in layout.tensors.items():
            known = data.get(name)
            same = known is not None and known.nbytes == entry.nbytes
            writer.write(name, known if same and known is not None else np.zeros(entry.nbytes, np.uint8))
        writer.finish()


def _change(metadata: Metadata, random: Random) -> None:
    key = random.choice([key for key in metadata if key != "general.alignment"])
    value = metadata[key].value
    match random.randrange(5):
        case 0:
            del metadata[key]
        case 1 if isinstance(value, tuple):
            cut = value[: random.randrange(len(value) + 1)]
            metadata[key] = replace(metadata[key], value=cut)
        case 2:
            metadata[key] = metadata[random.choice(list(metadata))]
        case 3 if isinstance(value, tuple) and value:
            at = random.randrange(len(value))
            other = random.choice((value[0], value[-1], "" if isinstance(value[0], str) else 0))
            metadata[key] = replace(metadata[key], value=(*value[:at], other, *value[at + 1 :]))
        case _:
            changed: KV = random.choice(ODD)
            metadata[key] = changed
