"""What a denoiser was called with while pictures were drawn, and what it predicted."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from hubquant.disk import sync, unfinished, write_at_once, writing
from hubquant.errors import EvaluationError
from hubquant.evaluate.pictures.arguments import put_together, take_apart

CALLS = "calls.json"
TIMESTEPS = ("timestep", "timesteps", "t")
"""What the forward functions of diffusers' denoisers call it."""


@dataclass(frozen=True, eq=False)
class Call:
    """Of the denoiser. ``step`` counts from 0; with guidance there may be several calls in one. ``dtype`` is that of
    the weights, ``output`` what they predicted."""

    step: int
    dtype: torch.dtype
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


class Tape:
    """The calls that made some pictures, in a folder for each: a file of tensors for each call, and ``calls.json``.

    A tensor that several calls of a picture are given, such as the prompt's embeddings, is stored once. No more than
    one call is in memory. A folder is there when its picture is whole, so that a killed process goes on with the next.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, picture: int) -> bool:
        return self._of(picture).is_dir()

    @property
    def pictures(self) -> tuple[int, ...]:
        """The numbers of those that are whole."""
        return tuple(sorted(int(path.name.partition("-")[2]) for path in self.folder.glob("picture-*")))

    @contextmanager
    def recording(self, denoiser: torch.nn.Module, picture: int) -> Iterator[None]:
        """Record all calls of ``denoiser`` as those of ``picture``, which is not kept where drawing fails.

        Raises ``EvaluationError`` for a prediction that is not finite, ``OutputError`` or ``DiskFullError``.
        """
        place = unfinished(self._of(picture))
        with writing(place):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        recorder = _Recorder(place)
        hooks = [
            denoiser.register_forward_pre_hook(recorder.before, with_kwargs=True),
            denoiser.register_forward_hook(recorder.after),
        ]
        try:
            yield
            write_at_once(place / CALLS, json.dumps(recorder.calls).encode())
            with writing(place):
                os.replace(place, self._of(picture))
                sync(self.folder)
        finally:
            for hook in hooks:
                hook.remove()
            shutil.rmtree(place, ignore_errors=True)

    def calls(self, picture: int) -> Iterator[Call]:
        """In their order, one in memory at a time. ``KeyError`` for a picture that was not recorded."""
        from safetensors import safe_open

        if picture not in self:
            raise KeyError(picture)
        folder = self._of(picture)
        calls = json.loads((folder / CALLS).read_bytes())
        places = {name: number for number, call in enumerate(calls) for name in call["tensors"]}

        def tensor(name: str) -> Tensor:
            with safe_open(folder / _tensors(places[name]), framework="pt") as file:
                found: Tensor = file.get_tensor(name)
                return found

        for call in calls:
            args, kwargs, output = (put_together(call[name], tensor) for name in ("args", "kwargs", "output"))
            yield Call(call["step"], getattr(torch, call["dtype"]), args, kwargs, output)

    def _of(self, picture: int) -> Path:
        return self.folder / f"picture-{picture:04}"


class _Recorder:
    """Of one picture. ``calls`` are as they stand in JSON, each with the names of the tensors that are in its file."""

    def __init__(self, folder: Path) -> None:
        self.calls: list[dict[str, Any]] = []
        self._folder = folder
        self._new: dict[str, Tensor] = {}
        self._stored: set[str] = set()
        self._timestep: Tensor | None = None

    def before(self, denoiser: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        timestep = timestep_of(denoiser, args, kwargs)
        again = self._timestep is not None and timestep is not None and torch.equal(timestep, self._timestep)
        step = self.calls[-1]["step"] + (not again) if self.calls else 0
        self._timestep = timestep
        dtype = str(dtype_of(denoiser)).removeprefix("torch.")
        self.calls.append({"step": step, "dtype": dtype, "args": self._keep(args), "kwargs": self._keep(kwargs)})

    def after(self, denoiser: torch.nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002 (as torch calls it)
        predicted = prediction(output)
        if not all(bool(rows.isfinite().all()) for rows in as_rows(predicted)):
            raise EvaluationError(
                f"the source model predicts values that are not finite, in step {self.calls[-1]['step'] + 1}",
                hint="check its weights, and whether its numbers go beyond what float16 holds",
            )
        self.calls[-1] |= {"output": self._keep(predicted), "tensors": list(self._new)}
        self._store(self._folder / _tensors(len(self.calls) - 1))

    def _keep(self, value: Any) -> Any:
        return take_apart(value, self._name)

    def _name(self, tensor: Tensor) -> str:
        """By its content: equal tensors have one name."""
        # A copy: the denoiser may change its input. And contiguous() leaves a single value that was expanded as it is,
        # with a stride of 0, which has no bytes to look at.
        tensor = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        digest = xxhash.xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        name = digest.hexdigest()
        if name not in self._stored:
            self._new.setdefault(name, tensor)
        return name

    def _store(self, path: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        with writing(path):
            try:
                save_file(self._new, path)
            except SafetensorError as error:  # which hides the number of the system's error
                raise OSError(0, str(error)) from error
            sync(path)
        self._stored |= self._new.keys()
        self._new = {}


def prediction(output: Any) -> Any:
    """Of what a denoiser of diffusers returns, a tensor [n, ...] or a list of n tensors: the first of a tuple or of an
    output class."""
    return output if isinstance(output, Tensor) else output[0]


def as_rows(predicted: Any) -> tuple[Tensor, ...]:
    """One prediction each: the two of guidance may be in one batch or in one list."""
    return tuple(predicted.unbind(0) if isinstance(predicted, Tensor) else predicted)


def timestep_of(denoiser: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a call says of the time, on the CPU; None where the denoiser is not told."""
    names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    found = next((given[name] for name in TIMESTEPS if given.get(name) is not None), None)
    return None if found is None else torch.as_tensor(found).detach().cpu().clone()


def dtype_of(denoiser: torch.nn.Module) -> torch.dtype:
    """As diffusers' models tell it: of their weights but for those that stay float32."""
    model: Any = denoiser
    found: torch.dtype = model.dtype
    return found


def _tensors(call: int) -> str:
    return f"{call:05}.safetensors"
