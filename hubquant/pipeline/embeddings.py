"""How much a file's embeddings are like those of its source model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.devices import Device
from hubquant.engine.task import Context, Cost, Task
from hubquant.pipeline.costs import running_cost
from hubquant.pipeline.held import LoadedFile, LoadedModel, other_device, rate_on
from hubquant.pipeline.results import FileMeasurement, describe
from hubquant.sources.component import Component
from hubquant.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from hubquant.calibration import Chunks
    from hubquant.evaluate import Similarity

EMBEDDINGS = "embeddings.safetensors"
NAME = "embeddings"


@dataclass(frozen=True, eq=False)
class EmbeddingsTask(Task[Path]):
    """Of each of ``chunks``, which is a text of its own, by ``model``, which is the component's."""

    kind = "embeddings"

    component: Component
    chunks: Chunks
    model: LoadedModel

    @property
    def detail(self) -> str:
        return describe(self.chunks, "text")

    @property
    def label(self) -> str:
        return "embeddings"

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.component.pulled}

    @property
    def made_from(self) -> Mapping[str, Any]:
        facts = {"tokens": self.chunks.fingerprint, "pooling": self.component.pooling, "hubquant": __version__}
        return {**facts, **other_device(self.model.device)}

    @property
    def cost(self) -> Cost:
        return embedding_cost(self.component, self.chunks, self.model.device, self.component.source.bytes_of_weight)

    @property
    def rate(self) -> str:
        return rate_on(self.kind, self.model.device)

    @property
    def shares(self) -> LoadedModel:
        return self.model

    def make(self, folder: Path, context: Context) -> None:
        from safetensors.torch import save_file

        save_file({NAME: embed(self, context, self.label)}, folder / EMBEDDINGS)

    def read(self, folder: Path) -> Path:
        return folder / EMBEDDINGS


@dataclass(frozen=True, eq=False)
class EmbeddingEvaluation(FileMeasurement["Similarity"]):
    """How alike ``file``, which is called ``name``, embeds the texts of ``baseline``."""

    kind = "embedding-evaluation"

    file: Task[Path]
    baseline: EmbeddingsTask
    name: str
    device: Device = "auto"

    @property
    def type(self) -> type[Similarity]:
        from hubquant.evaluate import Similarity

        return Similarity

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"file": self.file, "baseline": self.baseline}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"hubquant": __version__, **other_device(self.device)}

    @property
    def cost(self) -> Cost:
        return embedding_cost(self.baseline.component, self.baseline.chunks, self.device)

    @property
    def rate(self) -> str:
        return rate_on(self.kind, self.device)

    @property
    def shares(self) -> LoadedFile:
        return LoadedFile(self.file, self.device)

    def measure(self, folder: Path, context: Context) -> Similarity:  # noqa: ARG002
        from safetensors.torch import load_file

        from hubquant.evaluate.similarity import compare_embeddings

        source, chunks = load_file(context.read(self.baseline))[NAME], self.baseline.chunks
        found = embed(self.baseline, context, self.detail)
        return compare_embeddings(source, found, chunks.n_tokens, self.baseline.component.pooling)


def embed(texts: EmbeddingsTask, context: Context, label: str) -> Tensor:
    """float32 [n, width], by the model that is held."""
    import torch

    from hubquant.models.encoder import Encoder

    encoder, ids = Encoder(context.held, texts.component.pooling), texts.chunks.ids
    embeddings = []
    with context.progress.bar(label, len(ids), "texts") as advance:
        for text in ids:
            embeddings.append(encoder(text))
            advance(1)
    return torch.stack(embeddings)


def embedding_cost(component: Component, chunks: Chunks, device: Device, bytes_of_weight: float = 4.0) -> Cost:
    """Of running a component, or a file of it, over ``chunks``."""
    disk = 4 * len(chunks) * component.width
    return running_cost(
        component.n_parameters, chunks.n_tokens, disk_bytes=disk, device=device, bytes_of_weight=bytes_of_weight
    )
