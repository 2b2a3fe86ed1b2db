"""Collect an importance matrix: run a model over chunks of tokens and sum what flows into its linear modules."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hubquant import __version__
from hubquant.calibration.chunks import Chunks
from hubquant.errors import ImatrixError
from hubquant.imatrix.matrix import ImportanceMatrix
from hubquant.imatrix.snapshot import Snapshot, read_snapshot, write_snapshot
from hubquant.imatrix.sums import InputSums

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 2048  # llama-imatrix's batch
SNAPSHOT_SECONDS = 30.0


def collected_names(weights: Iterable[str], process_output: bool) -> tuple[str, ...]:
    """Which of the weights that multiply activations get an entry: those of the blocks, and with ``process_output`` the
    output too (llama-imatrix's rule). Its name is the token embedding's when the two are tied."""
    return tuple(name for name in weights if process_output or name.startswith("blk."))


def collect(
    model: PreTrainedModel,
    chunks: Chunks,
    modules: Mapping[str, str],
    *,
    process_output: bool = False,
    snapshot: Path | None = None,
    snapshot_seconds: float = SNAPSHOT_SECONDS,
    advance: Callable[[int], None] = lambda _: None,
) -> ImportanceMatrix:
    """Sums over the inputs of the linear ``modules`` (name in transformers -> GGUF weight name).

    Squares are summed in float32 over one chunk and in float64 over the chunks, on the device of the activation.
    ``advance`` counts chunks. With ``snapshot`` the state is kept in that file every ``snapshot_seconds``, and a killed
    collection goes on from there with bit-identical results; the file stays until the caller, who has saved the matrix,
    removes it. Raises ``ImatrixError`` for a module that the model does not have and for activations that are not
    finite.
    """
    weights = frozenset(collected_names(modules.values(), process_output))
    hooked = {module: weight for module, weight in modules.items() if weight in weights}
    batch = max(1, BATCH_TOKENS // chunks.chunk_size)
    sums = InputSums()
    fingerprint = _fingerprint(model, chunks, hooked, batch) if snapshot else ""
    done = 0
    if snapshot and (found := read_snapshot(snapshot, fingerprint)):
        sums.restore(found.tensors)
        done = found.chunks_done
        advance(done)
    saved_at = time.monotonic()
    with torch.no_grad(), _hooks(model, hooked, sums):
        while done < len(chunks):
            ids = chunks.ids[done : done + batch]
            sums.begin(first_chunk=done, n_chunks=len(ids))
            # Without the output's inputs the logits, the largest tensor of all, are not needed.
            (model if process_output else model.base_model)(input_ids=ids.to(model.device), use_cache=False)
            sums.check_finite()
            done += len(ids)
            advance(len(ids))
            if snapshot and (done == len(chunks) or time.monotonic() - saved_at >= snapshot_seconds):
                write_snapshot(snapshot, Snapshot(sums.tensors(), done), fingerprint)
                saved_at = time.monotonic()
    provenance = {"version": __version__, "calibration_sha256": chunks.fingerprint}
    return ImportanceMatrix(sums.entries(), chunks.datasets, chunks.chunk_size, len(chunks), provenance)


@contextmanager
def _hooks(model: PreTrainedModel, modules: Mapping[str, str], sums: InputSums) -> Iterator[None]:
    known = dict(model.named_modules())
    unknown = [module for module in modules if module not in known]
    if unknown:
        raise ImatrixError(
            f"the model has no module {unknown[0]}", why=f"{len(unknown)} of {len(modules)} modules are not there"
        )
    handles = []
    try:
        for module, weight in modules.items():
            handles.append(known[module].register_forward_pre_hook(_hook(weight, sums)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(weight: str, sums: InputSums) -> Callable[[torch.nn.Module, tuple[Any, ...]], None]:
    def add(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        sums.add(weight, inputs[0])  # a hook that returns anything would replace the input

    return add


def _fingerprint(model: PreTrainedModel, chunks: Chunks, modules: Mapping[str, str], batch: int) -> str:
    """Everything the state depends on; of the weights, a sample of each."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}{parameter.device.type}".encode())
        if not parameter.is_meta:
            step = max(1, parameter.numel() // 64)
            digest.update(parameter.detach().flatten()[::step].float().cpu().numpy().tobytes())
    settings = {"config": model.config.to_dict(), "modules": dict(modules), "batch": batch, "hubquant": __version__}
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(chunks.fingerprint.encode())
    return digest.hexdigest()
