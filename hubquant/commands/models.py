"""Models that a command runs."""

from __future__ import annotations

from hubquant.commands.flags import model as reference
from hubquant.convert.conversion import Conversion
from hubquant.engine.progress import Progress
from hubquant.errors import NotSupportedYet
from hubquant.pipeline.work import open_model
from hubquant.sources.pulled import Pulled


def open_runnable(model: str, pre_tokenizer: str | None, progress: Progress) -> tuple[Pulled, Conversion]:
    """A Hub id, a folder or a GGUF file of any type; no weight is read yet."""
    pulled, conversion = open_model(reference(model), pre_tokenizer, progress)
    if conversion.cannot_run:
        raise NotSupportedYet(f"running {conversion.architecture} models", why=conversion.cannot_run)
    return pulled, conversion
