"""Rows of a dataset, streamed from the Hub or from a local folder. ``datasets`` runs no dataset scripts any more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.calibration.files import Row
from hubquant.disk import user_path
from hubquant.errors import CalibrationError, HubAccessError, HubquantError, HubUnavailableError
from hubquant.recipe.schema import TextSource

if TYPE_CHECKING:
    import datasets

SHUFFLE_BUFFER = 10_000  # rows
READ_AT_ONCE = 100  # rows


def local_folder(source: TextSource) -> Path | None:
    """The dataset folder that ``source`` names. A dataset is on the Hub, whatever has its name here."""
    folder = user_path(source.file) if source.file else None
    return folder if folder and os.path.isdir(folder) else None


def read_dataset(source: TextSource, seed: int) -> Iterator[Row]:
    """Rows in the dataset's order; of a Hub dataset with ``samples``, that many rows of a seeded shuffle.

    Raises ``CalibrationError`` naming what exists for an unknown dataset, configuration or split, ``HubAccessError``
    for a gated dataset and ``HubUnavailableError`` without network.
    """
    try:
        with _quiet():
            rows = _open(source)
            if local_folder(source) is None:  # of a folder's rows the caller chooses
                if source.samples is not None:
                    rows = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
                rows = rows.skip(source.skip) if source.skip else rows
                rows = rows if source.samples is None else rows.take(source.samples)
            iterator = iter(rows)
        while some := _next(iterator):
            yield from some
    except HubquantError:
        raise
    except Exception as error:  # datasets, huggingface_hub, fsspec, pyarrow and the HTTP client each raise their own
        raise _explained(source, error) from error


def _open(source: TextSource) -> datasets.IterableDataset:
    from datasets import DatasetDict, load_dataset, load_from_disk

    folder = local_folder(source)
    if folder is None:
        return _open_hub(source)
    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return load_dataset(str(folder), source.config, split=source.split, streaming=True)
    stored = load_from_disk(str(folder))
    if isinstance(stored, DatasetDict):
        if source.split not in stored:
            raise ValueError(f"Bad split: {source.split}. Available splits: {sorted(stored)}")
        stored = stored[source.split]
    return stored.to_iterable_dataset()


def _open_hub(source: TextSource) -> datasets.IterableDataset:
    """Never what lies here under that name, nor, for the name of a format, what lies in the current folder."""
    from datasets import load_dataset
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if source.dataset in _PACKAGED_DATASETS_MODULES:
        raise CalibrationError(
            f"{source.dataset} is a format and no dataset", hint="write a Hub id such as Salesforce/wikitext"
        )
    place = f"hf://datasets/{source.dataset}"
    return load_dataset(place, source.config, split=source.split, revision=source.revision, streaming=True)


def _next(iterator: Iterator[Row]) -> list[Row]:
    with _quiet():
        return list(islice(iterator, READ_AT_ONCE))


def _explained(source: TextSource, error: Exception) -> HubquantError:
    name = source.dataset or source.file
    why = (str(error).strip() or type(error).__name__).splitlines()[0]
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if local_folder(source) is None:
        if "gated" in why or "GatedRepoError" in kinds:
            return HubAccessError(
                f"dataset {name} is gated",
                hint=f"accept its terms at https://huggingface.co/datasets/{name}, then run: hf auth login",
            )
        if kinds & {"ConnectionError", "TimeoutError", "TransportError", "OfflineModeIsEnabled"}:
            return HubUnavailableError(
                f"dataset {name} cannot be read",
                why=why,
                hint="check the network, or use a local file or the bundled text instead",
            )
    hint = "check config, split and revision of the dataset"
    if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError", "HFValidationError"}:
        hint = f"check it at https://huggingface.co/datasets/{name}; if it is private, run: hf auth login"
    return CalibrationError(f"dataset {name} cannot be read", why=why, hint=hint)


@contextmanager
def _quiet() -> Iterator[None]:
    import datasets
    from datasets.utils import logging

    bars: Any = datasets.is_progress_bar_enabled()
    verbosity = logging.get_verbosity()
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
