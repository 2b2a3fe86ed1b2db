"""A folder of transformers whose weights a library has quantized, as a task."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.compatibility import check
from hubquant.backends.library import LibraryBackend, Moment
from hubquant.backends.marker import MARKER, Marker, write_marker
from hubquant.backends.noise import quietly
from hubquant.backends.probe import PROBE, keep_answers
from hubquant.backends.registry import named
from hubquant.backends.rules import Place
from hubquant.devices import Device, chosen_device
from hubquant.disk import write_at_once, writing
from hubquant.engine.task import FP32_BYTES, Context, Cost, Task, fingerprint
from hubquant.errors import NotSupportedYet
from hubquant.sources.component import Component
from hubquant.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from hubquant.calibration import Chunks

SCALE_BITS = 16
HALF_BITS = 16
CALIBRATION_CHUNKS = 64
"""Of the recipe's, where the rounding of a library is calibrated: it runs each layer on them many times."""
OF_TOKENIZERS = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json"),
)
NOT_QUANTIZED = ("token_embd.weight", "output.weight")
FACTS = "facts.json"


@dataclass(frozen=True)
class FolderPlan:
    """One folder of the recipe, which calls it ``label``, such as quanto:qint4. ``size`` and ``bpw`` are estimates:
    what is quantized is the library's to decide."""

    label: str
    n_parameters: int
    size: int

    @property
    def name(self) -> str:
        """Relative to the repository."""
        return self.label.replace(":", "-")

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
    ``versions`` of what made it."""

    size: int
    n_parameters: int
    n_layers: int
    left: tuple[str, ...]
    versions: Mapping[str, str]

    @property
    def bpw(self) -> float:
        return 8 * self.size / self.n_parameters


@dataclass(frozen=True, eq=False)
class QuantizedFolder(Task[Path]):
    """The model of ``component`` by the library and the type of ``plan``, without layers whose name holds one of
    ``skip``. ``calibration`` is what a calibrated type is rounded by, None for any other."""

    kind = "folder"

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
        """The model's folder, what it answers (:mod:`hubquant.backends.probe`), and what is to be told of it."""
        from hubquant.convert.plain import load_whole

        source, backend, target = context.read(self.component.pulled), self.backend, folder / self.plan.name
        shutil.rmtree(target, ignore_errors=True)  # of a process that was killed
        with context.progress.doing(f"quantizing by {self.backend.name}"), quietly():
            on_load = backend.saves_what_is_loaded
            configuration = backend.configuration(self.type, "transformers", self.skip) if on_load else None
            model: Any = load_whole(source.checkpoint, source.model_folder, self.device, configuration)
            if not on_load:
                model = backend.quantized(model, self.type, self.skip, self._inputs())
            n_layers, left = self._layers(model)
            with writing(target):
                target.mkdir()
                backend.save(model, self.type, target, "transformers")
                for name in OF_TOKENIZERS:
                    if (found := source.tokenizer_folder / name).is_file() and not (target / name).exists():
                        shutil.copyfile(found, target / name)
            write_marker(target, Marker(backend=backend.name, type=self.type, versions=self._versions, skipped=left))
            keep_answers(model, folder / PROBE)
        facts = FolderFacts(_size(target), self.component.n_parameters, n_layers, left, self._versions)
        keep_facts(folder / FACTS, facts)

    def read(self, folder: Path) -> Path:
        return folder / self.plan.name

    def facts(self, context: Context) -> FolderFacts:
        from pydantic import TypeAdapter

        return TypeAdapter(FolderFacts).validate_json((context.store.path(self) / FACTS).read_bytes())

    @property
    def _versions(self) -> dict[str, str]:
        from importlib.metadata import version

        package = self.backend.package.name
        return {name: version(name) for name in ("torch", "transformers", package)}

    def _inputs(self) -> Sequence[Mapping[str, Tensor]]:
        return [{"input_ids": ids[None]} for ids in self.calibration.ids] if self.calibration else ()

    def _layers(self, model: Any) -> tuple[int, tuple[str, ...]]:
        """How many linear layers there are but for the output, and which of them are in floats still."""
        from torch import nn

        head = model.get_output_embeddings()
        layers = {
            name: self.backend.is_quantized(module)
            for name, module in model.named_modules()
            if module is not head and (isinstance(module, nn.Linear) or self.backend.is_quantized(module))
        }
        return len(layers), tuple(name for name, quantized in layers.items() if not quantized)


def keep_facts(path: Path, facts: FolderFacts) -> None:
    from pydantic import TypeAdapter

    write_at_once(path, TypeAdapter(FolderFacts).dump_json(facts))


def folder_plan(component: Component, label: str, device: Device = "auto") -> FolderPlan:
    """Raises ``RecipeError`` for an unknown library or type, ``UserError`` where its package is missing, and
    ``NotSupportedYet`` for what the library cannot do on ``device``, and for what is no language model in floats."""
    backend, type = named(label)
    moment: Moment = "load" if backend.saves_what_is_loaded else "after"
    place: Place = chosen_device(device)  # type: ignore[assignment]
    check(backend.name, type, "transformers", moment, "none", place)
    source = component.source
    if component.denoises or component.embeds or source.component:
        what = "a diffusion pipeline" if component.denoises or source.component else "an encoder"
        hint = "choose types of GGUF, such as Q8_0, or quantize it where it is used: hubquant.load"
        raise NotSupportedYet(f"{what} as a folder of {backend.name}", hint=hint)
    if not source.can_offload:
        hint = "start from the model's folder or repository"
        raise NotSupportedYet(f"a GGUF file as a folder of {backend.name}", hint=hint)
    return FolderPlan(label, component.n_parameters, _estimate(component, backend, type))


def _estimate(component: Component, backend: LibraryBackend, type: str) -> int:
    """Bytes of the weights."""
    found, bits = backend.types[type], 0.0
    for name, shape in component.shapes.items():
        is_layer = len(shape) > 1 and name not in NOT_QUANTIZED and name.endswith(".weight")
        scale = SCALE_BITS / (found.group or shape[-1])
        bits += math.prod(shape) * (found.bits + scale if is_layer else HALF_BITS)
    return math.ceil(bits / 8)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def folder_fingerprint(skip: Sequence[str]) -> str:
    """Of the settings that only folders depend on."""
    return fingerprint({"skip_modules": list(skip)})
