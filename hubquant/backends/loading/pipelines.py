"""Pipelines of diffusers, and denoisers alone, whose models are quantized while they are loaded, after that, or
already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hubquant.backends.compatibility import check_gguf
from hubquant.backends.libraries.library import Framework
from hubquant.backends.libraries.registry import library
from hubquant.backends.libraries.skeleton import skeleton
from hubquant.backends.loading.asked import Asked, check_asked, check_disk, check_floats, check_stored, undivided
from hubquant.backends.loading.located import Located
from hubquant.backends.loading.offloading import offload_model, offload_pipeline
from hubquant.backends.safely import SAFELY, loading
from hubquant.checkpoint.diffusers_files import AGAIN, variant_of
from hubquant.checkpoint.headers import FLOATS
from hubquant.checkpoint.json_files import CONFIG, read_table
from hubquant.engine.progress import Progress
from hubquant.errors import CheckpointError, NotSupportedYet, UserError
from hubquant.models.diffusion.index import Part, PipelineIndex, check_diffusers, class_of_diffusers, read_index
from hubquant.models.diffusion.parts import DENOISERS, check_denoiser
from hubquant.models.diffusion.placement import place
from hubquant.models.diffusion.quiet import quiet_diffusers
from hubquant.recipe.backends import GGUF, LIBRARIES

_SIZE = 64  # of the picture that is drawn to have an input of a denoiser, in pixels


def load_pipeline(model: Located, asked: Asked, progress: Progress) -> Any:
    index = read_index(model.folder)
    chosen = _chosen(index, asked) if asked.quantize is not None else ()
    for name in chosen:
        check_floats(model.name, model.detected(name))
        check_asked(asked, _framework(index.models[name]))
    for name, kind in index.models.items():
        if name not in chosen:
            check_stored(asked, _framework(kind), model.detected(name))
    check_disk(model, asked)
    model = model.pulled(progress)
    with progress.doing(f"loading {model.name}"), loading(model.name), quiet_diffusers():
        index = read_index(model.folder)
        asked = _with_dtype(asked, {name: _part(model, name, kind) for name, kind in index.models.items()})
        on_load = chosen if asked.when == "load" else ()
        models = {
            name: _loaded(model, name, kind, asked if name in on_load else replace(asked, quantize=None), progress)
            for name, kind in index.models.items()
        }
        pipe = index.kind.from_pretrained(
            index.folder, **models, **dict.fromkeys(index.left_out), **SAFELY, trust_remote_code=False
        )
        pipe.set_progress_bar_config(disable=True)
        if asked.when == "after":
            for name in chosen:
                _quantize(pipe, name, asked)
        offload_pipeline(pipe, asked.offload, asked.device)
        return pipe


def load_denoiser(model: Located, asked: Asked, progress: Progress) -> Any:
    """Of a folder that diffusers saved, or of one file with the config of its class beside it."""
    check_diffusers()
    found = model.detected()
    if found.backend == GGUF:
        check_gguf(model.folder / model.weights[""][0])
    if asked.quantize is not None:
        check_floats(model.name, found)
        check_asked(asked, "diffusers")
        backend, _ = asked.named()
        if backend.traces:
            raise NotSupportedYet(
                f"{backend.name} of a denoiser alone",
                why="it is shown an input, and only a whole pipeline has one",
                hint="name the folder of the pipeline, or choose sdnq:int8",
            )
    else:
        check_stored(asked, "diffusers", found)
    kind = _class_in(model)
    check_disk(model, asked)
    model = model.pulled(progress)
    with progress.doing(f"loading {model.name}"), loading(model.name), quiet_diffusers():
        asked = _with_dtype(asked, {DENOISERS[0]: _part(model, "", kind)} if found.backend != GGUF else {})
        loaded = _loaded(model, "", kind, asked if asked.when == "load" else replace(asked, quantize=None), progress)
        if asked.quantize is not None and asked.when == "after":
            backend, type = asked.named()
            loaded = backend.quantized(loaded, type, asked.skip)
        offload_model(loaded, asked.offload, asked.device)
        return loaded.eval()


def _chosen(index: PipelineIndex, asked: Asked) -> tuple[str, ...]:
    """The components that are quantized."""
    if asked.components is None:
        check_denoiser(index.kind, index.models)
        return tuple(name for name in DENOISERS if name in index.models)
    for name in asked.components:
        if name not in index.models:
            raise UserError(f"there is no component {name}", hint=f"the models of it are {', '.join(index.models)}")
    return asked.components


def _framework(kind: type[Any]) -> Framework:
    from diffusers import ModelMixin

    return "diffusers" if issubclass(kind, ModelMixin) else "transformers"


def _part(model: Located, name: str, kind: type[Any]) -> Part:
    """Of a quantized one what is in floats."""
    floats = {tensor: info for tensor, info in model.tensors(name).items() if info.dtype in FLOATS}
    return Part(kind, variant_of(model.weights[name][0]), floats)


def _with_dtype(asked: Asked, parts: Mapping[str, Part]) -> Asked:
    """Of all models that of the denoiser, as most pipelines hand on what one gives to the next without casting it."""
    import torch

    if asked.dtype is not None:
        return asked
    dtypes = place(parts, asked.device, "none").dtypes
    name = next((name for name in (*DENOISERS, *dtypes) if name in dtypes), None)
    if name is None:  # of a GGUF file, whose weights have no dtype of their own
        return replace(asked, dtype=torch.float32 if asked.device == "cpu" else torch.bfloat16)
    return replace(asked, dtype=getattr(torch, dtypes[name]))


def _loaded(model: Located, name: str, kind: type[Any], asked: Asked, progress: Progress) -> Any:
    """In eval mode, quantized while it is loaded where that is asked for."""
    folder, framework, found = model.folder / name, _framework(kind), model.detected(name)
    options: dict[str, Any] = {"torch_dtype" if framework == "diffusers" else "dtype": asked.dtype}
    if asked.loads_on != "cpu":
        options["device_map"] = asked.loads_on
    if asked.quantize is not None:
        options["quantization_config"] = _configuration(kind, folder, asked, progress)
    if model.kind == "denoiser file":
        return _of_file(model, kind, options)
    options |= {**SAFELY, "variant": variant_of(model.weights[name][0])}
    if framework == "transformers":
        options["trust_remote_code"] = False
    if found.backend in LIBRARIES:
        return library(found.backend).load(folder, kind, framework, **options)
    loaded, info = kind.from_pretrained(folder, output_loading_info=True, **options)
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"{folder} lacks {len(missing)} of the model's weights, first {missing[0]}")
    return loaded.eval().requires_grad_(False)


def _of_file(model: Located, kind: type[Any], options: dict[str, Any]) -> Any:
    import diffusers

    if model.detected().backend == GGUF:
        compute = diffusers.GGUFQuantizationConfig(compute_dtype=options["torch_dtype"])
        options = {**options, "quantization_config": compute}
    file = str(model.folder / model.weights[""][0])
    return kind.from_single_file(file, config=str(model.folder), local_files_only=True, **options).eval()


def _configuration(kind: type[Any], folder: Path, asked: Asked, progress: Progress) -> Any:
    import torch

    framework, (backend, type) = _framework(kind), asked.named()
    with torch.device("meta"):
        empty = skeleton(kind, folder, framework)
    skip: tuple[str, ...] = (*asked.skip, *undivided(asked, empty, progress))
    if backend.name == "quanto" and framework == "diffusers":  # which knows last parts of names alone
        names = [name for name, module in empty.named_modules() if isinstance(module, torch.nn.Linear)]
        skip = tuple({name.rpartition(".")[2] for name in names if any(part in name for part in skip)})
    return backend.configuration(type, framework, skip)


def _quantize(pipe: Any, name: str, asked: Asked) -> None:
    """A component of a pipeline that is loaded."""
    backend, type = asked.named()
    part = getattr(pipe, name)
    if asked.loads_on != "cpu":
        part = part.to(asked.loads_on)
    inputs = (_input_of(pipe, name, backend.name),) if backend.traces and not hasattr(part, "dummy_inputs") else ()
    setattr(pipe, name, backend.quantized(part, type, asked.skip, inputs))


def _input_of(pipe: Any, name: str, by: str) -> dict[str, Any]:
    """What a model of the pipeline is first called with when a small picture is drawn. Raises ``NotSupportedYet`` where
    that is more than tensors: no other inputs can be shown to the library ``by``."""
    import inspect

    import torch

    from hubquant.models.diffusion.draw import call_arguments
    from hubquant.recipe.pictures import Pictures

    part, seen = getattr(pipe, name), {}

    class Seen(Exception):
        pass

    def look(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.update(inspect.signature(module.forward).bind(*arguments, **named).arguments)
        raise Seen

    handle = part.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with torch.no_grad():
            pipe(prompt=["a picture"], **call_arguments(pipe, Pictures(size=_SIZE, steps=2), 1))
    except Seen:
        pass
    finally:
        handle.remove()
    tensors = {key: value for key, value in seen.items() if isinstance(value, torch.Tensor)}
    others = [key for key, value in seen.items() if key not in tensors and value not in (None, True, False, {})]
    if others or not tensors:
        raise NotSupportedYet(
            f"{by} of a {type(part).__name__}",
            why=f"it is called with {', '.join(others) or 'nothing'}, and {by} can be shown tensors only",
            hint="choose sdnq:int8",
        )
    return tensors


def _class_in(model: Located) -> type[Any]:
    path = model.folder / CONFIG
    if not path.is_file():
        raise UserError(
            f"there is no {CONFIG} beside {model.name}",
            why="it says how large the denoiser's parts are",
            hint=f"put the {CONFIG} of the denoiser there, from the pipeline that it is of",
        )
    return class_of_diffusers(read_table(path, hint=AGAIN).get("_class_name"), f"{path.name} of {model.name}")
