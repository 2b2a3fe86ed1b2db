"""A model as its configuration has it, to be filled with what hubquant saved because the frameworks would not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.libraries.library import Framework
from hubquant.devices import default_device
from hubquant.errors import UserError

if TYPE_CHECKING:
    import torch


def skeleton(kind: Any, folder: Path, framework: Framework, dtype: torch.dtype | None = None) -> Any:
    """A model of class ``kind`` in eval mode that holds no weights of ``folder``, in the dtype of its config where
    ``dtype`` is None."""
    if framework == "diffusers":
        model = kind.from_config(kind.load_config(folder))
        return (model.to(dtype) if dtype else model).eval()
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    build = kind.from_config if hasattr(kind, "from_config") else kind._from_config
    model = build(config, dtype=dtype or config.dtype)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.eval()


def given_dtype(options: Mapping[str, Any]) -> torch.dtype | None:
    """The one that ``options`` of ``from_pretrained`` ask for, None for that of the files."""
    import torch

    asked = options.get("dtype", options.get("torch_dtype"))
    return getattr(torch, asked.removeprefix("torch."), None) if isinstance(asked, str) else asked


def given_device(options: Mapping[str, Any], library: str) -> str:
    """The one that ``options`` of ``from_pretrained`` ask for. Raises ``UserError`` for several."""
    place = options.get("device_map")
    places = {str(each) for each in (place.values() if isinstance(place, Mapping) else [place])}
    if len(places) > 1 or places & {"disk"}:
        raise UserError(
            f"what {library} has quantized goes to one device", why=f"device_map names {', '.join(sorted(places))}"
        )
    (found,) = places
    if found in ("None", "meta"):
        return "cpu"
    return default_device() if found in ("auto", "balanced", "balanced_low_0", "sequential") else found
