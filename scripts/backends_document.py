"""Write docs/backends.md: the table of which library quantizes what, with which offload, on which device.

python -m scripts.backends_document
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from hubquant.backends.compatibility import package
from hubquant.backends.libraries.library import Framework
from hubquant.backends.rules import OFFLOADS, RULES, Cell, Place, Rule, Saving, rule, saving
from hubquant.commands.backends import FRAMEWORKS, MOMENTS, NAMES, by_bits, rows, types
from hubquant.recipe.backends import LIBRARIES

DOCUMENT = Path(__file__).parents[1] / "docs" / "backends.md"
NOTHING = "–"
TRIED = (
    "Every cell was tried, on Linux. – is what moves weights from memory to memory: refused, because it is of no use."
)
UNTRIED = (
    "No cell was tried on such a device. What is *untried* works by what the libraries say, and so does what is slow; "
    "what is refused failed with the same hooks on a CPU, or stands in their code."
)
DEVICES: dict[Place, str] = {"cpu": "On the CPU", "cuda": "On a GPU (cuda)", "mps": "On Apple's GPUs (mps)"}
WHEN = {"load": "while loading", "after": "after loading"}
NUMBERS = {each: i for i, each in enumerate((each for each in RULES if each.why and not each.pointless), 1)}
"""Of the reasons, as cells name them."""
BY = {"library": "the library", "hubquant": "hubquant", "nobody": "nobody"}
TEXT = """\
# Backends: other ways to hold fewer bits

`python -m scripts.backends_document` writes this page from the table that is asked before anything is loaded
(`hubquant/backends/rules.py`); a test fails when they say something else. `hubquant backends` prints what of it holds
on your machine, and `python -m benchmarks.backends` tries every cell of a CPU again, with tiny models: what works has
to give the same outputs, what is refused has to fail, and its exit code is 1 where a library got better or worse than
its row.

A type is written with its backend: `types: [gguf:Q4_K_M, bitsandbytes:nf4, quanto:qint4, sdnq:uint4]` in a recipe, and
so with `--types`. Without one it is GGUF's.

{packages}

GGUF's types are those of `hubquant quantize` ([quantization.md](quantization.md)). Every other package is an extra of
its own, and `hubquant[backends]` is all of them: they install together.

{types}

Bits are those of a weight, without scales. Types of AWQ are rounded by the inputs that the recipe's calibration text
gives; all others look at the weights alone.

## In a run

`hubquant run MODEL --types gguf:Q4_K_M,bitsandbytes:nf4,sdnq:uint4 --push me/Model` makes a folder such as
`bitsandbytes-nf4/` beside the GGUF files, with what transformers needs to load it, and publishes it with the same card
and recipe. Layers whose name holds one of `quantize.skip_modules` stay in floats; so do those that a type cannot
divide, and the card counts them. Of a diffusers pipeline the folder holds its denoiser
([diffusion.md](diffusion.md)).

A folder is measured as a GGUF file is: its model, loaded by its own library, computes in float32 on the same tokens,
and its probabilities are compared with the source's. What a library rounds besides weights counts too: bitsandbytes'
int8 and torchao's int8dyn round what they multiply the weights with. `torchao:float8wo` computes in the dtype of the
source. A model that does not fit in memory is refused: a library has all of it there.

`hubquant compare MODEL --types …` is the same without files to keep: one table and one plot. This is the demo model,
whose source has 3.7 M weights in bfloat16, on two cores of an AMD EPYC:

