"""A folder that a library has quantized, as a model in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from hubquant.backends.registry import library
from hubquant.errors import CheckpointError
from hubquant.models.classes import model_class


def restored(folder: Path, backend: str, device: str, **options: Any) -> Any:
    """The language model in ``folder`` in eval mode, loaded by ``backend`` without any remote code. ``options`` are
    ``from_pretrained``'s, such as dtype. Raises ``CheckpointError``."""
    return opening(folder, backend, device, **options)()


def opening(folder: Path, backend: str, device: str, **options: Any) -> Callable[[], Any]:
    """What gives :func:`restored`, when all that has to be imported for it is."""
    from transformers import AutoConfig, GenerationMixin, quantizers  # noqa: F401  (what loading imports)

    by = library(backend)
    by.package.check()
    import_module(by.package.module or by.package.name)
    with _errors(folder, backend):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        kind = model_class(config, generates=True)
    place = {} if device == "cpu" else {"device_map": device}

    def load() -> Any:
        with _errors(folder, backend):
            return by.load(folder, kind, "transformers", **place, **options).eval()

    return load


@contextmanager
def _errors(folder: Path, backend: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder.name} cannot be loaded by {backend}", why=(str(error) or type(error).__name__).splitlines()[0]
        ) from error
