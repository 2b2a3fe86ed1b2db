"""What the page of a repository tells of pictures: how they were drawn, and the pictures themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hubquant.backends.gguf.task import QuantizedFile
from hubquant.convert.diffusion.consumers import loaded_by
from hubquant.engine.task import Context
from hubquant.pipeline.drawing.held import made_from_pictures
from hubquant.publish.drawing import Drawing, TextEncoder
from hubquant.publish.grid import MOST_ROWS, Column, grid, thumbnail
from hubquant.sources.component import Component
from hubquant.sources.denoiser import DenoiserSource
from hubquant.sources.text_encoder import IN_COMFYUI, TextEncoderSource
from hubquant.units import counted, size

if TYPE_CHECKING:
    from torch import Tensor

    from hubquant.pipeline.drawing.measured import DrawingEvaluation
    from hubquant.pipeline.work import Work

SOURCE = "source"


def drawing_of(work: Work, context: Context) -> Drawing:
    """For the card of a denoiser's files. What was drawn must be there."""
    source = work.source
    assert isinstance(source, DenoiserSource)
    prompts = work.prompts
    return Drawing(
        pipeline=source.pipeline,
        denoiser=source.denoiser_class,
        part=source.component,
        is_video=source.denoiser.family.videos and "ToImage" not in source.pipeline,
        prompts=tuple(prompts.evaluation or ())[:MOST_ROWS] if prompts else (),
        settings=_settings(work, context),
        n_calibrated=len(prompts.calibration or ()) if prompts else 0,
    )


def text_encoder_of(component: Component) -> TextEncoder | None:
    """For the card of a text encoder's files, where programs that draw load them."""
    architecture, source = component.conversion.architecture, component.source
    if not isinstance(source, TextEncoderSource) or architecture not in IN_COMFYUI:
        return None
    return TextEncoder(source.component, "--t5xxl" if architecture == "t5encoder" else "--llm")


def programs_of(file: QuantizedFile) -> tuple[str, ...]:
    """Those that load it, by name: a denoiser in several parts none does."""
    source = file.component.source
    if not isinstance(source, DenoiserSource) or file.plan.n_shards > 1:
        return ()
    family, types, shapes = source.denoiser.family.name, set(file.plan.types.values()), file.component.shapes
    return tuple(each.name for each in loaded_by(family, source.file_layout, types, shapes))


def drawn_grid(evaluations: Sequence[DrawingEvaluation], context: Context) -> bytes:
    """WebP: rows are prompts, columns the source and what ``evaluations`` are of, of which there is at least one."""
    baseline = evaluations[0].baseline
    source = context.read(baseline)
    numbers = range(baseline.settings.count)
    drawn: dict[tuple[str, str], list[Tensor]] = {
        (SOURCE, "as it is"): [source.drawn(number).pictures[0] for number in numbers]
    }
    for each in evaluations:
        folder = context.store.path(each)
        drawn[each.name, size(each.size(context))] = [each.picture(folder, number) for number in numbers]
    with TemporaryDirectory() as place:
        columns = [
            Column(title, subtitle, _saved(Path(place) / str(number), pictures))
            for number, ((title, subtitle), pictures) in enumerate(drawn.items())
        ]
        return grid(baseline.prompts, columns)


def _saved(folder: Path, pictures: Sequence[Tensor]) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        path.write_bytes(thumbnail(picture))
    return paths


def _settings(work: Work, context: Context) -> str:
    """ "28 steps, 1024 × 1024 pixels"."""
    first = next(iter(work.tasks.drawings), None)
    if first is None:
        return ""
    picture = context.read(first.baseline).drawn(0).pictures
    n_frames, (height, width) = picture.shape[1], picture.shape[-2:]
    steps = len(context.read(first).fidelity.by_step)
    frames = [counted(n_frames, "frame")] if n_frames > 1 else []
    return ", ".join([counted(steps, "step"), f"{width} × {height} pixels", *frames])


def made_of_pictures(work: Work) -> Mapping[str, object] | None:
    """What the measurements depend on; None where nothing was measured."""
    prompts = work.prompts.evaluation if work.prompts else None
    return None if prompts is None else made_from_pictures(work.recipe.evaluate.pictures, prompts)