| Type | Size | bpw | Mean KLD | Same top token | PPL ratio | Loads in | Peak memory | Tokens/s |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| torchao:int8wo | 4.39 MB | 9.57 | 0.000026 ± 0.000001 | 99.56 ± 0.08 % | 1.0002 ± 0.0001 | 0.20 s | 21.8 MB | 112 |
| bitsandbytes:int8 | 4.37 MB | 9.53 | 0.00032 ± 0.00003 | 98.46 ± 0.16 % | 1.0009 ± 0.0004 | 0.25 s | 24.7 MB | 30.9 |
| sdnq:int8 | 4.37 MB | 9.52 | 0.000027 ± 0.000001 | 99.58 ± 0.08 % | 1.0002 ± 0.0001 | 0.30 s | 69.7 MB | 79.2 |
| quanto:qint8 | 4.36 MB | 9.50 | 0.000030 ± 0.000001 | 99.53 ± 0.09 % | 1.0000 ± 0.0001 | 0.078 s | 21.6 MB | 136 |
| Q8_0 | 3.97 MB | 8.65 | 0.000041 ± 0.000002 | 99.43 ± 0.10 % | 0.9998 ± 0.0001 | 0.031 s | 16.8 MB | 1457 |
| nncf:int8_asym | 3.85 MB | 8.38 | 0.000074 ± 0.000003 | 99.31 ± 0.11 % | 0.9997 ± 0.0002 | 0.33 s | 37.6 MB | 22.7 |
| sdnq:uint4 | 3.15 MB | 6.87 | 0.0040 ± 0.0001 | 95.00 ± 0.28 % | 1.001 ± 0.001 | 0.29 s | 55.8 MB | 34.8 |
| Q6_K | 3.08 MB | 6.71 | 0.00049 ± 0.00002 | 98.24 ± 0.17 % | 1.0014 ± 0.0004 | 0.049 s | 15.9 MB | 1614 |
| bitsandbytes:nf4 | 2.96 MB | 6.46 | 0.0039 ± 0.0001 | 95.07 ± 0.28 % | 1.004 ± 0.001 | 0.31 s | 22.3 MB | 71.7 |
| quanto:qint4 | 2.87 MB | 6.25 | 0.0048 ± 0.0002 | 94.89 ± 0.28 % | 1.002 ± 0.001 | 0.17 s | 24.4 MB | 142 |
| Q4_K_M | 2.39 MB | 5.20 | 0.00204 ± 0.00008 | 96.49 ± 0.24 % | 1.0028 ± 0.0008 | 0.050 s | 16.6 MB | 1310 |
| nncf:int4_sym_awq | 2.29 MB | 4.99 | 0.0056 ± 0.0002 | 94.33 ± 0.30 % | 1.003 ± 0.001 | 0.40 s | 44.8 MB | 22.6 |
| nncf:int4_sym | 2.29 MB | 4.99 | 0.0052 ± 0.0002 | 93.69 ± 0.31 % | 1.002 ± 0.001 | 0.35 s | 35.5 MB | 19.3 |
| Q2_K | 1.65 MB | 3.60 | 0.0185 ± 0.0006 | 88.48 ± 0.41 % | 1.009 ± 0.003 | 0.046 s | 14.4 MB | 1607 |

![Size against divergence in several formats](formats.png)

KLD is the mean divergence from the source in nats. AWQ brings nothing here beyond its error. Loading, memory and tokens
per second are those of a fresh process, by llama.cpp for GGUF files and by transformers for the others; so small a
model says little of the speed of a large one.

## When weights are quantized

* **while loading** (`when="load"`): each weight as it comes from the file;
* **after loading** (`when="after"`): the model is loaded in floats, and its layers are exchanged;
* **before**: a model that is quantized already is recognised by its metadata and its tensors, loaded by its own
  backend, and never quantized twice. `hubquant detect MODEL` says what it found, and why.

## Where weights are

* `none`: all on the device.
* `cpu`: a whole model, or a component of a pipeline, waits in memory until it is called.
* `sequential`: layer by layer from memory, and back.
* `balanced`: as much on each device as fits, the rest on the disk.
* `disk`: all on the disk.
* `group`: some layers at a time from memory, the next while the last ones compute.

{matrices}

{notes}

Of the types behind a colon the first is named that is not refused itself.

## What is saved, and how

Whatever wrote it: before anything is published it is loaded again in a fresh process, and its outputs are compared.
`hubquant.json` beside it names backend, type and versions. Models of bitsandbytes (int8), quanto and nncf that were
quantized after loading are saved by `save_pretrained` without an error, are loaded without one, and then compute
something else; that is what "hubquant" in the table is for.

{saved}

## Every row of SD.Next's quantization page

