"""A Python library that holds the weights of a loaded model in fewer bits, and what it has to answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hubquant.errors import UserError
from hubquant.version import version_of

if TYPE_CHECKING:
    import torch

Framework = Literal["transformers", "diffusers"]
"""Whose model it is."""
Moment = Literal["load", "after"]
"""When weights are quantized: while they are loaded, or once they are."""


@dataclass(frozen=True)
class Package:
    """On PyPI, with the oldest version that this works with; ``extra`` is what hubquant calls it. ``module`` is what is
    imported, where that has another name."""

    name: str
    oldest: str
    extra: str
    module: str | None = None

    @property
    def installed(self) -> str | None:
        """The version that is there."""
        return version_of(self.name)

    def check(self) -> None:
        """Raises ``UserError`` with the command that installs it."""
        from packaging.version import Version

        found = self.installed
        if found is None:
            raise UserError(f"{self.name} is not installed", hint=f"pip install 'hubquant[{self.extra}]'")
        if Version(found) < Version(self.oldest):
            raise UserError(
                f"{self.name} {found} is too old",
                why=f"{self.oldest} is the oldest that works here",
                hint=f"pip install -U 'hubquant[{self.extra}]'",
            )


@dataclass(frozen=True)
class DataType:
    """What a weight becomes: ``bits`` without the scales, of which there is one for ``group`` weights of a row, or for
    a row where it is None. ``calibrated``: inputs of the model decide how it is rounded. ``mantissa``: bits of that of
    a float, None for integers.
    """

    name: str
    bits: float
    group: int | None = None
    calibrated: bool = False
    mantissa: int | None = None

    @property
    def half_step(self) -> float:
        """Half the largest distance of two values that are neighbours, relative to the largest value."""
        if self.mantissa is None:
            return 1 / (2**self.bits - 2)
        return 0.5 ** (self.mantissa + 1) / (2 - 0.5**self.mantissa)


class LibraryBackend(ABC):
    """Quantizes ``torch.nn.Linear`` layers of models of transformers and diffusers.

    Nothing of the library is imported before a method is called that works on a model or makes a configuration.
    """

    name: ClassVar[str]
    """In a recipe, before the colon."""
    package: ClassVar[Package]
    types: ClassVar[Mapping[str, DataType]]
    """By name, as the library calls them."""
    quantizes_on_load: ClassVar[bool] = True
    """Whether the frameworks quantize with it while they load weights."""
    traces: ClassVar[bool] = False
    """Whether it has to be shown an input of a model that has no ``dummy_inputs``."""
    only_as_saved: ClassVar[tuple[str, ...]] = ()
    """Types that compute in no other dtype than that of the model that was quantized."""

    @abstractmethod
    def configuration(self, type: str, framework: Framework, skip: Sequence[str] = ()) -> Any:
        """What ``from_pretrained`` takes as ``quantization_config``, which leaves out modules whose name holds one of
        ``skip``. None where the framework knows no such thing."""

    @abstractmethod
    def quantized(
        self, model: Any, type: str, skip: Sequence[str] = (), inputs: Sequence[Mapping[str, torch.Tensor]] = ()
    ) -> Any:
        """A loaded ``model`` in floats, quantized in place where the library can. ``inputs`` are what the model is
        called with, where the type is calibrated."""

    @abstractmethod
    def save(self, model: Any, type: str, folder: Path, framework: Framework) -> None:
        """Write config and weights of a quantized ``model`` such that :meth:`load` gives the same again."""

    @abstractmethod
    def load(self, folder: Path, kind: Any, framework: Framework, **options: Any) -> Any:
        """What :meth:`save` wrote, as a model of class ``kind`` in eval mode; ``options`` are ``from_pretrained``'s,
        such as dtype and device_map."""

    def computing(self, model: Any) -> AbstractContextManager[Any]:  # noqa: ARG002
        """Within it, layers of a quantized ``model`` can be called one by one."""
        return nullcontext()

    @abstractmethod
    def is_quantized(self, module: torch.nn.Module) -> bool:
        """Whether the weights of a layer are this library's."""

    def notes(self, type: str) -> tuple[str, ...]:  # noqa: ARG002
        """What the user should know before anything is quantized to the type. Raises ``UserError`` where this machine
        lacks what it needs."""
        return ()

    def fits(self, type: str, layer: torch.nn.Linear) -> bool:  # noqa: ARG002
        """Whether the type can divide the width of a layer; :meth:`quantized` leaves others in floats. Who makes a
        configuration has to skip them: the library would fail in the middle of a load."""
        return True
