"""A whole header as text, as gguf-py's gguf_dump.py shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType

from hubquant.errors import GGUFError
from hubquant.gguf_file.editing import type_of
from hubquant.gguf_file.metadata import KV, Scalar
from hubquant.gguf_file.stored import StoredFile, StoredTensor, decode_value
from hubquant.printable import plain

LONGEST, LONGEST_ITEM = 60, 30  # characters of a text, and of one in an array
SHOWN_TEXTS, SHOWN_NUMBERS = 5, 7
DIMENSIONS = 4
_NUMPY = {GGUFValueType.FLOAT32: np.float32, GGUFValueType.FLOAT64: np.float64}


@dataclass(frozen=True)
class Dump:
    """``name`` is what the file is called; the tensors of shards are those of all."""

    name: str
    files: Sequence[StoredFile]

    @property
    def tensors(self) -> list[StoredTensor]:
        return [tensor for file in self.files for tensor in file.tensors]

    def fields(self) -> Iterator[tuple[str, KV | None, bytes]]:
        """Keys with their values and the bytes of these; first the counts that stand before the metadata. None is
        what llama.cpp does not read."""
        first = self.files[0]
        counts = {
            "GGUF.version": KV(first.version, GGUFValueType.UINT32),
            "GGUF.tensor_count": KV(len(self.tensors), GGUFValueType.UINT64),
            "GGUF.kv_count": KV(len(first.metadata), GGUFValueType.UINT64),
        }
        yield from ((key, kv, b"") for key, kv in counts.items())
        for key, stored in first.metadata.items():
            try:
                yield key, decode_value(key, stored), stored
            except GGUFError:
                yield key, None, stored

    def as_dict(self, *, tensors: bool) -> dict[str, Any]:
        """With every value of every array."""
        metadata = {
            key: {"type": _kind(kv), "value": list(kv.value) if kv and isinstance(kv.value, tuple) else kv and kv.value}
            for key, kv, _ in self.fields()
        }
        found = {"filename": self.name, "endian": "LITTLE", "metadata": metadata}
        return {**found, "tensors": [_as_dict(tensor) for tensor in self.tensors]} if tensors else found

    def as_text(self, *, tensors: bool) -> str:
        fields = list(self.fields())
        lines = ["* File is LITTLE endian.", f"* Dumping {len(fields)} key/value pair(s)"]
        lines += [
            f"  {n:5}: {_kind(kv):10} | {_count(kv):8} | {plain(key)} = {plain(_text(kv, stored))}"
            for n, (key, kv, stored) in enumerate(fields, 1)
        ]
        if tensors:
            lines.append(f"* Dumping {len(self.tensors)} tensor(s)")
            lines += [
                f"  {n:5}: {t.n_elements:10} | {', '.join(f'{d:5}' for d in _four(t))} | {t.type:7} | {plain(t.name)}"
                for n, t in enumerate(self.tensors, 1)
            ]
        return "\n".join(lines)

    def as_markdown(self, *, tensors: bool) -> str:
        rows = [
            {"n": n, "type": _kind(kv), "count": _count(kv), "key": plain(key), "value": _markdown(kv, stored)}
            for n, (key, kv, stored) in enumerate(self.fields(), 1)
        ]
        columns = {"n": ">POS", "type": "TYPE", "count": ">Count", "key": "Key", "value": "Value"}
        parts = [
            f"# {plain(self.name)} - GGUF Internal File Dump\n\n- Endian: LITTLE endian\n",
            "## Key Value Metadata Store\n",
            f"There are {len(rows)} key-value pairs in this file\n",
            _table(columns, rows),
            *(_tensors_markdown(self.tensors) if tensors else ()),
            f"Total BPW for {plain(Path(self.name).name)}: {_bpw(self.tensors if tensors else ())}",
        ]
        return "\n".join(parts)


def _as_dict(tensor: StoredTensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.dims),
        "type": tensor.type,
        "file": tensor.source.path.name,
        "offset": tensor.start,
        "bytes": tensor.nbytes,
    }


def _tensors_markdown(tensors: Sequence[StoredTensor]) -> Iterator[str]:
    from gguf.scripts.gguf_dump import element_count_rounded_notation as rounded
    from gguf.scripts.gguf_dump import translate_tensor_name as translated

    groups: dict[str, list[tuple[int, StoredTensor]]] = {}
    for number, tensor in enumerate(tensors):
        groups.setdefault(_group(tensor.name), []).append((number, tensor))
    total = sum(tensor.n_elements for tensor in tensors)
    counts = {group: sum(tensor.n_elements for _, tensor in members) for group, members in groups.items()}
    anchors = {group: plain(group.replace(".", "_")) for group in groups}
    yield f"## Tensors Overview {rounded(total)} Elements\n"
    yield f"Total number of elements in all tensors: {total} Elements\n"
    for group, count in counts.items():
        title = f"{plain(translated(group))} Tensor Group - {rounded(count)} Elements"
        yield f"- [{title}](#{anchors[group]})"
    yield "\n### Tensor Data Offset\n\nThis table contains the offset and data segment relative to start of file\n"
    places = [
        {"id": n, "name": plain(t.name), "offset": f"{t.start:#16x}", "size": f"{t.nbytes:#16x}"}
        for n, t in enumerate(tensors)
    ]
    yield _table(
        {"id": ">T_ID", "name": "Tensor Layer Name", "offset": ">Data Offset (B)", "size": ">Data Size (B)"}, places
    )
    for group, members in groups.items():
        title = f"{plain(translated(group))} Tensor Group : {rounded(counts[group])} Elements"
        yield f'### <a name="{anchors[group]}">{title}</a>\n'
        yield _group_table(members)
        yield f"- Total elements in {plain(group)}: ({rounded(counts[group]):>4}) {counts[group]}"
        yield f"- Percentage of total elements: {counts[group] / total:.2%}"
        yield f"- Bits per Weight (BPW) for {plain(group)}: {_bpw([tensor for _, tensor in members])}\n\n"


def _group_table(members: Sequence[tuple[int, StoredTensor]]) -> str:
    from gguf.scripts.gguf_dump import element_count_rounded_notation as rounded
    from gguf.scripts.gguf_dump import translate_tensor_name as translated

    tensors = [tensor for _, tensor in members]
    widths = [max(len(str(_four(tensor)[i])) for tensor in tensors) for i in range(DIMENSIONS)]
    estimate = max(len(rounded(tensor.n_elements)) for tensor in tensors)
    exact = max(len(str(tensor.n_elements)) for tensor in tensors)
    columns = {
        "id": ">T_ID",
        "name": "Tensor Layer Name",
        "human": "Human Friendly Tensor Layer Name",
        "elements": "Elements",
        "shape": "Shape",
        "type": "Type",
        "bpw": ">BPW",
    }
    rows = [
        {
            "id": number,
            "name": plain(t.name),
            "human": plain(translated(t.name.replace(".weight", ".(W)").replace(".bias", ".(B)"))),
            "elements": f"({rounded(t.n_elements):>{estimate}}) {t.n_elements:>{exact}}",
            "shape": " x ".join(f"{d:>{width}}" for d, width in zip(_four(t), widths, strict=True)),
            "type": t.type,
            "bpw": f"{t.nbytes * 8 / t.n_elements:.4f}",
        }
        for number, t in members
    ]
    return _table(columns, rows)


def _table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """``columns`` are titles by the key of their values, numbers marked with >."""
    from gguf.scripts.gguf_dump import markdown_table_with_alignment_support

    header = [
        {"key_name": key, "header_name": title.lstrip(">"), "align": "right" if title[0] == ">" else "left"}
        for key, title in columns.items()
    ]
    shown = [{key: str(value).replace("|", "\\|") for key, value in row.items()} for row in rows]
    return str(markdown_table_with_alignment_support(header, shown))


def _group(name: str) -> str:
    """blk.3 of blk.3.attn_q.weight, enc.blk.3 of enc.blk.3.attn_q.weight, enc, and base for all else."""
    match = re.match(r"blk\.[^.]+|(enc|dec)\.blk\.[^.]+|(enc|dec)(?=\.|$)", name)
    return match[0] if match else "base"


def _four(tensor: StoredTensor) -> tuple[int, ...]:
    return tensor.dims + (1,) * (DIMENSIONS - len(tensor.dims))


def _bpw(tensors: Sequence[StoredTensor]) -> str:
    elements = sum(tensor.n_elements for tensor in tensors)
    return (
        f"{sum(tensor.nbytes for tensor in tensors) * 8 / elements:.4f} bits" if elements else "undefined (no elements)"
    )


def _kind(kv: KV | None) -> str:
    return "UNKNOWN" if kv is None else type_of(kv).upper()


def _count(kv: KV | None) -> int:
    return len(kv.value) if kv and isinstance(kv.value, tuple) else 1


def _text(kv: KV | None, stored: bytes) -> str:
    if kv is None:
        return f"{len(stored)} bytes"
    if isinstance(kv.value, tuple):
        shown = repr(list(kv.value[:6]))
        return f"{shown[:-1]}, ...]" if len(kv.value) > 6 else shown
    if isinstance(kv.value, str):
        return repr(kv.value[: LONGEST - 3] + "..." if len(kv.value) > LONGEST else kv.value)
    return str(kv.value)


def _markdown(kv: KV | None, stored: bytes) -> str:
    if kv is None:
        return f"{len(stored)} bytes"
    if not isinstance(kv.value, tuple):
        return _item(kv.value, kv.type, LONGEST)
    shown = SHOWN_TEXTS if kv.item == GGUFValueType.STRING else SHOWN_NUMBERS
    items = ", ".join(_item(each, kv.item, LONGEST_ITEM) for each in kv.value[:shown])
    return f"[ {items}{', ...' if len(kv.value) > shown else ''} ]"


def _item(value: Scalar, type: GGUFValueType | None, longest: int) -> str:
    """Numbers with the digits that their type has."""
    if not isinstance(value, str):
        return str(_NUMPY[type](value)) if type in _NUMPY else str(value)
    if len(value) <= longest:
        return _code(value)
    return f"{_code(value[: longest // 2])}...{_code(value[-longest // 2 :])}"


def _code(text: str) -> str:
    """Between as many backticks as the text needs."""
    text = plain(text)
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{ticks} {text} {ticks}" if text[:1] == "`" or text[-1:] == "`" else f"{ticks}{text}{ticks}"
