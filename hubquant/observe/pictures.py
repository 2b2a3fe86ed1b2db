"""What flows into the weights of a diffusers pipeline while it makes pictures or videos."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch

from hubquant.errors import ImatrixError, UserError
from hubquant.imatrix import Entry, ImportanceMatrix
from hubquant.imatrix.merging import whole
from hubquant.models.diffusion.parts import denoisers
from hubquant.models.taps.tap import Detach
from hubquant.observe.layers import family, observed_layers, text_encoders
from hubquant.observe.noise import check_timesteps, noise_level
from hubquant.observe.patches import Convolution, kernel_size, patches, side_by_side
from hubquant.observe.sums import InputSums
from hubquant.version import __version__

TimestepWeight = Callable[[float], float]
"""How often what a denoiser sees in a call counts, from the share of noise in that: 1 at the start, 0 at the end."""

_KNOWN = "known"  # of a state: what is no tensor


class PictureSums:
    """Sums over what the linear layers of all denoisers and text encoders of a pipeline see, with ``convolutions``
    those of its denoisers too. Only whole pictures count, and only those with activations that are finite.

    Rows are counted as they are seen: those of a batch, of frames and of both branches of guidance. What a denoiser
    sees counts as often as ``timestep_weight`` says.

    Raises ``CheckpointError`` for a pipeline without a denoiser, ``NotSupportedYet`` for weights of timesteps that
    are not understood.
    """

    def __init__(self, pipe: Any, *, convolutions: bool = False, timestep_weight: TimestepWeight | None = None) -> None:
        self._pipe, self._weight = pipe, timestep_weight
        self._denoisers, self._encoders = denoisers(pipe), text_encoders(pipe)
        if timestep_weight is not None:
            for denoiser in self._denoisers.values():
                check_timesteps(denoiser)
        self.layers = observed_layers(pipe, convolutions)
        self.sums = InputSums()
        self.pictures = 0
        self.skipped: list[int] = []
        self._counts: Counter[str] = Counter()
        self._pending: Counter[str] = Counter()
        self._settings: dict[str, list[str]] = {"scheduler": [], "steps": [], "sizes": []}

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """Denoisers and text encoders by component."""
        return self._denoisers | self._encoders

    @property
    def done(self) -> int:
        """Pictures that were made, with those that do not count."""
        return self.pictures + len(self.skipped)

    @property
    def draws(self) -> bool:
        """Whether a denoiser was called since the last picture."""
        return self._pending["denoiser_calls"] > 0

    @contextmanager
    def observing(self) -> Iterator[None]:
        """While it is seen what flows into the layers."""
        with ExitStack() as attached:
            for name, layer in self.layers.items():
                attached.callback(self._attach(name, layer))
            for denoiser in self._denoisers.values():
                attached.callback(denoiser.register_forward_pre_hook(self._before, with_kwargs=True).remove)
                attached.callback(denoiser.register_forward_hook(self._after, always_call=True).remove)
            for component, encoder in self._encoders.items():
                attached.callback(encoder.register_forward_pre_hook(self._reading(component), with_kwargs=True).remove)
            yield

    @contextmanager
    def each_call(self) -> Iterator[None]:
        """While what a call of the pipeline sees counts for the pictures that it gives, once it gives them."""
        kind = type(self._pipe)

        @wraps(kind.__call__)
        def call(pipe: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                output = kind.__call__(pipe, *args, **kwargs)
            except BaseException:
                self.drop()
                raise
            self.settle(output[0])
            return output

        # How to call an object is looked up in its class: it gets one of its own, and other pipelines keep theirs.
        names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
        self._pipe.__class__ = type(kind.__name__, (kind,), {**names, "__call__": call})
        try:
            yield
        finally:
            self._pipe.__class__ = kind

    def drop(self) -> None:
        """Forget what was seen since the last picture."""
        self.sums.begin(1)
        self.sums.weight = 1.0
        self._pending.clear()

    def settle(self, pictures: Any) -> None:
        """Let what was seen since the last ones count for ``pictures``, as a pipeline gives them."""
        n = len(pictures)
        if self.sums.not_finite() is not None:
            self.skipped += range(self.done + 1, self.done + n + 1)
            self.drop()
            return
        self.sums.commit()
        self.pictures += n
        self._counts += self._pending
        self._pending.clear()
        scheduler: Any = getattr(self._pipe, "scheduler", None)
        settings = {
            "scheduler": type(scheduler).__name__,
            "steps": getattr(scheduler, "num_inference_steps", None),
            "sizes": _size(pictures),
        }
        for name, value in settings.items():
            if value is not None and str(value) not in self._settings[name]:
                self._settings[name].append(str(value))

    def matrix(self, facts: Mapping[str, str]) -> ImportanceMatrix:
        """What has been collected so far, with these further ``facts`` in its provenance. Raises ``ImatrixError`` where
        there is nothing."""
        entries: dict[str, Entry] = {}
        for name, layer in self.layers.items():
            totals = [self.sums.totals.get(key) for key in _keys(name, layer)]
            found = [total for total in totals if total is not None and bool((total.counts > 0).all())]
            if len(found) == len(totals):
                sum2, sum_ = ([getattr(total, kind).cpu() for total in found] for kind in ("sum2", "sum"))
                entries[name] = whole(Entry(side_by_side(sum2), found[0].counts, side_by_side(sum_)))
        if not entries:
            raise _nothing(len(self.skipped))
        return ImportanceMatrix(entries, (), 1, self.pictures, self.facts() | dict(facts))

    def facts(self) -> dict[str, str]:
        """What the matrix says of the model, and of how the pictures were made."""
        first = next(iter(self._denoisers.values()))
        return {
            "version": __version__,
            "model_class": type(first).__name__,
            **({"model_family": name} if (name := family(first)) else {}),
            **{name: ", ".join(values) for name, values in self._settings.items() if values},
            **{name: str(self._counts[name]) for name in ("denoiser_calls", "predictions")},
            "prompts": str(max((self._counts[component] for component in self._encoders), default=0)),
            **({"skipped_pictures": str(len(self.skipped))} if self.skipped else {}),
            **({"timesteps": "weighted"} if self._weight is not None else {}),
        }

    def state(self) -> dict[str, torch.Tensor]:
        """What was settled, in tensors on the CPU that nothing else shares."""
        known = {"pictures": self.pictures, "skipped": self.skipped, "counts": self._counts, "settings": self._settings}
        encoded = torch.tensor(list(json.dumps(known).encode()), dtype=torch.uint8)
        return self.sums.state() | {_KNOWN: encoded}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a ``state``, before the first picture."""
        self.sums.restore(state)
        known = json.loads(bytes(state[_KNOWN].tolist()))
        self.pictures, self.skipped, self._settings = (known[name] for name in ("pictures", "skipped", "settings"))
        self._counts = Counter(known["counts"])

    def _attach(self, name: str, layer: torch.nn.Module) -> Detach:
        keys = _keys(name, layer)

        def see(_layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            with torch.no_grad():
                if isinstance(layer, Convolution):
                    for key, part in zip(keys, patches(layer, x), strict=True):
                        self.sums.see(key, part)
                else:
                    self.sums.see(name, x)

        return layer.register_forward_pre_hook(see, with_kwargs=True).remove

    def _before(self, denoiser: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._pending["denoiser_calls"] += 1
        self._pending["predictions"] += _batch(args, kwargs)
        if self._weight is not None:
            self.sums.weight = _checked(self._weight, noise_level(denoiser, args, kwargs))

    def _after(self, _denoiser: torch.nn.Module, _args: Any, _output: Any) -> None:
        self.sums.weight = 1.0

    def _reading(self, component: str) -> Callable[..., None]:
        def count(_encoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._pending[component] += _batch(args, kwargs)

        return count


def _keys(name: str, layer: torch.nn.Module) -> list[str]:
    """Under which the inputs of a layer are shown: those of a convolution one by one for each offset in its kernel."""
    return [f"{name}#{i}" for i in range(kernel_size(layer))] if isinstance(layer, Convolution) else [name]


def _batch(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """How many a call is for: tensors have them side by side, some denoisers take a list."""
    return next((len(x) for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor | list) and len(x)), 1)


def _size(pictures: Any) -> str | None:
    """Width and height of ``pictures``, None where they are no pictures but latents."""
    picture = pictures[0]
    while isinstance(picture, list):  # a video's frames
        picture = picture[0]
    if isinstance(size := getattr(picture, "size", None), tuple):  # of pillow
        return f"{size[0]}x{size[1]}"
    channels, height, width = (-3, -2, -1) if isinstance(picture, torch.Tensor) else (-1, -3, -2)
    shape = getattr(picture, "shape", ())
    return f"{shape[width]}x{shape[height]}" if len(shape) > 2 and shape[channels] == 3 else None


def _checked(weight: TimestepWeight, level: float) -> float:
    found = float(weight(level))
    if not (math.isfinite(found) and found >= 0):
        raise UserError(
            f"a weight of timesteps cannot be {found}",
            why=f"it is that of the noise level {level:.3f}",
            hint="give a function with values that are not negative",
        )
    return found


def _nothing(skipped: int) -> ImatrixError:
    if skipped:
        return ImatrixError(
            "no picture can be used",
            why="in each of them an activation is NaN, infinite or too large to be squared",
            hint="load the pipeline in bfloat16 or float32: in half precision numbers of this model may be too large",
        )
    return ImatrixError(
        "no picture was made", why="no denoiser of the pipeline was called", hint="call the pipeline in the block"
    )
