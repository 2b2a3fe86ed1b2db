"""What a quantized model answers, kept beside it, and whether what was saved answers the same in a fresh process.

Some libraries save models that load without an exception and compute something else: nothing that was saved is
trusted before it was loaded again.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.libraries.noise import quietly
from hubquant.backends.libraries.registry import library
from hubquant.backends.sketch import SKETCH, SketchCheck, check_sketch
from hubquant.engine.machine import peak_bytes, resident_bytes
from hubquant.errors import VerificationError
from hubquant.evaluate.speed import NEW_TOKENS, Speed
from hubquant.limited import Worker, WorkError

if TYPE_CHECKING:
    from torch import Tensor

    from hubquant.evaluate.pictures import Call

PROBE = "probe.safetensors"
TEXTS, TOKENS = 2, 32
LARGEST_DIFFERENCE = 1e-3
"""Of what is computed in other orders, relative; a wrong reload is off by more than a hundredth."""
LARGEST_IN_HALF = 0.05
"""Of a denoiser in half precision, where quanto has other kernels before it saves than after: 0.013 was seen of equal
weights."""
SECONDS = 24 * 3600


@dataclass(frozen=True)
class Reloaded:
    """The ``difference`` of the logits, or of a denoiser's predictions, relative to their size. ``layers`` are held
    against the source, None where the type is calibrated."""

    difference: float
    speed: Speed
    layers: SketchCheck | None


def keep_answers(model: Any, path: Path) -> None:
    """The logits of some random tokens, [texts, tokens, n_vocab] float32."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (TEXTS, TOKENS), generator=generator)
    save_file({"ids": ids, "logits": _answers(model, ids)}, path)


def keep_predictions(denoiser: Any, call: Call, path: Path) -> None:
    """Those of a denoiser in ``call``, one after the other, [numbers] float32."""
    from safetensors.torch import save_file

    save_file({"predictions": _predictions(denoiser, call)}, path)


def check_reloaded(folder: Path, backend: str, kept: Path, device: str, tape: Path | None = None) -> Reloaded:
    """Raises ``VerificationError`` where the model in ``folder`` is not the one that was saved, does not load, or has
    layers that are not the source's. ``kept`` is where :data:`PROBE` and :data:`SKETCH` are; ``tape`` has first what a
    denoiser is called with."""
    worker = Worker(reload, seconds=SECONDS)
    try:
        found = worker(
            folder=str(folder),
            backend=backend,
            kept=str(kept),
            device=device,
            tape=None if tape is None else str(tape),
        )
    except WorkError as error:
        raise VerificationError(
            f"{folder.name} does not load again", why=str(error), hint="choose another type; report it with the model"
        ) from None
    finally:
        worker.close()
    largest = LARGEST_IN_HALF if found.pop("in_half") else LARGEST_DIFFERENCE
    difference, sketch = found.pop("difference"), found.pop("sketch")
    reloaded = Reloaded(difference, Speed(**found), SketchCheck(**sketch) if sketch else None)
    if not reloaded.difference <= largest:
        raise VerificationError(
            f"{folder.name} is not what was saved once it is loaded again",
            why=f"its {'logits' if tape is None else 'predictions'} differ by {reloaded.difference:.2g} of their size",
            hint="choose another type; report it with the name of the model",
        )
    if reloaded.layers and reloaded.layers.wrong:
        raise VerificationError(
            f"{folder.name} does not hold what its source holds",
            why=reloaded.layers.wrong,
            hint="choose another type; report it with the name of the model",
        )
    return reloaded


def reload(folder: str, backend: str, kept: str, device: str, tape: str | None) -> dict[str, Any]:
    """The other process."""
    import torch
    from safetensors.torch import load_file

    from hubquant.backends.restore import opening, opening_denoiser
    from hubquant.evaluate.pictures import Tape

    probe, sketch = load_file(Path(kept) / PROBE), Path(kept) / SKETCH
    call = None if tape is None else next(Tape(Path(tape)).calls(0))
    with quietly():
        if call is None:
            load = opening(Path(folder), backend, device)
        else:
            load = opening_denoiser(Path(folder), backend, device, str(call.dtype).removeprefix("torch."))
        before, start = resident_bytes(), time.perf_counter()
        model = load()
        seconds = time.perf_counter() - start
        if call is None:
            found, expected = _answers(model, probe["ids"]), probe["logits"]
            rate = _rate(model, probe["ids"][:1, :1].to(model.device))
        else:
            _predictions(model, call)  # some libraries compute into the weights that they were given
            found, expected, rate = _predictions(model, call), probe["predictions"], None
        speed_of_load = {"load_seconds": seconds, "peak_bytes": max(0, peak_bytes() - before)}
        layers = asdict(check_sketch(model, library(backend), sketch)) if sketch.exists() else None
    return {
        **speed_of_load,
        "sketch": layers,
        "in_half": call is not None and call.dtype != torch.float32,
        "difference": float((found - expected).norm() / expected.norm()),
        "tokens_per_second": rate,
        "threads": torch.get_num_threads(),
        "device": device,
    }


def _rate(model: Any, ids: Tensor) -> float:
    """Tokens a second."""
    _write(model, ids, 1)
    start = time.perf_counter()
    _write(model, ids, NEW_TOKENS)
    return NEW_TOKENS / (time.perf_counter() - start)


def _write(model: Any, ids: Tensor, n: int) -> None:
    import torch

    with torch.no_grad():
        model.generate(ids, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0)


def _answers(model: Any, ids: Tensor) -> Tensor:
    """One text after the other: what is computed must not depend on the others."""
    import torch

    with torch.no_grad():
        return torch.cat([model(one[None].to(model.device)).logits.float().cpu() for one in ids])


def _predictions(denoiser: Any, call: Call) -> Tensor:
    import torch

    from hubquant.evaluate.pictures import predicted

    return torch.cat([one.float().cpu().flatten() for one in predicted(denoiser, call)])
