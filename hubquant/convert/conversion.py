"""From a checkpoint to the tensors and the metadata of a GGUF file: first the plan, then a stream."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture
from hubquant.convert.checkpoint import Checkpoint
from hubquant.convert.config import read_architecture
from hubquant.convert.headers import TensorInfo, listed
from hubquant.convert.plain import plain_checkpoint
from hubquant.convert.pooling import pooling_metadata
from hubquant.convert.settings import check_answered, setting_notes
from hubquant.convert.tables import Bundle, Shape
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, string
from hubquant.imatrix.taps import Tap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    from hubquant.convert.vocab import ModelFacts

_BLOCK = re.compile(r"blk\.(\d+)\.")
_ROWS_CHECKED = 4096  # at a time, so that a stack of experts need not be in memory in floats
FLOATS = ("F32", "F16", "BF16")
_AS_CONFIGURED = "config.json and the weights must come from the same model"


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint becomes.

    ``architecture`` is llama.cpp's name and ``hparams`` has its sizes: n_layer, n_head, n_head_kv, n_embd, n_ff,
    n_vocab, n_expert and some more. ``metadata`` has general.architecture, the architecture's and the tokenizer's keys.
    ``bundles`` make the tensors. ``taps`` tell where an importance matrix sees what flows into the GGUF weights.
    ``float_type`` is what llama.cpp's converter would choose for matrices that stay unquantized. ``renames`` give the
    checkpoint's tensors the names that the bundles have. ``notes`` say what is not converted, and ``cannot_run`` why
    the model can be neither calibrated nor evaluated, if so. ``strips_as_phi3`` is that of the vocabulary.
    """

    architecture: str
    hparams: Mapping[str, int]
    metadata: Metadata
    bundles: tuple[Bundle, ...]
    taps: Mapping[str, Tap]
    float_type: str
    renames: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    cannot_run: str | None = None
    strips_as_phi3: bool = False

    @property
    def shapes(self) -> dict[str, Shape]:
        """Every tensor of the file, in llama-quantize's order."""
        shapes = {name: shape for bundle in self.bundles for name, shape in bundle.targets.items()}
        return {name: shapes[name] for name in sorted(shapes, key=file_order)}

    @property
    def quantized(self) -> dict[str, str]:
        """The types of tensors that the checkpoint has quantized already."""
        return {name: bundle.quantized for bundle in self.bundles if bundle.quantized for name in bundle.targets}


def plan_conversion(folder: Path, checkpoint: Checkpoint, *, pre_tokenizer: str | None = None) -> Conversion:
    """Plan from config.json, tokenizer files (both in ``folder``) and safetensors headers; no weight is read.

    ``pre_tokenizer`` is llama.cpp's name for that of a byte-level BPE tokenizer, when it is not to be recognised.

    Raises ``NotSupportedYet`` for models hubquant cannot convert, ``CheckpointError`` when headers and config
    contradict each other, ``TokenizerError`` for a tokenizer that GGUF cannot hold.
    """
    from hubquant.convert.vocab import read_vocabulary

    plain, notes = plain_checkpoint(checkpoint)
    architecture, config = read_architecture(plain.config)
    metadata = architecture_metadata(architecture, config)
    check_answered(architecture, config)
    if not architecture.generates:
        metadata |= {f"{architecture.name}.{key}": value for key, value in pooling_metadata(folder).items()}
    tensors = plain.renamed(architecture.renames).tensors
    architecture = architecture.reading(tensors)
    bundles = tuple(sorted(architecture.bundles(config), key=lambda bundle: min(map(file_order, bundle.targets))))
    check_tensors(architecture, config, bundles, tensors)
    facts = _facts(architecture, config, bundles)
    vocabulary = read_vocabulary(folder, checkpoint.config, facts, pre_tokenizer=pre_tokenizer)
    return Conversion(
        architecture.name,
        architecture.dimensions(config),
        metadata | vocabulary.metadata(),
        bundles,
        architecture.taps(config),
        _float_type(tensors.values()),
        architecture.renames,
        (
            *notes,
            *setting_notes(architecture, config, plain.config),
            *_ahead(architecture.further_layers(config, tensors)),
            *vocabulary.notes,
        ),
        architecture.cannot_run,
        vocabulary.strips_as_phi3,
    )


