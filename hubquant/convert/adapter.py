"""A LoRA adapter of peft as the tensors that llama.cpp loads beside a base model.

llama.cpp adds alpha / r * B A to a weight, with one alpha for the whole file and the r of each B (src/llama-adapter.h);
the names, and the embedding whose A and B are the other way round, are those of its convert_lora_to_gguf.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.finite import check_finite
from hubquant.checkpoint.headers import TensorInfo, listed
from hubquant.convert.conversion import file_order
from hubquant.convert.lora import BY_PEFT, MERGED, WRAPPED, in_base, read_pairs, read_strength
from hubquant.convert.low_rank import LowRank, NotLowRankError, carried
from hubquant.convert.operations import Transpose
from hubquant.convert.tables import Bundle
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, f32, string
from hubquant.units import counted

if TYPE_CHECKING:
    import torch

_MERGE = "add --merge BASE, which makes one model of both"
_UNSUPPORTED = {
    "use_dora": "DoRA scales what the base and the adapter are together, and a GGUF adapter has no place for that",
    "lora_bias": "a GGUF adapter has matrices only",
    "modules_to_save": "these modules were trained as a whole, and a GGUF adapter has no whole weights",
    "target_parameters": "adapters of parameters that are no module's weight are not read yet",
    "trainable_token_indices": "a GGUF adapter has no single rows of the embedding",
    "layer_replication": "the adapted model has more layers than its base",
    "megatron_config": "its layers are not those of transformers",
    "use_qalora": "its A is applied to pooled inputs",
    "alora_invocation_tokens": "an adapter that starts at some tokens is not written yet",
    "arrow_config": "it chooses among several adapters",
}
_EMBEDDING = "token_embd.weight"
# llama.cpp multiplies with these without looking for an adapter (src/models/deepseek2.cpp, kimi-linear.cpp,
# minicpm3.cpp, rwkv6-base.cpp and rwkv7-base.cpp), and would say nothing.
_NOT_ADAPTED = re.compile(
    r"\.attn_(q_a|q_b|kv_a_mqa|k_b|v_b|kv_b)\.weight$|^(deepseek2|mistral4) (.*\.attn_q|output)\.weight$"
    r"|^deepseek4 (.*\.attn_output_a|output)\.weight$"
    r"|\.time_mix_([wavg][012]|decay_w[12])\.weight$"
    r"|^kimi-linear (.*\.(attn_(q|k|v|output)|ssm_\w+)|output)\.weight$"
)


@dataclass(frozen=True)
class _Factors:
    """Names of A [r, columns] and B [rows, r] of one weight, and what its alpha is to that of the file. An
    ``embedding`` has A [r, n_vocab] and B [n_embd, r], of its transpose."""

    a: TensorInfo
    b: TensorInfo
    strength: float
    embedding: bool

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def is_turned(self, bundle: Bundle) -> bool:
        """Whether B A is the transpose of the weight: of an embedding, and of a linear layer whose weight the
        checkpoint has as [columns, rows]."""
        return self.embedding or any(isinstance(operation, Transpose) for operation in bundle.operations)


@dataclass(frozen=True)
class _Change:
    """What the adapter has for the sources of ``bundle``, None where it leaves one alone."""

    bundle: Bundle
    factors: tuple[_Factors | None, ...]

    def targets(self, read: Callable[[TensorInfo], torch.Tensor]) -> dict[str, LowRank]:
        """By the names of the weights in GGUF. Raises ``NotLowRankError``."""
        given = {
            source: self._change(factors, read)
            for source, factors in zip(self.bundle.sources, self.factors, strict=True)
            if factors
        }
        rank, some = max(change.rank for change in given.values()), next(iter(given.values()))
        nothing = LowRank(some.a.new_zeros(rank, some.a.shape[-1]), some.b.new_zeros(some.b.shape[0], rank))
        changes = [given[source].of_rank(rank) if source in given else nothing for source in self.bundle.sources]
        for operation in self.bundle.operations:
            changes = carried(operation, changes)
        return dict(zip(self.bundle.targets, changes, strict=True))

    def _change(self, factors: _Factors, read: Callable[[TensorInfo], torch.Tensor]) -> LowRank:
        """Of the weight as the checkpoint has it; llama.cpp divides by the rank that the file will have."""
        rank = max(each.rank for each in self.factors if each)
        a, b = read(factors.a).float(), read(factors.b).float()
        strength = factors.strength * (rank / factors.rank)
        change = LowRank(a, b * strength if strength != 1 else b)
        return change.transposed() if factors.is_turned(self.bundle) else change


@dataclass(frozen=True)
class AdapterConversion:
    """``shapes`` are those of the file's tensors, in torch order; ``metadata`` are its keys that tell an adapter."""

    architecture: str
    metadata: Metadata
    shapes: Mapping[str, tuple[int, ...]]
    changes: tuple[_Change, ...]

    @property
    def n_changed(self) -> int:
        """Weights of the base."""
        return sum(math.prod(shape) for change in self.changes for shape in change.bundle.targets.values())

    def stream(self, checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor in float32, contiguous. Raises ``CheckpointError`` for values that are not finite."""

        def read(info: TensorInfo) -> torch.Tensor:
            x = checkpoint.read(info.name)
            check_finite(info.name, x)
            return x

        for change in self.changes:
            for target, found in change.targets(read).items():
                for name, x in _named(target, found):
                    yield name, x.contiguous()


def plan_adapter(
    settings: Mapping[str, Any], tensors: Mapping[str, TensorInfo], base: Mapping[str, Any]
) -> AdapterConversion:
    """From adapter_config.json, the headers of adapter_model.safetensors and the base model's config.json.

    Raises ``NotSupportedYet`` for adapters that llama.cpp cannot apply, ``CheckpointError`` for those that are not
    sound or do not fit the base.
    """
    strength = read_strength(settings)
    _check_expressible(settings)
    stored = read_pairs(tensors, _MERGE)
    changed = {f"{module}.weight": pair[0] for module, pair in stored.items()}
    architecture, config, names = in_base(base, changed)
    factors = {
        names[a.name]: _Factors(a, b, strength.of(module.removeprefix(WRAPPED), a.shape[0]) / strength.alpha, embedding)
        for module, (a, b, embedding) in stored.items()
    }
    architecture = architecture.reading({*names.values()}, config, ahead=False)
    bundles = sorted(architecture.bundles(config), key=lambda bundle: min(map(file_order, bundle.targets)))
    changes = tuple(
        _Change(bundle, tuple(factors.get(source) for source in bundle.sources))
        for bundle in bundles
        if any(source in factors for source in bundle.sources)
    )
    known = {source for change in changes for source in change.bundle.sources}
    if unknown := [name for name in factors if name not in known]:
        raise CheckpointError(
            f"{counted(len(unknown), 'weight')} that the adapter changes {'is' if len(unknown) == 1 else 'are'} not in "
            f"the base: {listed(unknown)}",
            why=f"by its config.json it is a {architecture.restored_as} model",
            hint="name the model that the adapter was trained on: --base BASE",
        )
    multiplied = {*architecture.taps(config), _EMBEDDING}
    shapes: dict[str, tuple[int, ...]] = {}
    for change in changes:
        _check_shapes(change)
        for target, found in _planned(change).items():
            is_applied = target in multiplied and not _NOT_ADAPTED.search(f"{architecture.name} {target}")
            if not is_applied or found.shape != change.bundle.targets[target]:
                raise _inexpressible(change)
            shapes |= {name: tuple(x.shape) for name, x in _named(target, found)}
    metadata = {
        "general.type": string("adapter"),
        "adapter.type": string("lora"),
        "adapter.lora.alpha": f32(strength.alpha),
    }
    return AdapterConversion(architecture.name, metadata, shapes, changes)


def _check_expressible(settings: Mapping[str, Any]) -> None:
    """Raises ``NotSupportedYet`` for what adapter_config.json says and a GGUF adapter cannot."""
    for name, why in _UNSUPPORTED.items():
        if settings.get(name):
            hint = _MERGE if name in MERGED else BY_PEFT
            raise NotSupportedYet(f"{name} in adapter_config.json", why=why, hint=hint)
    if settings.get("bias", "none") != "none":
        raise NotSupportedYet(
            f"bias {listed([str(settings['bias'])])} in adapter_config.json",
            why="biases were trained too, and a GGUF adapter has no place for them",
            hint=_MERGE,
        )


def _check_shapes(change: _Change) -> None:
    """Raises ``CheckpointError``."""
    shapes = change.bundle.source_shapes()
    for source, factors in zip(change.bundle.sources, change.factors, strict=True):
        if factors is None:
            continue
        has, (rows, columns) = shapes[source], (factors.b.shape[0], factors.a.shape[1])
        found = (columns, rows) if factors.is_turned(change.bundle) else (rows, columns)
        if has != found:
            raise CheckpointError(
                f"the adapter changes {source} as if it were {list(found)}",
                why=f"in the base it is {list(has)}",
                hint="name the model that the adapter was trained on: --base BASE",
            )


def _planned(change: _Change) -> dict[str, LowRank]:
    """Without numbers. Raises ``NotSupportedYet`` where the weight becomes what no A and B add up to."""
    import torch

    if any(len(shape) != 2 for shape in change.bundle.source_shapes().values()):
        raise _inexpressible(change)
    try:
        return change.targets(lambda info: torch.empty(info.shape, device="meta"))
    except NotLowRankError:
        raise _inexpressible(change) from None


def _inexpressible(change: _Change) -> NotSupportedYet:
    changed = [source for source, each in zip(change.bundle.sources, change.factors, strict=True) if each]
    return NotSupportedYet(
        f"an adapter of {listed(changed)}",
        why=f"in GGUF it is {listed(list(change.bundle.targets))}, which llama.cpp changes by no A and B",
        hint=_MERGE,
    )


def _named(target: str, change: LowRank) -> Iterator[tuple[str, torch.Tensor]]:
    """As llama.cpp looks for them. It takes rows of an embedding's A, and so wants [n_vocab, r] and [n_embd, r]."""
    if target == _EMBEDDING:
        change = LowRank(change.b, change.a.transpose(-1, -2))
    yield f"{target}.lora_a", change.a
    yield f"{target}.lora_b", change.b
