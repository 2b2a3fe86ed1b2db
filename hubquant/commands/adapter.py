"""``hubquant convert`` of a LoRA adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.commands.job import Job, MadeFile, plan_job
from hubquant.commands.targets import check_target
from hubquant.convert.adapter import AdapterConversion, plan_adapter
from hubquant.convert.rules.authorship import replaced
from hubquant.convert.rules.general import general_metadata
from hubquant.disk import write_at_once
from hubquant.engine.progress import Advance, Progress
from hubquant.engine.store import Store
from hubquant.engine.task import Context
from hubquant.errors import UserError
from hubquant.gguf_file import Layout, Metadata, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import string, u32
from hubquant.quants import quantize
from hubquant.sources.adapter import Adapter

_TYPES = ("F32", "F16", "BF16")


def adapter_type(wanted: str | None) -> str:
    """By default F32. Raises ``UserError``."""
    if wanted is None or wanted in _TYPES:
        return wanted or _TYPES[0]
    raise UserError(
        f"an adapter is not written as {wanted}",
        why="its rows are as short as its rank",
        hint="leave --type out for F32, or write F16 or BF16",
    )


def convert_adapter(
    adapter: Adapter, base: str | None, type: str, path: Path, authorship: Metadata, store: Store, progress: Progress
) -> Job[list[MadeFile]]:
    """``base`` is a folder or a Hub id, None for the model that the adapter names."""
    check_target(path, "model")
    with progress.doing("reading what the adapter's files hold"):
        conversion = plan_adapter(adapter.settings, adapter.checkpoint.tensors, adapter.base_config(base))
    entries = [TensorEntry(name, shape, type) for name, shape in conversion.shapes.items()]
    layout = plan_layout(_metadata(adapter, conversion, authorship), entries)

    def deliver(context: Context) -> list[MadeFile]:
        with context.progress.bar("download", adapter.download_bytes, "B") as advance:
            checkpoint = adapter.pulled(advance)
        with context.progress.bar("convert", len(entries), "tensors") as advance:
            write_at_once(path, _content(conversion, checkpoint, layout, advance))
        return [MadeFile(path, type, layout.size)]

    job = plan_job([], deliver, store, outputs=[path], placed_bytes=layout.size)
    return replace(job, estimate=replace(job.estimate, download_bytes=adapter.download_bytes))


def _metadata(adapter: Adapter, conversion: AdapterConversion, authorship: Metadata) -> Metadata:
    general = general_metadata(adapter.folder, adapter.card, adapter.full_name, -conversion.n_changed)
    return {
        "general.architecture": string(conversion.architecture),
        **replaced(general | conversion.metadata, authorship),
        "general.quantization_version": u32(2),
    }


def _content(conversion: AdapterConversion, checkpoint: Checkpoint, layout: Layout, advance: Advance) -> bytearray:
    """Of the whole file, which is as small as an adapter is."""
    content = bytearray(layout.size)
    content[: len(layout.header)] = layout.header
    for name, x in conversion.stream(checkpoint):
        entry, offset = layout.tensors[name], layout.offsets[name]
        data = quantize(x.reshape(-1, x.shape[-1]), entry.type).numpy()
        content[offset : offset + entry.nbytes] = data.tobytes()
        advance(1)
    return content
