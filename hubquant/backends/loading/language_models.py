"""Language models of transformers, quantized while they are loaded, after that, or already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubquant.backends.loading.asked import Asked, check_asked, check_disk, check_floats, check_stored, undivided
from hubquant.backends.loading.located import Located
from hubquant.backends.loading.offloading import offload_model
from hubquant.backends.restore import restored
from hubquant.backends.safely import SAFELY, loading
from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.plain import load_whole, plain_checkpoint
from hubquant.engine.progress import Progress
from hubquant.recipe.backends import LIBRARIES

if TYPE_CHECKING:
    pass

_READ_AS_FLOATS = ("fp8", "comfy fp8", "mxfp4")
"""Methods whose weights hubquant itself makes floats of."""


def load_language_model(model: Located, asked: Asked, progress: Progress) -> Any:
    found = model.detected()
    if asked.quantize is not None:
        check_floats(model.name, found)
        check_asked(asked, "transformers")
    elif model.kind != "gguf" or asked.offload != "none":
        check_stored(asked, "transformers", found)
    check_disk(model, asked)
    model = model.pulled(progress)
    with progress.doing(f"loading {model.name}"), loading(model.name):
        if model.kind == "gguf":
            loaded = _of_gguf(model, asked)
        elif asked.quantize is not None:
            loaded = _quantized(model, asked, progress)
        elif found.backend is None or found.backend in _READ_AS_FLOATS:
            loaded = _floats(model, asked)
        else:
            loaded = _saved(model, found.backend, asked)
        offload_model(loaded, asked.offload, asked.device)
        return loaded.eval()


def _of_gguf(model: Located, asked: Asked) -> Any:
    from hubquant.convert.restore import load_model

    loaded: Any = load_model(model.folder / model.weights[""][0], asked.loads_on)
    return loaded.to(asked.dtype) if asked.dtype else loaded


def _floats(model: Located, asked: Asked, configuration: Any = None) -> Any:
    stored = Checkpoint.from_folder(model.folder)
    return load_whole(stored, model.folder, asked.loads_on, configuration, asked.dtype)  # type: ignore[arg-type]


def _quantized(model: Located, asked: Asked, progress: Progress) -> Any:
    backend, type = asked.named()
    if asked.when == "after":
        return backend.quantized(_floats(model, asked), type, asked.skip)
    left = undivided(asked, _skeleton(model), progress)
    return _floats(model, asked, backend.configuration(type, "transformers", (*asked.skip, *left)))


def _skeleton(model: Located) -> Any:
    import torch

    from hubquant.convert.config import read_architecture
    from hubquant.models.classes import model_class

    config = read_architecture(plain_checkpoint(Checkpoint.from_folder(model.folder)).config)[1]
    with torch.device("meta"):
        return model_class(config, generates=True)._from_config(config)


def _saved(model: Located, backend: str, asked: Asked) -> Any:
    options: dict[str, Any] = {**SAFELY, **({"dtype": asked.dtype} if asked.dtype else {})}
    if backend in LIBRARIES:
        return restored(model.folder, backend, asked.loads_on, **options)
    from transformers import AutoConfig

    from hubquant.models.classes import model_class

    config = AutoConfig.from_pretrained(model.folder, trust_remote_code=False, local_files_only=True)
    place = {} if asked.loads_on == "cpu" else {"device_map": asked.loads_on}
    return model_class(config, generates=True).from_pretrained(
        model.folder, trust_remote_code=False, **place, **options
    )
