"""What tasks keep in their folders: small values as JSON, and the state of unfinished work."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.engine.task import Context, Task
from hubquant.engine.values import Value, keep_value, read_value
from hubquant.units import counted

if TYPE_CHECKING:
    from hubquant.calibration import Chunks

RESULT = "result.json"
SNAPSHOT = "snapshot"
REPORT = "report.h5"


def describe(chunks: Chunks, unit: str = "chunk") -> str:
    return f"{counted(len(chunks), unit)} of {chunks.chunk_size} tokens from {', '.join(chunks.datasets)}"


class Measurement(Task[Value]):
    """A task whose result is one small value."""

    @property
    @abstractmethod
    def type(self) -> type[Value]: ...

    @abstractmethod
    def measure(self, folder: Path, context: Context) -> Value:
        """The value; ``folder`` is for state that a killed process leaves."""

    def make(self, folder: Path, context: Context) -> None:
        keep_value(folder / RESULT, self.measure(folder, context))

    def read(self, folder: Path) -> Value:
        return read_value(folder / RESULT, self.type)


class FileMeasurement(Measurement[Value]):
    """Of a file that is called ``name``, against its source model."""

    name: str

    @property
    def step(self) -> str:
        return "evaluate"

    @property
    def detail(self) -> str:
        return self.name
