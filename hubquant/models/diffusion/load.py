"""Load a pipeline of diffusers from a folder: safetensors only, never remote code, and no output."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.finite import check_finite
from hubquant.checkpoint.headers import listed
from hubquant.devices import Device
from hubquant.errors import CheckpointError, HubquantError
from hubquant.models.diffusion.index import Part, PipelineIndex, read_index, read_parts
from hubquant.models.diffusion.parts import check_denoiser
from hubquant.models.diffusion.placement import VAE, Offload, place, put
from hubquant.models.diffusion.quiet import quiet_diffusers

if TYPE_CHECKING:
    import torch

_HINT = "compare the files with those of the repository that the pipeline comes from"


def load_pipeline(
    folder: Path,
    device: Device = "auto",
    offload: Offload = "auto",
    disk: Path | None = None,
    changed: Mapping[str, Callable[[Any], None]] = MappingProxyType({}),
    instead: Mapping[str, Callable[[str], Any]] = MappingProxyType({}),
) -> Any:
    """The pipeline in ``folder``, with its weights where :func:`place` puts them, in eval mode and without gradients.

    Where offloading is in groups, one part after the other is loaded and put into a new folder in ``disk``, which is
    the caller's to remove: of a pipeline larger than memory only the largest part must fit. What paints over pictures,
    such as a safety checker, is left out. A part that is to be ``changed`` is given to its function as soon as it is
    loaded. In the place of others come those that the functions of ``instead`` give, each on the device already, for
    torch's name of a dtype. Raises ``CheckpointError`` for what is missing, broken or not finite, for
    code and pickles, and for a pipeline without a denoiser; ``UserError`` where diffusers is not installed.
    """
    index = _read(folder)
    parts = read_parts(index)
    placement = place(parts, device, offload, disk)
    if placement.offload == "group" and disk is not None:
        disk.mkdir(parents=True, exist_ok=True)
        placement = replace(placement, disk=Path(tempfile.mkdtemp(dir=disk)))
    with quiet_diffusers():
        models: dict[str, Any] = {}
        for name, part in parts.items():
            if name in instead:
                models[name] = instead[name](placement.dtypes[name])
                continue
            models[name] = _load(folder / name, part, placement.dtypes[name])
            if name in changed:
                changed[name](models[name])
            if placement.offload == "group":
                put(name, models[name], placement)
        if VAE in models and len({*placement.dtypes.values()}) > 1:
            _cast_latents(models[VAE])
        pipe = _assembled(index, models)
        match placement.offload:
            case "none":
                pipe.to(placement.device)
            case "model":
                pipe.enable_model_cpu_offload(device=placement.device)
            case "sequential":
                pipe.enable_sequential_cpu_offload(device=placement.device)
    return pipe


def load_part(folder: Path, name: str, dtype: str) -> Any:
    """The part ``name`` of the pipeline in ``folder`` alone, on the CPU in torch's ``dtype`` of that name, in eval mode
    and without gradients. Raises as :func:`load_pipeline` does."""
    part = read_parts(_read(folder))[name]
    with quiet_diffusers():
        return _load(folder / name, part, dtype)


def empty_pipeline(folder: Path) -> Any:
    """The pipeline in ``folder`` with weights on torch's meta device: it has all settings and tokenizers, and takes no
    memory. No weights need be there. Raises as :func:`load_pipeline` does."""
    import torch

    index = _read(folder)
    with quiet_diffusers():
        with torch.device("meta"):
            models = {name: _empty(folder / name, kind) for name, kind in index.models.items()}
        return _assembled(index, models)


def _read(folder: Path) -> PipelineIndex:
    index = read_index(folder)
    check_denoiser(index.kind, (*index.models, *index.others))
    return index


def _load(folder: Path, part: Part, dtype: str) -> Any:
    import torch
    from diffusers import ModelMixin

    of_diffusers = issubclass(part.kind, ModelMixin)
    try:
        model, info = part.kind.from_pretrained(
            folder,
            **{"torch_dtype" if of_diffusers else "dtype": getattr(torch, dtype)},
            variant=part.variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **({} if of_diffusers else {"trust_remote_code": False}),
        )
    except Exception as error:  # diffusers, transformers and torch each raise their own for weights that do not fit
        raise _unloadable(folder, error) from error
    if wrong := sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}):
        raise CheckpointError(
            f"{folder.name} lacks {len(wrong)} of its weights: {listed(wrong)}", why=f"{folder} was read", hint=_HINT
        )
    for name, parameter in model.named_parameters():
        check_finite(f"{folder.name}.{name}", parameter)
    return model.eval().requires_grad_(False)


def _cast_latents(vae: Any) -> None:
    """Not all pipelines give a VAE latents of its own type."""
    decode = vae.decode

    def decode_in_own_type(latents: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        return decode(latents.to(vae.dtype), *arguments, **options)

    vae.decode = decode_in_own_type


def _empty(folder: Path, kind: type[Any]) -> Any:
    from diffusers import ModelMixin

    try:
        if issubclass(kind, ModelMixin):
            return kind.from_config(kind.load_config(folder, local_files_only=True))
        return kind(kind.config_class.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # values that the class did not expect
        raise _unloadable(folder, error) from error


def _assembled(index: PipelineIndex, models: dict[str, Any]) -> Any:
    """With tokenizers and schedulers, which are small files of JSON."""
    left_out = dict.fromkeys(index.left_out)
    try:
        pipe = index.kind.from_pretrained(
            index.folder, **models, **left_out, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except HubquantError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _unloadable(index.folder, error) from error
    if hasattr(pipe, "watermark"):
        pipe.watermark = None
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _unloadable(folder: Path, error: BaseException) -> CheckpointError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return CheckpointError(
        f"{folder} cannot be loaded", why=(lines or [type(error).__name__])[0].rstrip(" :")[:300], hint=_HINT
    )
