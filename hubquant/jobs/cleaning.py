"""A job's files, once they are no longer needed. What hubquant did not make there is left alone."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

from hubquant.disk import writing
from hubquant.errors import HubquantError, UserError
from hubquant.jobs.job import JobFolder, Order
from hubquant.units import size


def disk_use(files: JobFolder) -> int:
    """Bytes of a job's files; a link into the store counts as the file."""
    total = 0
    for folder, _, names in os.walk(files.root):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def check_room(n_bytes: int, left: int | None) -> None:
    """Raises ``UserError`` where files of so many bytes are more than is ``left`` to their owner, None for no limit."""
    if left is not None and n_bytes > left:
        raise UserError(
            f"the files would have {size(n_bytes)}",
            why=f"{size(max(left, 0))} are left of what you may keep here",
            hint="remove a finished job of yours, or choose fewer types",
        )


def forget_uploads(files: JobFolder, order: Order) -> None:
    with writing(files.root):
        for name in order.uploads:
            (files.uploads / name).unlink(missing_ok=True)
        _remove_empty(files.uploads)


def forget_files(files: JobFolder, order: Order) -> None:
    """All that belongs to a job which does not run. Raises ``OutputError``."""
    from hubquant.pipeline.output_folder import FOLDER, OutputFolder

    forget_uploads(files, order)
    with writing(files.root):
        for model in order.models:
            root = files.outputs / model.folder
            with suppress(HubquantError):  # not hubquant's: it stays
                output = OutputFolder(root)
                if not output.was_ours:
                    continue
                for name in list(output):
                    output.remove(name)
                shutil.rmtree(root / FOLDER)
            for folder, _, _ in os.walk(root, topdown=False):
                _remove_empty(files.outputs / folder)
        _remove_empty(files.outputs)
        records = (files.records, files.records.with_name(f"{files.records.name}.lock"))
        for path in (*records, files.log, files.lock):
            path.unlink(missing_ok=True)
        _remove_empty(files.root)


def _remove_empty(folder: os.PathLike[str]) -> None:
    with suppress(OSError):
        os.rmdir(folder)
