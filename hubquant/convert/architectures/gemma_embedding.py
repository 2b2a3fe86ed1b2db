"""EmbeddingGemma: Gemma 3 that sees the whole text at once, and two matrices that its pooled state goes through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.modules import DENSE
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, gemma
from hubquant.convert.rules.rule import Fixed, Rule, Settings, integer
from hubquant.convert.rules.windows import QueryScale, Windows
from hubquant.convert.tables import Bundle, Module, Place, WithoutBias
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32
from hubquant.models.taps.tap import Tap

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_MODULES = {"2_Dense": "dense_2", "3_Dense": "dense_3"}


@dataclass(frozen=True)
class _Windows(Windows):
    """``sliding_window`` tokens, half of them to each side; transformers' config has one more than that half."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {**super().metadata(config), "attention.sliding_window": u32(2 * (config.sliding_window - 1))}


@dataclass(frozen=True)
class _Dense(Rule):
    """From the width of the model to any other and back, without biases and activations."""

    reads = (DENSE,)

    def check(self, settings: Settings) -> None:
        modules: Mapping[str, Any] = settings.get(DENSE) or {}
        if modules and [*modules] != [*_MODULES]:
            raise NotSupportedYet(f"the dense modules {', '.join(modules)}", why=f"llama.cpp has {', '.join(_MODULES)}")
        for name, module in modules.items():
            activation = str(module.get("activation_function"))
            if module.get("bias") or not activation.endswith("Identity"):
                raise NotSupportedYet(
                    f"{name} with bias {module.get('bias')} and {activation[:60]}",
                    why="llama.cpp multiplies by its matrix and nothing else",
                )

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        modules = getattr(config, DENSE, {})
        sizes = [(module["in_features"], module["out_features"]) for module in modules.values()]
        if sizes and not (sizes[0][0] == sizes[1][1] == config.hidden_size and sizes[0][1] == sizes[1][0]):
            raise NotSupportedYet(f"dense modules of {sizes}", why=f"they lead from {config.hidden_size} back to it")
        return {
            f"{_MODULES[name]}_feat_{side}": u32(module[f"{side}_features"])
            for name, module in modules.items()
            for side in ("in", "out")
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        modules = {
            name: {
                "bias": False,
                "activation_function": "Identity",
                **{f"{side}_features": integer(metadata, f"{dense}_feat_{side}") for side in ("in", "out")},
            }
            for name, dense in _MODULES.items()
            if f"{dense}_feat_in" in metadata
        }
        return {DENSE: modules} if modules else {}


@dataclass(frozen=True)
class _Projections(WithoutBias):
    """The matrix of each dense module."""

    def bundles(self, place: Place) -> Iterator[Bundle]:
        for name, module in getattr(place.config, DENSE, {}).items():
            shape = (module["out_features"], module["in_features"])
            yield Bundle((f"{name}.linear.weight",), {f"{_MODULES[name]}.weight": shape})

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:  # noqa: ARG002
        return iter(())  # llama-imatrix looks at the blocks alone


GEMMA_EMBEDDING = Architecture(
    name="gemma-embedding",
    classes={"Gemma3TextModel": "gemma3_text"},
    restored_as="gemma3_text",
    rules=(
        *gemma.RULES_OF_3,
        _Windows(gemma.PERIOD_OF_3),
        QueryScale(n_layer_of_27b=None),
        Fixed("use_bidirectional_attention", True),
        _Dense(),
    ),
    dimensions=decoder.dimensions,
    outside=(Module("embed_tokens", ("n_vocab", "n_embd")), gemma.norm("norm"), _Projections()),
    block=gemma.GEMMA3.block,
    blocks="layers",
    renames=((r"^model\.", ""),),
    takes=lambda settings: bool(settings.get("use_bidirectional_attention")),
    generates=False,
)
