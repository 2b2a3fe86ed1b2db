"""Whether the table of backends says what the libraries do: ``python -m benchmarks.backends [BACKEND ...]``.

Every type of every backend in a tiny Llama (transformers) and a tiny Flux (diffusers) with random weights, quantized
while it is loaded and afterwards, with every offload, and saved. "works" is that the outputs are those without offload,
bit by bit, and those before saving, to 1e-5. On a CPU, which is what computes here, offload to the CPU and in groups
moves nothing; the others take weights out of layers and put them back as on any device. One process for each backend;
the exit code is 1 where a cell is not what hubquant/backends/rules.py says.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernels import machine
from hubquant.backends.compatibility import verdict
from hubquant.backends.libraries.library import Framework, Moment
from hubquant.backends.libraries.registry import library
from hubquant.backends.rules import OFFLOADS, Offload, saving
from hubquant.commands.backends import FRAMEWORKS, MOMENTS, types
from hubquant.environ import quieten_libraries
from hubquant.recipe.backends import GGUF, LIBRARIES
from tests.support.flux import flux_inputs, save_flux

CPU = torch.device("cpu")
TEXT_WIDTH = 256
UNKNOWN = {"nncf": ("nf4",)}
"""Types that the table refuses and the backend does not list."""
BFLOAT16 = ("int4wo",)
"""Types that take weights of no other kind."""
EQUAL = 1e-5
"""Of what is loaded again and computed in another order, relative."""


@dataclass(frozen=True)
class Tiny:
    """A model in a folder: its class, what it is called with, and what it is quantized from."""

    framework: Framework
    folder: Path
    kind: Any
    inputs: Mapping[str, torch.Tensor]

    def load(self, folder: Path | None = None, **options: Any) -> Any:
        options.setdefault(DTYPE[self.framework], torch.float32)
        return self.kind.from_pretrained(folder or self.folder, **options).eval()

    def answer(self, model: Any) -> torch.Tensor:
        with torch.no_grad():  # as both frameworks have it
            found = model(**self.inputs)
        answer: torch.Tensor = found.logits if hasattr(found, "logits") else found.sample
        return answer.float()


DTYPE = {"transformers": "dtype", "diffusers": "torch_dtype"}


def tiny(framework: Framework, root: Path) -> Tiny:
    folder = root / framework
    if framework == "transformers":
        from transformers import AutoModelForCausalLM

        from hubquant.models.tiny import build

        if not folder.exists():
            build("llama", folder)
        return Tiny(framework, folder, AutoModelForCausalLM, {"input_ids": torch.arange(32)[None]})
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    if not folder.exists():
        save_flux(folder, TEXT_WIDTH, num_single_layers=1, attention_head_dim=128)
    return Tiny(framework, folder, FluxTransformer2DModel, flux_inputs(TEXT_WIDTH))


def quantized(backend: str, type: str, source: Tiny, moment: Moment) -> Any:
    """Raises whatever the library does."""
    if backend == GGUF:
        return _from_gguf(type, source)
    if backend == "nncf" and type in UNKNOWN["nncf"]:
        import nncf  # type: ignore[import-untyped]

        mode = nncf.CompressWeightsMode[type.upper()]
        return nncf.compress_weights(source.load(), mode=mode, dataset=nncf.Dataset([source.inputs]))
    made = library(backend)
    if moment == "after":
        return made.quantized(source.load(), type, inputs=[source.inputs])
    configuration = made.configuration(type, source.framework)
    if configuration is None:
        raise TypeError(f"{source.framework} has no configuration for {backend}")
    dtype = torch.bfloat16 if type in BFLOAT16 else torch.float32
    return source.load(quantization_config=configuration, **{DTYPE[source.framework]: dtype})


def _from_gguf(type: str, source: Tiny) -> Any:
    from diffusers import GGUFQuantizationConfig

    path = source.folder / f"{type}.gguf"
    if not path.exists():
        write_gguf(path, type, source.load().state_dict())
    options = {"quantization_config": GGUFQuantizationConfig(compute_dtype=torch.float32), "torch_dtype": torch.float32}
    return source.kind.from_single_file(str(path), config=str(source.folder), **options).eval()


def write_gguf(path: Path, type: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Matrices as most of a file of ``type`` has them, where its blocks divide their rows; the rest is F32."""
    import gguf
    import numpy as np

    from hubquant.mix.file_types import file_type
    from hubquant.quants import quantize
    from hubquant.quants.formats import lookup

    writer = gguf.GGUFWriter(str(path), "flux")
    default = file_type(type).default
    for name, weight in weights.items():
        if weight.ndim != 2 or default == "F32" or weight.shape[1] % lookup(default).block_size:
            writer.add_tensor(name, weight.float().numpy())
            continue
        block = gguf.GGMLQuantizationType[default]
        rows = quantize(weight.float(), default, torch.ones(weight.shape[1])).numpy().view(np.uint8)
        writer.add_tensor(name, rows.reshape(weight.shape[0], -1), raw_dtype=block)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def offloaded(model: Any, offload: Offload, folder: Path) -> Any:
    """``model`` with hooks that bring its weights to where it computes, the CPU."""
    import accelerate

    if offload == "cpu":
        return accelerate.cpu_offload_with_hook(model, CPU)[0]
    if offload == "sequential":
        return accelerate.cpu_offload(model, CPU, offload_buffers=len(model._parameters) > 0)
    if offload == "disk":
        return accelerate.disk_offload(model, str(folder / "disk"), CPU)
    if offload == "balanced":
        places = {name: "disk" if i % 2 == 0 else CPU for i, (name, _) in enumerate(model.named_children())}
        where = str(folder / "balanced")
        return accelerate.dispatch_model(model, places, main_device=CPU, offload_dir=where, force_hooks=True)
    if offload == "group":
        from diffusers.hooks import apply_group_offloading

        apply_group_offloading(model, onload_device=CPU, offload_device=CPU, offload_type="leaf_level")
    return model


