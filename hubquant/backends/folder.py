"""A folder of transformers or diffusers whose weights a library has quantized, as a task."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hubquant.backends.compatibility import check
from hubquant.backends.detection.marker import MARKER, Marker, write_marker
from hubquant.backends.libraries.library import DataType, Framework, LibraryBackend
from hubquant.backends.libraries.noise import quietly
from hubquant.backends.libraries.registry import named
from hubquant.backends.probe import PROBE, keep_answers
from hubquant.backends.rules import Place, saving
from hubquant.backends.sketch import SKETCH, keep_sketch
from hubquant.devices import Device, chosen_device
from hubquant.disk import writing
from hubquant.engine.task import FP32_BYTES, Context, Cost, Task, fingerprint
from hubquant.engine.values import keep_value, read_value
from hubquant.errors import NotSupportedYet
from hubquant.sources.component import Component
from hubquant.sources.pipeline import DENOISERS
from hubquant.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from hubquant.calibration import Chunks

SCALE_BITS = 16
HALF_BITS, FLOAT_BITS = 16, 32
CALIBRATION_CHUNKS = 64
"""Of the recipe's, where the rounding of a library is calibrated: it runs each layer on them many times."""
OF_TOKENIZERS = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *(
        "tiktoken.model",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
        "generation_config.json",
    ),
)
SPOILED = (("sdnq", "float8_e5m2"),)
"""What diffusers loads as something else."""
NOT_QUANTIZED = ("token_embd.weight", "output.weight")
FACTS = "facts.json"


@dataclass(frozen=True)
class FolderPlan:
    """One folder of the recipe, which calls it ``label``, such as quanto:qint4. ``size`` and ``bpw`` are estimates:
    what is quantized is the library's to decide. ``part`` is that of a pipeline, where another one is its first;
    ``notes`` are what the user should know before the work begins."""

    label: str
    n_parameters: int
    size: int
    part: str = ""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Relative to the repository."""
        return "-".join(filter(None, (self.label.replace(":", "-"), self.part)))

    @property
    def paths(self) -> list[str]:
        """What is sure to be in it, in the repository."""
        return [f"{self.name}/{name}" for name in ("config.json", MARKER)]

    @property
    def bpw(self) -> float:
        return 8 * self.size / self.n_parameters

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "type": self.label, "size": self.size, "bpw": self.bpw}


@dataclass(frozen=True)
class FolderFacts:
    """``size`` in bytes of all files together; of ``n_layers`` linear layers those that ``left`` names are in floats;
    ``versions`` of what made it, and torch's name of the ``dtype`` that its floats are."""

    size: int
    n_parameters: int
    n_layers: int
    left: tuple[str, ...]
    versions: Mapping[str, str]
    dtype: str = ""

    @property
    def bpw(self) -> float:
        return 8 * self.size / self.n_parameters


@dataclass(frozen=True, eq=False)
class QuantizedFolder(Task[Path]):
    """The model of ``component`` by the library and the type of ``plan``, without layers whose name holds one of
    ``skip``. ``calibration`` is what a calibrated type is rounded by, None for any other."""

    kind = "folder"
    version = 2
    framework: ClassVar[Framework] = "transformers"

    component: Component
    plan: FolderPlan
    skip: tuple[str, ...] = ()
    calibration: Chunks | None = None
    device: Device = "auto"

    @cached_property
    def _named(self) -> tuple[LibraryBackend, str]:
        return named(self.plan.label)

    @property
    def backend(self) -> LibraryBackend:
        return self._named[0]

    @property
    def type(self) -> str:
        return self._named[1]

    @property
    def _type(self) -> DataType:
        return self.backend.types[self.type]

    @property
    def step(self) -> str:
        return "quantize"

    @property
    def detail(self) -> str:
        return self.plan.label

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.component.pulled}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {
            "type": self.plan.label,
            "version": self.backend.package.installed,
            "skip": self.skip,
            "calibration": self.calibration.fingerprint if self.calibration else None,
            "device": chosen_device(self.device),
            "hubquant": __version__,
        }

    @property
    def cost(self) -> Cost:
        n_bytes = FP32_BYTES * self.component.n_parameters
        return Cost(ram_bytes=(1 << 30) + n_bytes, disk_bytes=self.plan.size, work=self.component.n_parameters)

    @property
    def rate(self) -> str:
        return f"{self.kind} {self.plan.label}"

    def make(self, folder: Path, context: Context) -> None:
        """The model's folder, what its source's layers compute (:mod:`hubquant.backends.sketch`), what it answers
        (:mod:`hubquant.backends.probe`), and what is to be told of it."""
        backend, target = self.backend, folder / self.plan.name
        shutil.rmtree(target, ignore_errors=True)  # of a process that was killed
        with context.progress.doing(f"quantizing by {backend.name}"), quietly():
            model = self.loaded(context)
            if not self._type.calibrated:  # which scales what comes before a layer, and the layer by the inverse
                keep_sketch(model, self._type, folder / SKETCH)
            model = self.backend.quantized(model, self.type, self.skip, self._inputs())
            n_layers, left = self._layers(model)
            with writing(target):
                target.mkdir()
                backend.save(model, self.type, target, self.framework)
                self.add_files(target, context)
            write_marker(target, Marker(backend=backend.name, type=self.type, versions=self._versions, skipped=left))
            self.keep_answers(model, folder / PROBE, context)
        dtype = str(model.dtype).removeprefix("torch.")
        facts = FolderFacts(_size(target), self.component.n_parameters, n_layers, left, self._versions, dtype)
        keep_value(folder / FACTS, facts)

    def loaded(self, context: Context) -> Any:
        """The model in floats, to be quantized once it is loaded: a library that quantizes on load fails in the middle
        where a layer has a width that the type cannot divide."""
        from hubquant.convert.plain import load_whole

        source = context.read(self.component.pulled)
        return load_whole(source.checkpoint, source.model_folder, self.device)

    def add_files(self, target: Path, context: Context) -> None:
        """What belongs beside config and weights in ``target``."""
        source = context.read(self.component.pulled)
        for name in OF_TOKENIZERS:
            if (found := source.tokenizer_folder / name).is_file() and not (target / name).exists():
                shutil.copyfile(found, target / name)

    def keep_answers(self, model: Any, path: Path, context: Context) -> None:  # noqa: ARG002
        """What the quantized ``model`` computes, for who loads it again."""
        keep_answers(model, path)

    def read(self, folder: Path) -> Path:
        return folder / self.plan.name

    def facts(self, context: Context) -> FolderFacts:
        return read_value(context.store.path(self) / FACTS, FolderFacts)

    @property
    def _versions(self) -> dict[str, str]:
        from importlib.metadata import version

        package = self.backend.package.name
        return {name: version(name) for name in ("torch", self.framework, package)}

    def _inputs(self) -> Sequence[Mapping[str, Tensor]]:
        return [{"input_ids": ids[None]} for ids in self.calibration.ids] if self.calibration else ()

    def _layers(self, model: Any) -> tuple[int, tuple[str, ...]]:
        """How many linear layers there are but for the output, and which of them are in floats still."""
        from torch import nn

        head = model.get_output_embeddings() if self.framework == "transformers" else None
        layers = {
            name: self.backend.is_quantized(module)
            for name, module in model.named_modules()
            if module is not head and (isinstance(module, nn.Linear) or self.backend.is_quantized(module))
        }
        return len(layers), tuple(name for name, quantized in layers.items() if not quantized)


