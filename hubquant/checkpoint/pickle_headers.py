"""What tensors a pickled file holds, from the few bytes of it that name them: nothing of it is called.

torch saves a zip whose data.pkl has names, dtypes and shapes, and whose other members are the numbers.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hubquant.checkpoint.headers import ReadRange, TensorInfo, listed
from hubquant.errors import CheckpointError

LARGEST_PICKLE = 100_000_000  # bytes
INSIDE = ("state_dict", "model", "module", "params_ema", "ema")
"""Under which training programs keep the weights, beside what else they save."""
_STORAGES: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "DoubleStorage": ("F64", 8),
        "FloatStorage": ("F32", 4),
        "HalfStorage": ("F16", 2),
        "BFloat16Storage": ("BF16", 2),
        "LongStorage": ("I64", 8),
        "IntStorage": ("I32", 4),
        "ShortStorage": ("I16", 2),
        "CharStorage": ("I8", 1),
        "ByteStorage": ("U8", 1),
        "BoolStorage": ("BOOL", 1),
    }
)
"""Of torch's classes: the dtype in safetensors, and bytes of a number."""


@dataclass
class _Tensor:
    """``kind`` is as in _STORAGES. What a pickle sets of it besides is of no use."""

    kind: tuple[str, int]
    shape: tuple[int, ...]


def pickled_header(read_range: ReadRange, file: str, size: int) -> dict[str, TensorInfo]:
    """By name. ``read_range(begin, end)`` gives those bytes of the file, from a disk or over HTTP. Raises
    ``CheckpointError`` for what holds no tensors, or more than tensors and plain containers."""
    try:
        with zipfile.ZipFile(io.BufferedReader(_Ranges(read_range, size), 1 << 16)) as archive:
            (name,) = [each for each in archive.namelist() if each.rpartition("/")[2] == "data.pkl"]
            if archive.getinfo(name).file_size > LARGEST_PICKLE:
                raise CheckpointError(f"{file} names more than a model has", why=f"{name} is too large")
            content = _Unpickler(io.BytesIO(archive.read(name))).load()
    except (zipfile.BadZipFile, ValueError) as error:
        raise CheckpointError(
            f"{file} is in the format of old versions of torch, or damaged",
            why="only all of it would tell what it holds",
            hint="download the model, and name its folder",
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} cannot be read without running code",
            why=str(error)[:200],
            hint="save the tensors with the program that made it: safetensors.torch.save_file(state_dict, FILE)",
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # whatever damaged bytes make of the unpickler
        raise CheckpointError(
            f"{file} is not a sound pickle of tensors", why=type(error).__name__, hint="fetch the file again"
        ) from error
    return {name: _info(name, x, file) for name, x in inner(content, _Tensor, file).items()}


def inner(content: Any, kind: type[Any], file: str) -> dict[str, Any]:
    """The table of tensors, which are of ``kind``, in what was unpickled. Raises ``CheckpointError`` for none."""
    for _ in INSIDE:
        found = next((content[key] for key in INSIDE if isinstance(content, Mapping) and key in content), None)
        content = found if isinstance(found, Mapping) else content
    table = content if isinstance(content, Mapping) else {}
    tensors = {name: x for name, x in table.items() if isinstance(name, str) and isinstance(x, kind)}
    if not tensors:
        raise CheckpointError(f"{file} holds no tensors", hint="name a file with the weights of a model")
    return tensors


class _Unpickler(pickle.Unpickler):
    """Knows the names that a table of tensors has in it, each of which stands for something here, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch._utils" and (found := _REBUILT.get(name)):
            return found
        raise pickle.UnpicklingError(f"it calls {listed([f'{module}.{name}'])}")

    def persistent_load(self, pid: Any) -> Any:
        """Of a storage (its name, class, number, device and size), the class."""
        return pid[1]


def _tensor(storage: Any, _offset: Any, shape: Any, *_others: Any) -> _Tensor:
    if storage not in _STORAGES.values() or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        raise pickle.UnpicklingError("a tensor of it is no plain array of numbers")
    return _Tensor(storage, tuple(shape))


def _parameter(data: Any, *_others: Any) -> Any:
    return data


_REBUILT: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"_rebuild_tensor_v2": _tensor, "_rebuild_parameter": _parameter}
)


def _info(name: str, x: _Tensor, file: str) -> TensorInfo:
    dtype, nbytes = x.kind
    for n in x.shape:
        nbytes *= n
    return TensorInfo(name, dtype, x.shape, file, 0, nbytes)


class _Ranges(io.RawIOBase):
    """A file of which ranges are read."""

    def __init__(self, read_range: ReadRange, size: int) -> None:
        self._read_range, self._size, self._place = read_range, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence])
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self._size, self._place + len(buffer))
        data = self._read_range(self._place, end) if end > self._place else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