def offloading(backend: str, type: str, source: Tiny, moment: Moment, folder: Path) -> dict[Offload, str | None]:
    """What goes wrong with each offload, None for one that works."""
    expected: list[torch.Tensor] = []

    def tried(offload: Offload) -> str | None:
        def once() -> str | None:
            answer = source.answer(offloaded(quantized(backend, type, source, moment), offload, folder))
            expected.append(answer)
            return _difference(answer, expected[0], exact=True)

        return _error(once)

    found: dict[Offload, str | None] = {"none": tried("none")}
    for offload in OFFLOADS[1:]:
        found[offload] = tried(offload) if found["none"] is None else found["none"]
    return found


def kept(backend: str, type: str, source: Tiny, moment: Moment, folder: Path) -> dict[str, str | None]:
    """What goes wrong when ``save_pretrained`` and ``from_pretrained`` are left alone with it ("library"), and when the
    backend writes and reads it ("hubquant"). It is written before it computes: bitsandbytes cannot write it later."""
    model = quantized(backend, type, source, moment)
    dtype = {DTYPE[source.framework]: torch.float32}

    def write_by_hubquant() -> None:
        (folder / "hubquant").mkdir()
        library(backend).save(model, type, folder / "hubquant", source.framework)

    def read_by_hubquant() -> Any:
        return library(backend).load(folder / "hubquant", source.kind, source.framework, **dtype)

    ways: dict[str, tuple[Callable[[], None], Callable[[], Any]]] = {
        "library": (lambda: model.save_pretrained(folder / "library"), lambda: source.load(folder / "library"))
    }
    if backend != GGUF:
        ways["hubquant"] = write_by_hubquant, read_by_hubquant
    failed = {way: _error(write) for way, (write, _) in ways.items()}
    expected = source.answer(model)
    return {
        way: failed[way] or _error(lambda read=read: _difference(source.answer(read()), expected))
        for way, (_, read) in ways.items()
    }


