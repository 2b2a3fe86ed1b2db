"""HDF5 files whose arrays lie where they are told, so that plain writes fill them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from hubquant.evaluate.hdf5 import describe


def create(path: Path, attributes: Mapping[str, str], arrays: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """A file with contiguous ``arrays`` of shape and dtype, whose places are fixed now and not filled; no timestamps.

    The HDF5 library does no more than this: its structure never changes after, so that a kill at any moment leaves a
    sound file. Raises ``OSError``.
    """
    path.unlink(missing_ok=True)  # the library takes one that it could not close for open
    try:
        with h5py.File(path, "w", libver="latest") as file:
            file.attrs.update(attributes)
            for name, (shape, dtype) in arrays.items():
                settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                settings.set_obj_track_times(False)
                type_id = h5py.h5t.py_create(np.dtype(dtype))
                h5py.h5d.create(file.id, name.encode(), type_id, h5py.h5s.create_simple(shape), settings)
    except RuntimeError as error:  # what fails when the file is closed; the system's error is in the text
        raise OSError(str(error)) from error


def places(path: Path) -> dict[str, int]:
    """The byte at which each array of a sound file begins."""
    return {name: array["offset"] for name, array in describe(str(path))["arrays"].items()}
