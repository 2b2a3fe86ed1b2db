"""Which library quantizes which model on which device, and what it stands then: rules, of which the first that fits
holds.

Seen on a CPU with bitsandbytes 0.50.2, optimum-quanto 0.2.7, torchao 0.18.0, nncf 3.4.0, sdnq 0.2.8, diffusers 0.42.1,
transformers 5.23.0 and torch 2.13.0; ``python -m benchmarks.backends`` tries the cells of a CPU again. What is said of
other devices is read in the code of the libraries, or follows from what their tensors do on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from hubquant.backends.libraries.library import Framework, Moment

Offload = Literal["none", "cpu", "sequential", "balanced", "disk", "group"]
"""Where weights are that are not computed with: all on the device · a whole model in memory until it is called · layer
by layer in memory · as much on each device as fits, the rest on the disk · all on the disk · groups of layers in
memory, the next one on its way."""
Place = Literal["cpu", "cuda", "mps"]
"""Where a model computes."""
State = Literal["works", "slow", "refused"]

OFFLOADS: tuple[Offload, ...] = get_args(Offload)
PLACES: tuple[Place, ...] = get_args(Place)
STATES: tuple[State, ...] = get_args(State)
READ_ONLY = "compressed-tensors"
_LOST_WEIGHTS: tuple[Offload, ...] = ("sequential", "balanced", "disk")
"""Offloads that leave a layer without weights until it is called."""


@dataclass(frozen=True)
class Cell:
    """One way to have a quantized model."""

    backend: str
    type: str
    framework: Framework
    moment: Moment
    offload: Offload
    device: Place


@dataclass(frozen=True)
class Rule:
    """Every field that is not None has to hold the cell's; types are patterns of the shell.

    ``instead`` are changes of one field, as they are typed (``sdnq:uint4``, ``offload cpu``, ``when after``), of which
    those are named that are not refused themselves. ``pointless`` is what a library does, but nobody has anything of.
    """

    state: State
    why: str
    instead: tuple[str, ...] = ()
    backend: tuple[str, ...] | None = None
    types: tuple[str, ...] | None = None
    framework: Framework | None = None
    moment: Moment | None = None
    offload: tuple[Offload, ...] | None = None
    device: tuple[Place, ...] | None = None
    pointless: bool = False

    def fits(self, cell: Cell) -> bool:
        return (
            (self.backend is None or cell.backend in self.backend)
            and (self.types is None or any(fnmatchcase(cell.type, each) for each in self.types))
            and (self.framework is None or cell.framework == self.framework)
            and (self.moment is None or cell.moment == self.moment)
            and (self.offload is None or cell.offload in self.offload)
            and (self.device is None or cell.device in self.device)
        )

    def named(self, cell: Cell) -> str:
        """The cell in words, without what the rule does not ask for."""
        parts = [f"{cell.backend} {cell.type}"]
        if self.framework:
            parts.append(f"in {cell.framework}")
        if self.moment:
            parts.append("while a model is loaded" if cell.moment == "load" else "after loading")
        if self.offload:
            parts.append(f"with {cell.offload} offload")
        if self.device:
            parts.append(f"on {cell.device}")
        return " ".join(parts)


_NEVER: tuple[Rule, ...] = (
    Rule(
        "refused",
        "such models are read here, not made: what makes them does not install beside these versions of transformers",
        ("sdnq:int8", "torchao:int8wo"),
        backend=(READ_ONLY,),
    ),
    Rule(
        "refused",
        "transformers makes floats of a GGUF file, which takes the memory of the floats; llama.cpp runs it as it is",
        ("sdnq:uint4", "bitsandbytes:nf4"),
        backend=("gguf",),
        framework="transformers",
    ),
    Rule(
        "refused",
        "diffusers reads GGUF files and makes none; hubquant quantize writes one, which is then loaded",
        ("when load", "sdnq:uint4"),
        backend=("gguf",),
        moment="after",
    ),
    Rule(
        "refused",
        "diffusers has no code that reads it",
        ("gguf:Q4_K_M", "gguf:Q2_K"),
        backend=("gguf",),
        types=("IQ[123]_*", "TQ?_0", "Q[12]_0", "MXFP4*", "NVFP4", "Q3_K_HIFI"),
    ),
    Rule(
        "refused",
        "nncf compresses models that are loaded, and neither framework has a configuration for it",
        ("when after", "sdnq:int8"),
        backend=("nncf",),
        moment="load",
    ),
    Rule(
        "refused",
        "nncf keeps it for OpenVINO, and has no kernels for it in torch",
        ("nncf:int4_sym", "bitsandbytes:nf4"),
        backend=("nncf",),
        types=("nf4", "fp4", "fp8*", "mxfp*", "nvfp4", "*codebook", "cb4"),
    ),
    Rule(
        "refused",
        "torchao has kernels for it for NVIDIA's GPUs only",
        ("sdnq:uint4", "quanto:qint4"),
        backend=("torchao",),
        types=("int4wo",),
        device=("cpu", "mps"),
    ),
    Rule(
        "refused",
        "torch 2.13 has no float8 on Apple's GPUs",
        ("sdnq:int8", "quanto:qint8"),
        types=("*float8*",),
        device=("mps",),
    ),
    Rule(
        "refused",
        "diffusers quantizes with bitsandbytes on a GPU only",
        ("when after", "sdnq:uint4"),
        backend=("bitsandbytes",),
        framework="diffusers",
        moment="load",
        device=("cpu",),
    ),
    Rule(
        "refused",
        "diffusers quantizes to int8 with bitsandbytes on GPUs of NVIDIA, AMD and Intel only",
        ("when after", "bitsandbytes:nf4"),
        backend=("bitsandbytes",),
        types=("int8",),
        framework="diffusers",
        moment="load",
        device=("mps",),
    ),
)
"""Whatever the offload."""

_OFFLOAD: tuple[Rule, ...] = (
    Rule(
        "refused",
        "what turns four bits into floats is lost with the weights that such offload takes out of a layer",
        ("sdnq:uint4", "offload cpu", "offload none"),
        backend=("bitsandbytes",),
        types=("nf4*", "fp4*"),
        offload=_LOST_WEIGHTS,
    ),
    Rule(
        "refused",
        "accelerate cannot make quanto's tensors anew when it gives a layer its weights back",
        ("sdnq:int8", "offload cpu", "offload none"),
        backend=("quanto",),
        offload=_LOST_WEIGHTS,
    ),
    Rule(
        "refused",
        "the weights of quanto's layers cannot be exchanged while others hold them, as groups do",
        ("sdnq:int8", "offload cpu", "offload none"),
        backend=("quanto",),
        offload=("group",),
        device=("cuda", "mps"),
    ),
    Rule(
        "refused",
        "torchao's tensors cannot be written to the disk by accelerate",
        ("sdnq:int8", "offload sequential", "offload cpu", "offload none"),
        backend=("torchao",),
        offload=("balanced", "disk"),
    ),
    Rule(
        "refused",
        "nncf's layers compute with parts that are lost with the weights that such offload takes out of a layer",
        ("sdnq:int8", "offload cpu", "offload none"),
        backend=("nncf",),
        offload=_LOST_WEIGHTS,
    ),
    Rule(
        "refused",
        "accelerate takes a tensor of a GGUF file for one without a type when it gives a layer its weights back",
        ("offload group", "sdnq:uint4", "offload cpu", "offload none"),
        backend=("gguf",),
        types=("Q*", "IQ*", "BF16"),
        offload=_LOST_WEIGHTS,
    ),
    Rule(
        "refused",
        "the CPU computes, and its memory is where weights would go",
        ("offload disk", "offload none"),
        offload=("cpu", "sequential", "group"),
        device=("cpu",),
        pointless=True,
    ),
)

_REST: tuple[Rule, ...] = (
    Rule(
        "slow",
        "a layer's weights are read from the disk each time it is called",
        offload=("disk",),
    ),
    Rule(
        "slow",
        "a layer's weights go to the device each time it is called, and not under torch.inference_mode",
        backend=("torchao",),
        offload=("sequential",),
    ),
    Rule(
        "slow",
        "a layer's weights go to the device each time it is called",
        offload=("sequential",),
    ),
    Rule(
        "slow",
        "without kernels for it, diffusers makes floats of a weight each time it is used",
        backend=("gguf",),
    ),
    Rule("works", ""),
)

RULES = (*_NEVER, *_OFFLOAD, *_REST)


def rule(cell: Cell) -> Rule:
    """The first that fits; the last one fits all."""
    return next(each for each in RULES if each.fits(cell))


@dataclass(frozen=True)
class Saving:
    """Who writes what is loaded again: the library's own ``save_pretrained``, hubquant because that would not do, or
    nobody. ``read`` says what loads it."""

    by: Literal["library", "hubquant", "nobody"]
    why: str
    read: str = "from_pretrained"
    backend: str | None = None
    framework: Framework | None = None
    moment: Moment | None = None
    device: Place | None = None

    def fits(self, backend: str, framework: Framework, moment: Moment, device: Place) -> bool:
        asked = ((self.backend, backend), (self.framework, framework), (self.moment, moment), (self.device, device))
        return all(own in (None, given) for own, given in asked)


SAVING = (
    Saving("nobody", "the file that was loaded is what there is to keep: diffusers writes no GGUF", backend="gguf"),
    Saving("nobody", "such models are read only", backend=READ_ONLY),
    Saving(
        "hubquant",
        "save_pretrained writes codes without saying that they are, and from_pretrained takes them for weights",
        "hubquant.load, and nncf with the lines in hubquant/backends/libraries/nncf.py",
        backend="nncf",
    ),
    Saving(
        "hubquant",
        "save_pretrained refuses",
        "QuantizedModelForCausalLM.from_pretrained of optimum.quanto, and hubquant.load",
        backend="quanto",
        framework="transformers",
    ),
    Saving(
        "nobody",
        "diffusers loads it on a GPU only, so that nobody can see whether it is what was saved",
        backend="bitsandbytes",
        framework="diffusers",
        device="cpu",
    ),
    Saving(
        "library",
        "save_pretrained, whenever it was quantized",
        "from_pretrained; float8_e5m2 by hubquant.load alone, as diffusers makes other floats of it, which SDNQ spoils",
        backend="sdnq",
        framework="diffusers",
    ),
    Saving("library", "save_pretrained, whenever it was quantized", backend="sdnq"),
    Saving(
        "library",
        "save_pretrained, before it computes on a CPU with AVX512-BF16: after that it would save other scales",
        backend="bitsandbytes",
        moment="load",
    ),
    Saving("hubquant", "save_pretrained fails, or leaves out how the weights are quantized", moment="after"),
    Saving("library", "save_pretrained"),
)


def saving(backend: str, framework: Framework, moment: Moment, device: Place) -> Saving:
    return next(each for each in SAVING if each.fits(backend, framework, moment, device))