def folder_plan(component: Component, label: str, device: Device = "auto") -> FolderPlan:
    """Raises ``RecipeError`` for an unknown library or type, ``UserError`` where its package is missing, and
    ``NotSupportedYet`` for what the library cannot do on ``device``, and for what is neither a language model in floats
    nor the denoiser of a pipeline of diffusers."""
    backend, type = named(label)
    place: Place = chosen_device(device)  # type: ignore[assignment]
    check(backend.name, type, "diffusers" if component.denoises else "transformers", "after", "none", place)
    source, notes = component.source, backend.notes(type)
    if component.denoises:
        _check_denoiser(component, backend, type, place)
        part = "" if source.component in DENOISERS else str(source.component)
        return FolderPlan(label, component.n_parameters, _estimate(component, backend, type, place), part, notes)
    if component.embeds or source.component:
        what = "a text encoder" if source.component else "an encoder"
        hint = "choose types of GGUF, such as Q8_0, or quantize it where it is used: hubquant.load"
        raise NotSupportedYet(f"{what} as a folder of {backend.name}", hint=hint)
    if not source.can_offload:
        hint = "start from the model's folder or repository"
        raise NotSupportedYet(f"a GGUF file as a folder of {backend.name}", hint=hint)
    return FolderPlan(label, component.n_parameters, _estimate(component, backend, type, place), notes=notes)


def _check_denoiser(component: Component, backend: LibraryBackend, type: str, place: Place) -> None:
    what, instead = f"a denoiser as a folder of {backend.name}", "or types of GGUF, such as Q8_0"
    if component.inputs is None:
        hint = f"name the folder or the repository of the pipeline, {instead}"
        raise NotSupportedYet(what, why=component.conversion.cannot_run, hint=hint)
    if backend.traces:
        why = "it is shown an input of the model, and nothing but hubquant would load what it saved"
        raise NotSupportedYet(what, why=why, hint=f"choose sdnq:int8, {instead}")
    if (backend.name, type) in SPOILED:
        why = "once diffusers has loaded it, SDNQ spoils its weights when it first computes with them"
        raise NotSupportedYet(f"{what} in {type}", why=why, hint=f"choose sdnq:float8_e4m3fn or sdnq:int8, {instead}")
    saved = saving(backend.name, "diffusers", "after", place)
    if saved.by == "nobody":
        raise NotSupportedYet(f"{what} on {place}", why=saved.why, hint=f"choose sdnq:uint4 or sdnq:int8, {instead}")


def _estimate(component: Component, backend: LibraryBackend, type: str, place: Place) -> int:
    """Bytes of the weights. A denoiser draws in float32 on a CPU, and its convolutions stay floats."""
    found, bits = backend.types[type], 0.0
    floats = FLOAT_BITS if component.denoises and place == "cpu" else HALF_BITS
    for name, shape in component.shapes.items():
        is_layer = len(shape) == 2 if component.denoises else len(shape) > 1
        is_quantized = is_layer and name not in NOT_QUANTIZED and name.endswith(".weight")
        scale = SCALE_BITS / (found.group or shape[-1])
        bits += math.prod(shape) * (found.bits + scale if is_quantized else floats)
    return math.ceil(bits / 8)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def folder_fingerprint(skip: Sequence[str]) -> str:
    """Of the settings that only folders depend on."""
    return fingerprint({"skip_modules": list(skip)})
