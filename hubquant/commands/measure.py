"""``hubquant evaluate``: baselines, divergence and perplexity of single models and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.commands.files import text_sources
from hubquant.commands.runnable import open_runnable
from hubquant.commands.targets import check_target
from hubquant.convert.restore import load_model
from hubquant.devices import default_device
from hubquant.disk import writing
from hubquant.engine.progress import Progress
from hubquant.gguf_file import GGUFFile
from hubquant.pipeline.work import measure_baseline
from hubquant.recipe.schema import Evaluate

if TYPE_CHECKING:
    from hubquant.evaluate import Divergence, Perplexity


def baseline(model: str, texts: Sequence[str], out: Path, chunks: int, chunk_size: int, progress: Progress) -> Path:
    """Store the source model's next-token distributions in ``out``."""
    from hubquant.calibration import build

    check_target(out, "baseline")
    runnable = open_runnable(model, None, progress)
    sources = text_sources(texts, Evaluate().sources)
    with progress.doing("tokenizing"):
        tokens = build(sources, runnable.source.tokenizer(), chunk_size, chunks, seed=0)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    source = runnable.source
    measure_baseline(runnable.load(progress), source.full_name, source.exact_revision, tokens, out, progress)
    return out


def divergence(file: Path, baseline: Path, progress: Progress) -> Divergence:
    """How far a GGUF file is from a stored baseline."""
    from hubquant.evaluate import Baseline, compare
    from hubquant.models.language_model import LanguageModel

    gguf = GGUFFile.open(file)
    with Baseline.open(baseline) as stored, progress.bar(file.name, stored.n_chunks, "chunks") as advance:
        return compare(LanguageModel(load_model(gguf, default_device())), stored, advance=advance)


def perplexity(model: str, texts: Sequence[str], chunks: int, chunk_size: int, progress: Progress) -> Perplexity:
    """Of a checkpoint or a GGUF file; the file's own tokenizer cuts the text."""
    from hubquant.calibration import build
    from hubquant.evaluate import perplexity as measure
    from hubquant.models.language_model import LanguageModel

    runnable = open_runnable(model, None, progress)
    sources = text_sources(texts, Evaluate().sources)
    with progress.doing("tokenizing"):
        tokens = build(sources, runnable.source.tokenizer(), chunk_size, chunks, seed=0)
    loaded = LanguageModel(runnable.load(progress))
    with progress.bar("perplexity", len(tokens), "chunks") as advance:
        return measure(loaded, tokens, advance=advance)
