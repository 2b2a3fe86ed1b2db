"""From a checkpoint to the tensors and the metadata of a GGUF file: first the plan, then a stream."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.finite import check_finite
from hubquant.checkpoint.headers import TensorInfo
from hubquant.checkpoint.modules import POOLING
from hubquant.convert.ahead import AHEAD, BLOCKS, further_metadata, notes_ahead
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import is_base_class
from hubquant.convert.config import read_architecture
from hubquant.convert.matching import check_tensors
from hubquant.convert.plain import checkpoint_ahead, plain_checkpoint
from hubquant.convert.rules.pooling import pooling_metadata
from hubquant.convert.rules.rule import Numbers, full_key, integer, without_option
from hubquant.convert.settings import check_answered, setting_notes
from hubquant.convert.stored_blocks import exact_types
from hubquant.convert.tables import Bundle, Shape
from hubquant.errors import CheckpointError
from hubquant.gguf_file.metadata import Metadata, f32s, string
from hubquant.models.taps.tap import Tap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    from hubquant.vocab import ModelFacts

_BLOCK = re.compile(r"blk\.(\d+)\.")
_ROWS_SAMPLED = 256
_ROWS_CHECKED = 4096  # at a time, so that a stack of experts need not be in memory in floats


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint becomes.

    ``architecture`` is llama.cpp's name and ``hparams`` has its sizes: n_layer, of which n_layer_nextn predict further
    tokens behind the others, n_head, n_head_kv, n_embd, n_ff, n_vocab, n_expert and some more. ``metadata`` has
    general.architecture, the architecture's and the tokenizer's keys. ``bundles`` make the tensors. ``taps`` tell where
    an importance matrix sees what flows into the GGUF weights. ``float_type`` is what llama.cpp's converter would
    choose for matrices that stay unquantized. ``notes`` say what is not converted, and ``cannot_run`` why the model can
    be neither calibrated nor evaluated, if so: where transformers ``lacks_code``, llama.cpp can run it. ``embeds``
    tells an encoder, which predicts no next token, or a decoder that is made for embeddings. ``strips_as_phi3`` is that
    of the vocabulary. ``exact`` are the types that may hold tensors without rounding which the checkpoint has in codes.
    ``numbers`` are tensors that are values of the metadata, which has zeros in their place until they are read
    (:func:`read_numbers`).
    """

    architecture: str
    hparams: Mapping[str, int]
    metadata: Metadata
    bundles: tuple[Bundle, ...]
    taps: Mapping[str, Tap]
    float_type: str
    notes: tuple[str, ...] = ()
    cannot_run: str | None = None
    lacks_code: bool = False
    embeds: bool = False
    strips_as_phi3: bool = False
    exact: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, Numbers] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Every tensor of the file, in llama-quantize's order."""
        shapes = {name: shape for bundle in self.bundles for name, shape in bundle.targets.items()}
        return {name: shapes[name] for name in sorted(shapes, key=file_order)}

    @property
    def drafting(self) -> frozenset[str]:
        """The tensors of layers that predict further tokens, which neither calibration nor evaluation runs."""
        n_all, n_ahead = (integer(self.metadata, f"{self.architecture}.{key}") or 0 for key in (BLOCKS, AHEAD))
        return frozenset(name for name in self.shapes if n_ahead and file_order(name)[0] >= n_all - n_ahead)

    @property
    def quantized(self) -> dict[str, str]:
        """The types of tensors that the checkpoint has quantized already."""
        return {name: bundle.quantized for bundle in self.bundles if bundle.quantized for name in bundle.targets}


def plan_conversion(
    folder: Path, checkpoint: Checkpoint, *, pre_tokenizer: str | None = None, no_mtp: bool = False
) -> Conversion:
    """Plan from config.json, tokenizer files (both in ``folder``) and safetensors headers; no weight is read.

    ``pre_tokenizer`` is llama.cpp's name for that of a byte-level BPE tokenizer, when it is not to be recognised.
    With ``no_mtp`` layers behind the last one, which predict further tokens, are left out.

    Raises ``NotSupportedYet`` for models hubquant cannot convert, ``CheckpointError`` when headers and config
    contradict each other, ``TokenizerError`` for a tokenizer that GGUF cannot hold.
    """
    from hubquant.vocab import read_vocabulary

    plain = checkpoint_ahead(checkpoint)
    architecture, config = read_architecture(plain.config)
    headless = _lacks_output(architecture, config, plain)
    if headless:  # llama.cpp takes the embedding where a file has no output layer
        config.tie_word_embeddings = True
    architecture = architecture.reading(plain.tensors, config, ahead=not no_mtp)
    metadata = architecture_metadata(architecture, config)
    check_answered(architecture, config)
    metadata |= {f"{architecture.name}.{key}": value for key, value in pooling_metadata(plain.config).items()}
    bundles = tuple(sorted(architecture.bundles(config), key=lambda bundle: min(map(file_order, bundle.targets))))
    left_out = check_tensors(architecture, config, bundles, plain.tensors)
    facts = _facts(architecture, config, bundles)
    vocabulary = read_vocabulary(folder, checkpoint.config, facts, pre_tokenizer=pre_tokenizer)
    return Conversion(
        architecture.name,
        architecture.sizes(config),
        metadata | vocabulary.metadata(),
        bundles,
        architecture.taps(config),
        float_type(plain.tensors.values()),
        (
            *plain.notes,
            *setting_notes(architecture, config, plain.config),
            *left_out,
            *notes_ahead(architecture, config, plain.config, plain.tensors, wanted=not no_mtp),
            *([f"{headless}: the file is good for embeddings"] if headless else []),
            *vocabulary.notes,
        ),
        architecture.cannot_run or headless,
        architecture.own_code and not architecture.drafts and not headless,
        not architecture.generates or POOLING in plain.config,
        vocabulary.strips_as_phi3,
        exact_types(bundles, plain.tensors),
        architecture.numbers(config),
    )