SD.Next's wiki has a page on quantization with four engines, which are all here. What it says, row by row, and what is
here in its place:

{counterparts}

## What stays out

* **llmcompressor** makes the models that compressed-tensors reads. Its version 0.14.0.1 takes transformers 5.15 to 5.17
  only, and 0.13 tqdm up to 4.70.0: neither installs beside the versions that hubquant is made for. It works in an
  environment of its own, and its models are recognised.
* **gptqmodel** comes as a source package alone, and pip builds one version after the other to find one that fits; in
  400 seconds it found none. Its models are recognised, too.
"""
COUNTERPARTS: tuple[tuple[str, str], ...] = (
    ("**Ways to quantize**", ""),
    ("on the fly, while the model is loaded, with some engines", '`when="load"`: all but nncf; the tables above'),
    ("right after the model is loaded, with all engines", '`when="after"`: all but GGUF, which is a file'),
    (
        "a model that is quantized already, told by its name at the start of the load",
        "told by `quantization_config`, names and types of tensors; a file name is a hint alone (`hubquant detect`)",
    ),
    ("while the model is trained: not a matter of that page", "nor of this one"),
    (
        "to store less, or also to compute faster where there are kernels",
        "`hubquant compare` measures it: size, divergence, tokens per second, memory, for every backend on one scale",
    ),
    ("on Windows more works in WSL", "tested on Linux; nothing here asks for Windows or WSL"),
    ("**bitsandbytes**", ""),
    (
        "quantized files are called `*nf4` or `*fp8`",
        "recognised by `quant_state` and config.json. What is called fp8 there is int8, and is called int8 here",
    ),
    (
        "the only engine for balanced offload and quantizing on the fly, so the most versatile",
        "int8 of bitsandbytes stands balanced offload, nf4 and fp4 do not; all types of sdnq stand every offload, "
        "while loading and after",
    ),
    (
        "NVIDIA's GPUs only, some types on newer ones only",
        "0.50 computes on CPUs, too, where language models were quantized with it. diffusers wants a GPU while "
        "loading: refused on a CPU, with `when after` and `sdnq:uint4` named instead",
    ),
    ("without triton, which Windows lacks, it is much slower", "untried; nothing here needs triton"),
    ("other packages for AMD and Intel", "bitsandbytes has code for both; untried here"),
    ("**optimum-quanto**", ""),
    ("quantized files are called `*qint`", "recognised by `_data` and `_scale` tensors and `quanto_qmap.json`"),
    (
        "efficient with its integers, but few platforms and few kinds of offload",
        "offload `none` and `cpu`; every other is refused, with `sdnq:int8` and `offload cpu` named instead",
    ),
    (
        "needs torch 2.4.0, to be upgraded by hand",
        "needs torch 2.6 or later: what an installed package asks of torch is read from its metadata before anything "
        "is loaded",
    ),
    ("not with balanced offload", "refused when the plan is made"),
    ("not on Intel's GPUs, with ZLUDA, or on AMD's with the package as it is", "untried; use sdnq there"),
    ("**GGUF**", ""),
    (
        "a file format of llama.cpp that only stores here: every use turns weights into floats, which is slow",
        'marked "slow" in diffusers; llama.cpp computes with the codes, and `hubquant run` makes files for it',
    ),
    (
        "advises against it, because all programs for pictures use it to store only",
        "`hubquant backends` calls it slow; it is the one format that an importance matrix improves, and that "
        "llama.cpp, ComfyUI-GGUF and stable-diffusion.cpp load",
    ),
    (
        "many types, on any platform",
        "the table has the types that diffusers reads; IQ1 to IQ3, TQ, MXFP4, NVFP4 are refused with others named",
    ),
    (
        "not with offload, which would make floats of it",
        "`group` and `cpu` are left, untried on a GPU; `sequential`, `balanced` and `disk` end in an error of "
        "accelerate, and are refused with `offload group` named instead",
    ),
    (
        "only a UNet or a transformer, no file that has everything",
        "such a file is refused from its tensor names; `hubquant quantize` writes one of the denoiser alone",
    ),
    ("**NNCF**", ""),
    (
        "stores on all platforms, computes with the codes in OpenVINO only",
        "the same; after loading only, and with offload `none`, `cpu` and `group` only",
    ),
    ("works where quanto and bitsandbytes do not", "so do sdnq and torchao's int8wo; all four ran on a CPU"),
    (
        "switched on in the settings",
        "`nncf:int8_asym`, `nncf:int4_sym_awq` and so on, as every other type; AWQ and scale estimation take the "
        "recipe's calibration text",
    ),
    ("**Combinations that end in an error while a model is loaded**", ""),
    (
        "bitsandbytes nf4 with sequential offload",
        "refused when the plan is made: `choose sdnq:uint4, or offload cpu`",
    ),
    ("quanto with balanced offload", "refused when the plan is made: `choose sdnq:int8, or offload cpu`"),
    ("quanto with sequential offload", "refused when the plan is made: `choose sdnq:int8, or offload cpu`"),
)


def document() -> str:
    """The page, as it is to be committed."""
    return TEXT.format(
        packages=_table(("backend", "package", "install"), _packages()),
        types=_table(("backend", "types"), _types()),
        matrices="\n\n".join(_matrices()),
        notes="\n".join(f"{number}. {_note(each)}" for each, number in NUMBERS.items()),
        saved=_table(("backend", "quantized", "written by", "because", "loaded by"), _saved()),
        counterparts=_table(("there", "here"), COUNTERPARTS),
    )


def _packages() -> Iterator[tuple[str, ...]]:
    for name in NAMES:
        needed = package(name)
        yield name, f"{needed.name} {needed.oldest} or later", f"`pip install 'hubquant[{needed.extra}]'`"
    yield "compressed-tensors", "is read, not made", ""


def _types() -> Iterator[tuple[str, ...]]:
    for name in LIBRARIES:
        found = by_bits([{"name": each.name, "bits": each.bits} for each in types(name).values()])
        yield name, "; ".join(f"{bits:g} bits: {_code(names)}" for bits, names in found.items())


def _matrices() -> Iterator[str]:
    for framework in FRAMEWORKS:
        yield f"## Models of {framework}"
        for device, title in DEVICES.items():
            yield f"**{title}.** {TRIED if device == 'cpu' else UNTRIED}"
            yield _table(("type", "quantized", *(f"`{each}`" for each in OFFLOADS)), _cells(framework, device))


def _cells(framework: Framework, device: Place) -> Iterator[tuple[str, ...]]:
    for backend in NAMES:
        n_types = len(types(backend))
        for row in rows(backend, device):
            moments = [each["moment"] for each in row["where"] if each["framework"] == framework]
            if not moments:
                continue
            named = f"**{backend}**" if len(row["types"]) == n_types else f"**{backend}** {_code(row['types'])}"
            example = (backend, row["types"][0], framework, moments[0])
            states = (_state(Cell(*example, offload, device)) for offload in OFFLOADS)
            yield named, " or ".join(WHEN[moment] for moment in moments), *states


def _state(cell: Cell) -> str:
    found = rule(cell)
    if found.pointless:
        return NOTHING
    if found.state == "works":
        return "works" if cell.device == "cpu" else "untried"
    return f"{'slow' if found.state == 'slow' else 'no'} ({NUMBERS[found]})"


def _note(found: Rule) -> str:
    instead = f": {_code(found.instead)}" if found.instead else ""
    return f"{found.why[0].upper()}{found.why[1:]}{instead}."


def _saved() -> Iterator[tuple[str, ...]]:
    for backend in NAMES:
        alike: dict[Saving, dict[str, list[str]]] = {}
        for framework in FRAMEWORKS:
            for moment in MOMENTS:
                how = saving(backend, framework, moment, "cpu")
                alike.setdefault(how, {}).setdefault(framework, []).append(WHEN[moment])
        for how, where in alike.items():
            named = "; ".join(f"{framework} {' or '.join(moments)}" for framework, moments in where.items())
            yield backend, named, BY[how.by], how.why, NOTHING if how.by == "nobody" else how.read


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (heads, ("---",) * len(heads), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