def _error(work: Callable[[], str | None]) -> str | None:
    try:
        return work()
    except Exception as error:
        first: BaseException = error
        while first.__context__ is not None:
            first = first.__context__
        return f"{type(first).__name__}: {first}".partition("\n")[0]


def _difference(found: torch.Tensor, expected: torch.Tensor, *, exact: bool = False) -> str | None:
    if not found.isfinite().all():
        return "not finite"
    if found.shape != expected.shape:
        return f"shape {tuple(found.shape)}"
    relative = float((found - expected).norm() / expected.norm())
    return None if relative <= (0 if exact else EQUAL) else f"differs by {relative:.2g}"


@dataclass(frozen=True)
class Difference:
    """What the table ``says`` of a cell, and what ``happened``."""

    cell: str
    says: str
    happened: str


def compared(backend: str, type: str, framework: Framework, moment: Moment, root: Path) -> tuple[str, list[Difference]]:
    """Lines for people, and where the table is wrong."""
    source = tiny(framework, root)
    cell = f"{backend} {type} {framework} {moment}"
    marks: list[str] = []
    errors: dict[str, list[str]] = {}
    wrong: list[Difference] = []

    def compare(what: str, says: bool, why: str, error: str | None) -> None:
        if says != (error is None):
            wrong.append(Difference(f"{cell} {what}", "works" if says else f"refused: {why}", error or "works"))
        marks.append(f"{what} {'works' if error is None else 'fails'}{'' if says == (error is None) else ' (!)'}")
        if error is not None:
            errors.setdefault(error, []).append(what)

    with tempfile.TemporaryDirectory(dir=root) as own:
        folder = Path(own)
        found = offloading(backend, type, source, moment, folder)
        for offload, error in found.items():
            said = verdict(backend, type, framework, moment, offload, "cpu")
            compare(offload, said.state != "refused" or said.pointless, said.why, error)
        if found["none"] is None:
            how = saving(backend, framework, moment, "cpu")
            for by, error in kept(backend, type, source, moment, folder).items():
                compare(f"saved by {by}", how.by in (by, "library"), how.why, error)
    lines = [f"{cell:<44} {', '.join(marks)}", *(f"  {', '.join(who)}: {what}" for what, who in errors.items())]
    return "\n".join(lines), wrong


def cells(backend: str) -> Iterator[tuple[str, Framework, Moment]]:
    """Those that there is a way to ask for: of GGUF, files that the package knows by which diffusers reads them."""
    if backend == GGUF:
        from gguf import GGMLQuantizationType

        from hubquant.mix.file_types import file_type

        known = (type for type in types(backend) if file_type(type).default in GGMLQuantizationType.__members__)
        yield from ((type, "diffusers", "load") for type in known)
        return
    for type in (*types(backend), *UNKNOWN.get(backend, ())):
        for framework in FRAMEWORKS:
            for moment in MOMENTS:
                yield type, framework, moment


def one_backend(backend: str) -> int:
    quieten_libraries()
    torch.set_num_threads(1)
    n = 0
    with tempfile.TemporaryDirectory() as root:
        for type, framework, moment in cells(backend):
            line, wrong = compared(backend, type, framework, moment, Path(root))
            print(line, flush=True)
            for each in wrong:
                print(f"  {each.cell}: the table says {each.says}; {each.happened}", flush=True)
            n += len(wrong)
    return int(n > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help=f"of {', '.join((GGUF, *LIBRARIES))}")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one_backend(args.backends[0])
    print(machine())
    codes = {}
    for backend in args.backends or (GGUF, *LIBRARIES):
        codes[backend] = subprocess.run([sys.executable, "-m", "benchmarks.backends", "--one", backend]).returncode
    ends = {0: "as the table says", 1: "another than the table"}
    for backend, code in codes.items():
        print(f"{backend}: {ends.get(code, f'ended with {code}')}")
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main())