def stream(
    conversion: Conversion, checkpoint: Checkpoint, wanted: Mapping[str, Collection[str]] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors (those ``wanted``, if given), one bundle in memory at a time, with the checkpoint's dtype.

    ``wanted`` has the types that a tensor will be written as. Where that is only the one that the checkpoint has it
    quantized to, it comes in the bytes of that type, uint8 [..., rows, row_bytes]. In file order but for tensors that
    come from one source. Raises ``CheckpointError`` for weights that are not finite.
    """
    checkpoint = checkpoint_ahead(checkpoint)
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


def read_numbers(conversion: Conversion, checkpoint: Checkpoint) -> Metadata:
    """The keys whose values are ``conversion.numbers``. Raises ``CheckpointError`` for numbers that are not finite."""
    if not conversion.numbers:
        return {}
    plain, found = plain_checkpoint(checkpoint), {}
    for key, numbers in conversion.numbers.items():
        values = [(name, plain.read(name)) for name in numbers.names]
        for name, x in values:
            check_finite(name, x)
        found[key] = f32s(float(x) for _, x in values)
    return found


def check_copies(conversion: Conversion, checkpoint: Checkpoint) -> None:
    """Compare some rows of what config.json says is tied with its copies, where the checkpoint holds any.

    Raises ``CheckpointError`` for a copy that has numbers of its own. :func:`stream` compares the whole.
    """
    import torch

    bundles = [bundle for bundle in conversion.bundles if bundle.copies]
    plain = plain_checkpoint(checkpoint) if bundles else checkpoint
    for bundle in bundles:
        (source,) = bundle.sources
        n_rows = plain.tensors[source].shape[0]
        rows = sorted({*range(min(n_rows, _ROWS_SAMPLED)), *range(0, n_rows, max(1, n_rows // _ROWS_SAMPLED))})
        for copy in bundle.copies:
            if copy in plain.tensors and not torch.equal(*(plain.read_rows(x, rows).float() for x in (copy, source))):
                raise _differ(copy, source)


def _differ(copy: str, source: str) -> CheckpointError:
    return CheckpointError(
        f"{copy} and {source} differ",
        why="config.json says that they are tied",
        hint='set "tie_word_embeddings": false in config.json if both are meant, as transformers then takes them',
    )


def read_bundle(bundle: Bundle, checkpoint: Checkpoint, stay: Set[str] = frozenset()) -> dict[str, torch.Tensor]:
    """The bundle's tensors of the file by name, contiguous and in the shapes of its targets: floats, or of those that
    ``stay`` quantized the bytes that the file has, uint8 [..., rows, row_bytes].

    Raises ``CheckpointError`` for weights that are not finite and for a copy that differs from what it is tied to.
    """
    import torch

    if not bundle.sources:
        ((name, shape),) = bundle.targets.items()
        x = torch.tensor(bundle.values, dtype=torch.float32)
        return {name: x.expand(shape).contiguous() if len(x) == 1 else x.reshape(shape)}
    sources = []
    for source in bundle.sources:
        x = checkpoint.read(source)
        check_finite(source, x)
        sources.append(x)
    for copy in bundle.copies:
        if copy in checkpoint.tensors and not torch.equal(checkpoint.read(copy), sources[0]):
            raise _differ(copy, bundle.sources[0])
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
    """What the architecture's rules make of ``config``. Raises ``CheckpointError`` for values that do not fit together,
    ``NotSupportedYet`` for what llama.cpp does not compute."""
    metadata = {"general.architecture": string(architecture.name)}
    for rule in architecture.rules:
        try:
            with without_option():
                keys = rule.metadata(config)
        except (
            TypeError,
            ValueError,
            LookupError,
            ArithmeticError,
        ) as error:  # null or a number that is none, where one is needed
            setting = ", ".join(rule.reads) or type(rule).__name__
            raise CheckpointError(
                f"config.json cannot be used: {setting}",
                why=" ".join(str(error).split())[:200],
                hint="compare config.json with the one of the original repository",
            ) from error
        metadata |= {full_key(architecture.name, key): value for key, value in keys.items()}
    if architecture.ahead and architecture.further:
        n_layer, by_layer = architecture.dimensions(config)["n_layer"], architecture.ahead.by_layer(config)
        metadata |= further_metadata(metadata, architecture.name, n_layer, len(architecture.further), by_layer)
    return metadata


def _lacks_output(architecture: Architecture, config: PreTrainedConfig, checkpoint: Checkpoint) -> str | None:
    """The reason, where a base class was saved of a model that does not use its embedding as output layer."""
    stored = f"{architecture.output}.weight" in checkpoint.tensors
    if not architecture.generates or stored or config.tie_word_embeddings or not is_base_class(checkpoint.config):
        return None
    return f"it was saved as {checkpoint.config['architectures'][0]}, without its output layer"


def _facts(architecture: Architecture, config: PreTrainedConfig, bundles: Iterable[Bundle]) -> ModelFacts:
    from hubquant.vocab import ModelFacts

    shapes = {name: shape for bundle in bundles for name, shape in bundle.targets.items()}
    ids = {role: getattr(config, f"{role}_token_id", None) for role in ("bos", "eos", "pad")}
    return ModelFacts(
        architecture=architecture.name,
        rows=shapes.get("token_embd.weight", (architecture.dimensions(config)["n_vocab"],))[0],
        n_token_types=shapes["token_types.weight"][0] if "token_types.weight" in shapes else 0,
        ids={role: id for role, id in ids.items() if isinstance(id, int)},
    )


def float_type(tensors: Iterable[TensorInfo]) -> str:
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
