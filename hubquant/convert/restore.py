"""A GGUF file becomes a transformers model again, so that what is evaluated is what was written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hubquant.checkpoint.headers import listed
from hubquant.convert.ahead import without_further
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import of_gguf
from hubquant.convert.config import make_config
from hubquant.convert.factored import UNUSED, weights_alone
from hubquant.convert.rules.rope import FREQS, apply_freqs
from hubquant.convert.rules.rule import is_number, rule_keys
from hubquant.convert.tables import Bundle
from hubquant.errors import CheckpointError, GGUFError
from hubquant.gguf_file.reader import GGUFFile
from hubquant.mix.storage import n_dims
from hubquant.models.classes import model_class
from hubquant.models.load import quiet
from hubquant.models.widened import Widened
from hubquant.quants import dequantize
from hubquant.units import counted

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_TOKENS = {  # setting: metadata key
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}

HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}


def read_tensor(gguf: GGUFFile, name: str) -> torch.Tensor:
    """One tensor of any type as float32, in its shape in torch order: [rows, columns] of a matrix.

    Raises ``KeyError`` when there is none of that name.
    """
    entry = gguf.tensors[name]
    return dequantize(gguf.data(name), entry.type, entry.shape[-1]).reshape(entry.shape)


def read_widened(gguf: GGUFFile, name: str) -> torch.Tensor:
    """As :func:`read_tensor`, but matrices in half precision stay where they lie and are widened when they are used."""
    entry = gguf.tensors[name]
    if entry.type not in HALVES or len(entry.shape) < 2:
        return read_tensor(gguf, name)
    return Widened(gguf.data(name).view(HALVES[entry.type]).reshape(entry.shape))


def read_state_dict(
    gguf: GGUFFile, read: Callable[[GGUFFile, str], torch.Tensor] = read_tensor, *, ahead: bool = True
) -> Iterator[tuple[str, torch.Tensor]]:
    """(checkpoint name, float32 tensor in the checkpoint's shape) for every weight; tied weights come once. Without
    ``ahead`` those of layers that predict further tokens are left out, as transformers' models have none.

    Raises ``GGUFError`` when tensors are missing, unknown or of other shapes than the metadata says.
    """
    architecture, config = read_config(gguf)
    check_tensors(gguf, architecture.bundles(config))
    for bundle in (architecture if ahead else replace(architecture, further=())).bundles(config):
        if bundle.sources:
            restored = bundle.inverse([read(gguf, name) for name in bundle.targets])
            yield from ((name, x.contiguous()) for name, x in weights_alone(restored).items())
    yield from read_numbers(gguf, architecture, config).items()


def read_numbers(gguf: GGUFFile, architecture: Architecture, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors that are values in the metadata. Raises ``GGUFError`` where they are not there."""
    found: dict[str, torch.Tensor] = {}
    for key, numbers in architecture.numbers(config).items():
        values = _value(gguf, key)
        if not (isinstance(values, tuple) and len(values) == len(numbers.names) and all(map(is_number, values))):
            raise GGUFError(f"{key} is no list of {counted(len(numbers.names), 'number')}")
        tensors = (torch.tensor(value, dtype=torch.float32).reshape(numbers.shape) for value in values)
        found |= zip(numbers.names, tensors, strict=True)
    return found


def read_config(gguf: GGUFFile) -> tuple[Architecture, PreTrainedConfig]:
    """The transformers config that the metadata describes, and its architecture with the layers behind the last that
    the file holds. Raises ``GGUFError`` for metadata that describes none,
    ``NotSupportedYet`` for an architecture that is not known."""
    name = _value(gguf, "general.architecture")
    if not isinstance(name, str):
        raise GGUFError("this file names no architecture", hint="only model files can be loaded")
    keys = without_further(rule_keys(name, gguf.metadata))
    architecture = of_gguf(name, keys, gguf.tensors.keys())
    settings: dict[str, Any] = {name: _value(gguf, key) for name, key in _TOKENS.items()}
    if "vocab_size" not in keys and "token_embd.weight" in gguf.tensors:
        settings["vocab_size"] = gguf.tensors["token_embd.weight"].shape[0]
    settings["tie_word_embeddings"] = "output.weight" not in gguf.tensors
    try:
        for rule in architecture.rules:
            settings |= rule.settings(keys)
        settings |= architecture.told_by_tensors(_Tensors(gguf), settings)
        config = make_config(architecture.restored_as, settings, architecture.rules)
        settings |= architecture.bias_settings(config, gguf.tensors.keys())
        config = make_config(architecture.restored_as, settings, architecture.rules)
        return architecture.reading_file(gguf.tensors.keys(), config), config
    except CheckpointError as error:
        why = str(error).replace("config.json", "the metadata")
        raise GGUFError("the metadata describes no model that can be loaded", why=why) from error


class _Tensors(Mapping[str, torch.Tensor]):
    """The tensors of a file, each read when it is asked for."""

    def __init__(self, gguf: GGUFFile) -> None:
        self._gguf = gguf

    def __getitem__(self, name: str) -> torch.Tensor:
        return read_tensor(self._gguf, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._gguf.tensors)

    def __len__(self) -> int:
        return len(self._gguf.tensors)


def load_model(source: str | os.PathLike[str] | GGUFFile, device: str | torch.device = "cpu") -> PreTrainedModel:
    """The model in float32, ready for inference, from nothing but the GGUF file. On a CPU its matrices in half
    precision are :class:`Widened` tensors.

    Raises ``GGUFError`` for a file whose tensors do not make up the model of its metadata.
    """

    gguf = source if isinstance(source, GGUFFile) else GGUFFile.open(Path(source))
    architecture, config = read_config(gguf)
    on_cpu = torch.device(device).type == "cpu"
    weights = dict(read_state_dict(gguf, read_widened if on_cpu else read_tensor, ahead=False))
    # One expert is widened at a time where they are computed one after the other.
    options = {"experts_implementation": "eager"} if on_cpu else {}
    with quiet():
        model, info = model_class(config, architecture.generates).from_pretrained(
            None, config=config, state_dict=weights, dtype=torch.float32, output_loading_info=True, **options
        )
    ignored = re.compile("|".join(architecture.ignored))
    keys = (*sorted(info["missing_keys"]), *sorted(info["unexpected_keys"]))
    if wrong := [name for name in keys if not ignored.search(name)]:
        raise GGUFError("the tensors do not fit transformers' model", why=f"they differ in {listed(wrong)}")
    if FREQS in gguf.tensors:
        apply_freqs(model, read_tensor(gguf, FREQS))
    loaded: PreTrainedModel = model.requires_grad_(False).eval().to(device)
    return loaded


def check_tensors(gguf: GGUFFile, bundles: Iterable[Bundle]) -> None:
    """Raises ``GGUFError`` where tensors are missing, unknown, or of other shapes than the ``bundles`` have."""
    shapes = {name: shape for bundle in bundles for name, shape in bundle.targets.items()}
    missing = [name for name in shapes if name not in gguf.tensors]
    unknown = [name for name in gguf.tensors if name not in shapes and name != FREQS and not name.endswith(UNUSED)]
    if missing or unknown:
        what = {"missing": missing, "unknown": unknown}
        why = "; ".join(
            f"{counted(len(names), 'is', 'are')} {word}: {listed(names)}" for word, names in what.items() if names
        )
        raise GGUFError("the tensors are not those of the metadata's model", why=why)
    if wrong := [name for name, shape in shapes.items() if _sizes(gguf.tensors[name].shape) != _sizes(shape)]:
        first = wrong[0]
        raise GGUFError(
            f"{counted(len(wrong), 'tensor has another shape', 'tensors have other shapes')} than the metadata says: "
            f"{listed(wrong)}",
            why=f"{first} is {list(gguf.tensors[first].shape)} instead of {list(shapes[first])}",
        )


def _sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without leading ones, which llama-quantize drops."""
    return shape[-n_dims(shape) :]


def _value(gguf: GGUFFile, key: str) -> Any:
    return gguf.metadata[key].value if key in gguf.metadata else None
