"""A folder that a library has quantized, as a model in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hubquant.backends.registry import library
from hubquant.errors import CheckpointError
from hubquant.models.classes import model_class


def restored(folder: Path, backend: str, device: str, **options: Any) -> Any:
    """The language model in ``folder`` in eval mode, loaded by ``backend`` without any remote code. ``options`` are
    ``from_pretrained``'s, such as dtype. Raises ``CheckpointError``."""
    from transformers import AutoConfig

    library(backend).package.check()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        kind = model_class(config, generates=True)
        place = {} if device == "cpu" else {"device_map": device}
        return library(backend).load(folder, kind, "transformers", **place, **options).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder.name} cannot be loaded by {backend}", why=(str(error) or type(error).__name__).splitlines()[0]
        ) from error