def stream(
    conversion: Conversion, checkpoint: Checkpoint, wanted: Mapping[str, Collection[str]] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors (those ``wanted``, if given), one bundle in memory at a time, with the checkpoint's dtype.

    ``wanted`` has the types that a tensor will be written as. Where that is only the one that the checkpoint has it
    quantized to, it comes in the bytes of that type, uint8 [..., rows, row_bytes]. In file order but for tensors that
    come from one source. Raises ``CheckpointError`` for weights that are not finite.
    """
    checkpoint = plain_checkpoint(checkpoint)[0].renamed(conversion.renames)
    for bundle in conversion.bundles:
        names = bundle.targets.keys() if wanted is None else bundle.targets.keys() & wanted.keys()
        stay = {name for name in names if wanted is not None and {*wanted[name]} == {bundle.quantized}}
        if names:
            tensors = read_bundle(bundle, checkpoint, stay)
            while tensors:
                name = next(iter(tensors))
                if name in names:
                    yield name, tensors.pop(name)
                else:
                    del tensors[name]


def read_bundle(bundle: Bundle, checkpoint: Checkpoint, stay: Set[str] = frozenset()) -> dict[str, torch.Tensor]:
    """The bundle's tensors of the file, by name; those that ``stay`` quantized in the bytes of the file."""
    import torch

    if not bundle.sources:
        ((name, shape),) = bundle.targets.items()
        return {name: torch.tensor(bundle.values, dtype=torch.float32).expand(shape).contiguous()}
    sources = []
    for source in bundle.sources:
        x = checkpoint.read(source)
        check_finite(source, x)
        sources.append(x)
    for copy in bundle.copies:
        if copy in checkpoint.tensors and not torch.equal(checkpoint.read(copy), sources[0]):
            raise CheckpointError(
                f"{copy} and {bundle.sources[0]} differ",
                why="config.json says that they are tied",
                hint='set "tie_word_embeddings": false in config.json if both are meant',
            )
    result = bundle.forward(sources) if bundle.targets.keys() - stay else {}
    if bundle.quantized:
        for x in result.values():
            check_finite(bundle.sources[0], x)
    if stay:
        stored = bundle.forward(sources, stored=True)
        for name in stay:
            result[name] = stored[name].contiguous()
            _check_stored(bundle, name, result[name])
    return {name: x.contiguous() for name, x in result.items()}


def file_order(name: str) -> tuple[int, bytes]:
    """llama-quantize writes tensors outside the blocks first, then block by block, each in the order of their bytes."""
    match = _BLOCK.match(name)
    return (int(match[1]) if match else -1, name.encode())


def architecture_metadata(architecture: Architecture, config: PreTrainedConfig) -> Metadata:
    metadata = {"general.architecture": string(architecture.name)}
    for rule in architecture.rules:
        try:
            keys = rule.metadata(config)
        except (TypeError, ValueError, ArithmeticError) as error:  # null or a number that is none, where one is needed
            setting = getattr(rule, "setting", None) or type(rule).__name__
            raise CheckpointError(
                f"config.json cannot be used: {setting}",
                why=" ".join(str(error).split())[:200],
                hint="compare config.json with the one of the original repository",
            ) from error
        metadata |= {f"{architecture.name}.{key}": value for key, value in keys.items()}
    return metadata


def check_tensors(
    architecture: Architecture,
    config: PreTrainedConfig,
    bundles: Iterable[Bundle],
    found: Mapping[str, TensorInfo],
) -> None:
    """Compare headers with what the config promises; ``CheckpointError`` names the tensors and their number."""
    bundles = tuple(bundles)
    allowed = {name: shape for bundle in bundles for name, shape in bundle.source_shapes().items()}
    ignored = re.compile("|".join(architecture.ignored))
    further = {*architecture.further_layers(config, found), *architecture.unused(config)}
    missing = [name for bundle in bundles for name in bundle.sources if name not in found]
    extra = [name for name in found if name not in allowed and name not in further and not ignored.search(name)]
    if missing:
        raise _missing(missing, extra, config)
    if extra:
        raise _extra(extra, architecture)
    wanted = {name: shape for name, shape in allowed.items() if name in found}
    if wrong := [name for name, shape in wanted.items() if found[name].shape != shape]:
        first = wrong[0]
        raise CheckpointError(
            f"{len(wrong)} tensors have other shapes than config.json says: {listed(wrong)}",
            why=f"{first} is {list(found[first].shape)} instead of {list(wanted[first])}",
            hint=_AS_CONFIGURED,
        )
    packed = {name for bundle in bundles if bundle.quantized for name in bundle.sources}
    if stored := [name for name in wanted if found[name].float_type not in (("U8",) if name in packed else FLOATS)]:
        dtypes = ", ".join(sorted({found[name].dtype for name in stored}))
        raise NotSupportedYet(
            f"weights stored as {dtypes}",
            why=f"{len(stored)} tensors: {listed(stored)}",
            hint="use F32, F16 or BF16 weights",
        )


def _missing(missing: list[str], extra: list[str], config: PreTrainedConfig) -> HubquantError:
    hint = _AS_CONFIGURED
    if missing == ["lm_head.weight"] and not config.tie_word_embeddings:
        hint = 'if the output shares the embedding, config.json needs "tie_word_embeddings": true'
    why = f"{len(extra)} others are not part of the model: {listed(extra)}" if extra else None
    return CheckpointError(f"{len(missing)} tensors are missing: {listed(missing)}", why=why, hint=hint)


def _extra(extra: list[str], architecture: Architecture) -> HubquantError:
    return CheckpointError(
        f"{len(extra)} tensors are not part of a {architecture.restored_as} model: {listed(extra)}", hint=_AS_CONFIGURED
    )


def _ahead(names: Collection[str]) -> Iterator[str]:
    if names:
        yield f"{len(names)} tensors only predict further tokens and are left out: {listed(names)}"


def _facts(architecture: Architecture, config: PreTrainedConfig, bundles: Iterable[Bundle]) -> ModelFacts:
    from hubquant.convert.vocab import ModelFacts

    shapes = {name: shape for bundle in bundles for name, shape in bundle.targets.items()}
    ids = {role: getattr(config, f"{role}_token_id", None) for role in ("bos", "eos", "pad")}
    return ModelFacts(
        architecture=architecture.name,
        rows=shapes["token_embd.weight"][0],
        n_token_types=shapes["token_types.weight"][0] if "token_types.weight" in shapes else 0,
        ids={role: id for role, id in ids.items() if isinstance(id, int)},
    )


def _float_type(tensors: Iterable[TensorInfo]) -> str:
    """llama.cpp's ``--outtype auto``: the first matrix in BF16 or F16 decides; without any it is F16."""
    for tensor in tensors:
        if len(tensor.shape) >= 2 and tensor.float_type in ("BF16", "F16"):
            return "BF16" if tensor.float_type == "BF16" else "F16"
    return "F16"


def _check_stored(bundle: Bundle, name: str, x: torch.Tensor) -> None:
    import torch

    from hubquant.quants import dequantize

    for rows in torch.split(x.reshape(-1, x.shape[-1]), _ROWS_CHECKED):
        check_finite(bundle.sources[0], dequantize(rows, str(bundle.quantized), bundle.targets[name][-1]))


def check_finite(name: str, x: torch.Tensor) -> None:
    """Raises ``CheckpointError`` with the number of weights that are NaN or infinite."""
    low, high = x.aminmax()  # a NaN anywhere makes both NaN, and no mask of x's size is needed
    if not (low.isfinite() and high.isfinite()):
        bad = int((~x.isfinite()).sum())
        raise CheckpointError(
            f"tensor {name} holds {bad:,} values that are NaN or infinite",
            why="such a model computes nothing",
            hint="fetch the file again; if it is the same, the published weights are broken",
        )
