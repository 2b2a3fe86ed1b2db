"""GPTQ and AWQ: integers in words, GPTQ's along the inputs and AWQ's along the outputs, with scales and zero points.

Layouts of AutoGPTQ and GPTQModel (``qweight`` [in * bits / 32, out], ``qzeros`` [n_groups, out * bits / 32], ``scales``
[n_groups, out], ``g_idx`` [in]) and of AutoAWQ's version gemm (``qweight`` [in, out * bits / 32], the others as there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.codings.found import Found, floats, misfit
from hubquant.checkpoint.codings.integers import WORD, q4_0, scaled, unpacked
from hubquant.checkpoint.headers import FLOATS, TensorInfo, listed
from hubquant.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_GPTQ_BITS = (2, 3, 4, 8)
_AWQ_BITS = 4
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word the eight neighbours are, counted from the lowest bits."""


@dataclass(frozen=True)
class GPTQ:
    """``groups`` tells the group of each input, where there is such a tensor; zero points are stored less
    ``stored_less``, and may all be in the middle where it is ``symmetric``."""

    weight: TensorInfo
    zeros: TensorInfo
    scales: TensorInfo
    groups: TensorInfo | None
    bits: int
    stored_less: int
    symmetric: bool

    @property
    def label(self) -> str:
        return f"GPTQ, {self.bits} bits"

    def decode(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        codes, zeros, scales, groups = self._parts(read)
        return scaled(codes, scales, zeros, groups)

    @property
    def type(self) -> str | None:
        return "Q4_0" if self.bits == 4 and self.symmetric else None

    def blocks(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor | None:
        import torch

        codes, zeros, scales, groups = self._parts(read)
        n_columns, n_groups = codes.shape[1], scales.shape[1]
        if not bool((zeros == 8).all()) or n_columns % n_groups:
            return None
        if groups is not None and not bool((groups == torch.arange(n_columns) // (n_columns // n_groups)).all()):
            return None
        return q4_0(codes, scales)

    def _parts(
        self, read: Callable[[TensorInfo], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Codes [out, in], zero points and scales [out, n_groups], and the group of each input."""
        codes = unpacked(read(self.weight).T, self.bits)
        # A zero point of 0 is stored as that of the most, less one: it wraps around.
        zeros = (unpacked(read(self.zeros), self.bits).T + self.stored_less) & ((1 << self.bits) - 1)
        scales, groups = read(self.scales).T, None
        if self.groups is not None:
            groups = read(self.groups).long()
            if not bool(((groups >= 0) & (groups < scales.shape[1])).all()):
                raise CheckpointError(
                    f"{listed([self.groups.name])} names groups that are not there",
                    why=f"{listed([self.scales.name])} has {scales.shape[1]}",
                    hint="fetch the files again",
                )
        return codes, zeros, scales, groups


@dataclass(frozen=True)
class AWQ:
    weight: TensorInfo
    zeros: TensorInfo
    scales: TensorInfo

    @property
    def label(self) -> str:
        return f"AWQ, {_AWQ_BITS} bits"

    @property
    def type(self) -> str | None:
        return None  # zero points are anywhere, and Q4_1's F16 does not hold their products with scales

    def decode(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        return scaled(self._numbers(read(self.weight)), read(self.scales).T, self._numbers(read(self.zeros)))

    def blocks(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor | None:  # noqa: ARG002
        return None

    @staticmethod
    def _numbers(words: torch.Tensor) -> torch.Tensor:
        """[.., out / 8] -> [out, ..]"""
        in_words = unpacked(words, _AWQ_BITS)
        return in_words.reshape(len(words), -1, len(_AWQ_ORDER))[..., list(_AWQ_ORDER)].flatten(1).T


def find_gptq(tensors: Mapping[str, TensorInfo], settings: Mapping[str, Any]) -> Iterator[Found]:
    """Nothing where ``settings``, the quantization_config, tell of another layout. Raises ``CheckpointError`` for
    shapes that do not fit together."""
    less = {"gptq": 1, "gptq_v2": 0}.get(str(settings.get("checkpoint_format", "gptq")))
    if less is None:
        return
    for stem, weight, zeros, scales in _triples(tensors):
        bits = _bits(zeros, scales)
        n_in = weight.shape[0] * WORD // bits if bits in _GPTQ_BITS else 0
        groups = tensors.get(f"{stem}g_idx")
        fits = n_in and weight.shape[1] == scales.shape[1] and weight.shape[0] * WORD == n_in * bits
        if not fits or (groups is not None and (groups.dtype, groups.shape) != ("I32", (n_in,))):
            raise misfit(weight, zeros, scales)
        if groups is None and n_in % scales.shape[0]:
            raise misfit(weight, zeros, scales)
        coding = GPTQ(weight, zeros, scales, groups, bits, less, settings.get("sym") is not False)
        names = [f"{stem}{part}" for part in ("qweight", "qzeros", "scales", "g_idx")]
        yield f"{stem}weight", floats(f"{stem}weight", (weight.shape[1], n_in), scales, coding), tuple(names)


def find_awq(tensors: Mapping[str, TensorInfo], settings: Mapping[str, Any]) -> Iterator[Found]:
    """As :func:`find_gptq`."""
    if str(settings.get("version", "gemm")).lower() != "gemm":
        return
    for stem, weight, zeros, scales in _triples(tensors):
        n_in, n_out = weight.shape[0], scales.shape[1]
        if _bits(zeros, scales) != _AWQ_BITS or weight.shape[1] != zeros.shape[1] or n_in % scales.shape[0]:
            raise misfit(weight, zeros, scales)
        names = tuple(f"{stem}{part}" for part in ("qweight", "qzeros", "scales"))
        coding = AWQ(weight, zeros, scales)
        yield f"{stem}weight", floats(f"{stem}weight", (n_out, n_in), scales, coding), names


def _triples(tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[str, TensorInfo, TensorInfo, TensorInfo]]:
    """What the names of a layer's tensors begin with, and its qweight, qzeros and scales."""
    for name, weight in tensors.items():
        if not name.endswith(".qweight"):
            continue
        stem = name.removesuffix("qweight")
        zeros, scales = tensors.get(f"{stem}qzeros"), tensors.get(f"{stem}scales")
        if zeros is None or scales is None:
            raise CheckpointError(
                f"{listed([name])} has no {'scales' if zeros else 'qzeros'} beside it", hint="fetch the files again"
            )
        if any(len(x.shape) != 2 or 0 in x.shape for x in (weight, zeros, scales)):
            raise misfit(weight, zeros, scales)
        if (weight.dtype, zeros.dtype) != ("I32", "I32") or scales.dtype not in FLOATS:
            raise misfit(weight, zeros, scales)
        yield stem, weight, zeros, scales


def _bits(zeros: TensorInfo, scales: TensorInfo) -> int:
    """Of one number; 0 where the shapes say no whole one."""
    bits, rest = divmod(WORD * zeros.shape[1], scales.shape[1])
    return 0 if rest or zeros.shape[0] != scales.shape[0] else bits
