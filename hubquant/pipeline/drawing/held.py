"""What tasks hold open together: a diffusers pipeline with its source's weights, or with those of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.diffusers_files import AGAIN
from hubquant.checkpoint.json_files import CONFIG, read_table
from hubquant.devices import Device
from hubquant.engine.machine import free_memory_bytes
from hubquant.engine.task import FP32_BYTES, Context, Cost, Shared, T_co, Task
from hubquant.models.diffusion.placement import FOR_WEIGHTS, VAE
from hubquant.pipeline.costs import HALF_BYTES, LIBRARIES_BYTES, on_device
from hubquant.pipeline.held import other_device, rate_on
from hubquant.recipe.pictures import Pictures
from hubquant.sources.component import Component
from hubquant.sources.denoiser import DenoiserSource
from hubquant.sources.pulled import Pulled
from hubquant.units import counted
from hubquant.version import __version__

if TYPE_CHECKING:
    import torch

USUAL_STEPS, USUAL_EDGE = 30, 1024
"""Where a recipe leaves them to the pipeline: for estimates only."""
CHANNEL_BYTES, USUAL_CHANNELS = 48, 128
"""What a VAE takes to decode a pixel in float32, for each channel of its last block: measured of AutoencoderKL with 128
of them, as most have, which took 6 kB."""


@dataclass(frozen=True, eq=False)
class PulledPipeline(Pulled):
    """All that a pipeline loads: its ``denoiser``, and the rest."""

    kind = "found pipeline"

    source: DenoiserSource
    denoiser: Pulled

    @classmethod
    def of(cls, denoiser: Pulled) -> PulledPipeline:
        source = denoiser.source
        assert isinstance(source, DenoiserSource)
        return cls(source.whole_pipeline, denoiser)

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"denoiser": self.denoiser} if self.source.remote else {}

    @property
    def cost(self) -> Cost:
        return Cost(download_bytes=self.source.download_bytes - self.denoiser.source.download_bytes)


@dataclass(frozen=True)
class LoadedPipeline(Shared):
    """The source's pipeline on ``device``, offloaded where it does not fit."""

    pulled: PulledPipeline
    device: Device = "auto"

    @contextmanager
    def open(self, context: Context) -> Iterator[Any]:
        from hubquant.models.diffusion import load_pipeline

        with context.store.scratch(self.pulled) as folder:
            with context.progress.doing("loading the pipeline"):
                pipe = load_pipeline(context.read(self.pulled).folder, self.device, disk=folder)
            yield pipe


@dataclass(frozen=True, eq=False)
class DrawingTask(Task[T_co]):
    """Draws pictures of ``settings``, each of one of the ``prompts``, with ``model``, the ``component``'s source."""

    component: Component
    settings: Pictures
    prompts: tuple[str, ...]
    model: LoadedPipeline

    @property
    def detail(self) -> str:
        return described(self.settings)

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.model.pulled}

    @property
    def made_from(self) -> Mapping[str, Any]:
        facts = {"hubquant": __version__, **other_device(self.model.device)}
        return {**made_from_pictures(self.settings, self.prompts), **facts}

    @property
    def rate(self) -> str:
        return rate_on("draw", self.model.device)

    @property
    def shares(self) -> LoadedPipeline:
        return self.model


@contextmanager
def pipeline_of_file(
    pulled: PulledPipeline, component: Component, file: Path, device: Device, context: Context
) -> Iterator[Any]:
    """The pipeline with the weights of ``file``, one of the ``component``, in the place of its own."""
    from hubquant.convert.diffusion.restore import put_weights
    from hubquant.gguf_file import GGUFFile
    from hubquant.models.diffusion import load_pipeline

    def put(denoiser: torch.nn.Module) -> None:
        put_weights(denoiser, GGUFFile.open(file), component.conversion)

    with context.store.scratch(pulled) as folder:
        with context.progress.doing(f"loading {file.name}"):
            source = context.read(pulled)
            pipe = load_pipeline(source.folder, device, disk=folder, changed={component.name: put})
        yield pipe


def drawing_cost(model: LoadedPipeline, component: Component, settings: Pictures, passes: int = 1) -> Cost:
    """Of drawing the pictures of ``settings``, ``passes`` times."""
    weights, free = model.pulled.source.pipeline_weights, FOR_WEIGHTS * free_memory_bytes()
    loaded = weights if HALF_BYTES * weights <= free else component.n_parameters  # or offloaded but for one part
    of_weight = FP32_BYTES if FP32_BYTES * loaded <= free else HALF_BYTES
    width, height = settings.width_and_height or (USUAL_EDGE, USUAL_EDGE)
    decoded = _bytes_of_pixel(model.pulled.source.folder) * width * height * settings.batch
    there = on_device(model.device)
    return Cost(
        ram_bytes=LIBRARIES_BYTES + of_weight * loaded + (0 if there else decoded),
        device_bytes=HALF_BYTES * weights + decoded if there else 0,
        work=float(passes * settings.count * (settings.steps or USUAL_STEPS) * component.n_parameters),
    )


def _bytes_of_pixel(folder: Path) -> int:
    """While the VAE of the pipeline in ``folder`` decodes it."""
    config = read_table(path, hint=AGAIN) if (path := folder / VAE / CONFIG).is_file() else {}
    blocks = config.get("block_out_channels")
    found = blocks[0] if isinstance(blocks, list) and blocks else config.get("base_dim")
    return CHANNEL_BYTES * (found if isinstance(found, int) and found > 0 else USUAL_CHANNELS)


def made_from_pictures(settings: Pictures, prompts: tuple[str, ...]) -> Mapping[str, Any]:
    """What pictures depend on beside the model: the prompts by their words, however they are named."""
    return {"prompts": list(prompts), **settings.model_dump(mode="json", exclude={"prompts"})}


def described(settings: Pictures) -> str:
    names = ", ".join(source.display_name for source in settings.prompts)
    return f"{counted(settings.count, 'picture')} of {names}"
