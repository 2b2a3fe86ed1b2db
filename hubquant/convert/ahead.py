"""Layers behind the last that predict further tokens: multi-token prediction, which llama.cpp calls NextN and drafts
with. They stand behind the others under the numbers that follow, as DeepSeek V3's checkpoints have them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.headers import TensorInfo, listed
from hubquant.convert.rules.rule import integer
from hubquant.convert.tables import Bundle, Module, Place, Row, linear, norm
from hubquant.gguf_file.metadata import Metadata, u32
from hubquant.units import counted

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from hubquant.convert.architecture import Architecture

AHEAD = "nextn_predict_layers"
MOST = 64
_SETTINGS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")
BLOCKS = "block_count"

JOINED: tuple[Row, ...] = (
    linear("eh_proj", "n_embd", "n_embd_2", stem="nextn.eh_proj"),
    norm("enorm", stem="nextn.enorm"),
    norm("hnorm", stem="nextn.hnorm"),
)
"""What joins the state behind the layers with the embedding of the token that follows."""
HEAD: tuple[Row, ...] = (*JOINED, norm("shared_head.norm", stem="nextn.shared_head_norm"))
"""With the norm behind such a layer."""
TABLES: tuple[Row, ...] = (
    Module("embed_tokens", ("n_vocab", "n_embd"), stem="nextn.embed_tokens"),
    Module("shared_head.head", ("n_vocab", "n_embd"), stem="nextn.shared_head_head"),
)
"""Copies of the model's embedding and output layer, which some checkpoints have beside these."""
QWEN_NAMES = (
    (r"^(?:model\.)?mtp\.layers\.(\d+)\.", ""),
    (r"^(?:model\.)?mtp\.fc\.", "eh_proj."),
    (r"^(?:model\.)?mtp\.pre_fc_norm_embedding\.", "enorm."),
    (r"^(?:model\.)?mtp\.pre_fc_norm_hidden\.", "hnorm."),
    (r"^(?:model\.)?mtp\.norm\.", "shared_head.norm."),
)
"""Of Qwen's and EXAONE's checkpoints, whose layers beyond the first have no head of their own."""

RowsAhead = Callable[["PreTrainedConfig"], tuple[Row, ...]]
Renamed = Callable[[re.Match[str]], str]
NamesOf = Callable[[Bundle], Iterable[str]]


def never(config: PreTrainedConfig) -> str | None:  # noqa: ARG001
    return None


def no_lists(config: PreTrainedConfig) -> Mapping[str, float]:  # noqa: ARG001
    return {}


@dataclass(frozen=True)
class Ahead:
    """How a family has them.

    ``rows`` are those of each, and ``optional`` such as not every checkpoint has. ``renames`` bring names to those of a
    layer, (regular expression, what stands behind the layer's prefix): the expression's group, if any, is the number
    among such layers. ``by_layer`` are values in metadata that is a list by layer. ``otherwise`` are the rows of layers
    that hold the same weights in other tensors, one of which is named before them. ``left_out`` tells why GGUF files do
    without them, where they do.
    """

    rows: RowsAhead
    renames: tuple[tuple[str, str], ...] = ()
    by_layer: Callable[[PreTrainedConfig], Mapping[str, float]] = no_lists
    otherwise: tuple[str, RowsAhead] | None = None
    optional: tuple[Row, ...] = TABLES
    left_out: Callable[[PreTrainedConfig], str | None] = never

    def renames_behind(self, blocks: str, n_layer: int) -> tuple[tuple[str, Renamed], ...]:
        """For a model whose ``n_layer`` layers are called ``blocks``."""

        def behind(rest: str) -> Renamed:
            return lambda match: f"{blocks}.{n_layer + int(match[1] if match.re.groups else 0)}.{rest}"

        return tuple((pattern, behind(rest)) for pattern, rest in self.renames)

    def without(self, tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
        """A checkpoint's tensors but those that have names of their own here."""
        return {
            name: info
            for name, info in tensors.items()
            if not any(re.search(pattern, name) for pattern, _ in self.renames)
        }

    def rows_at(self, place: Place, tensors: Collection[str]) -> tuple[Row, ...]:
        """Of the layer at ``place``, of a checkpoint or a file with ``tensors``."""
        rows = self.otherwise[1] if self.otherwise and place.prefix + self.otherwise[0] in tensors else self.rows
        return (*rows(place.config), *(row for row in self.optional if _is_held(row, place, tensors)))

    def missing(self, place: Place, tensors: Collection[str], names: NamesOf) -> list[str]:
        """What the layer at ``place`` lacks among ``tensors``; ``names`` gives those of a bundle in these."""
        bundles = (bundle for row in self.rows_at(place, tensors) for bundle in row.bundles(place))
        return [name for bundle in bundles for name in names(bundle) if name not in tensors]

    def whole_layers(
        self, place_of: Callable[[int], Place], tensors: Collection[str], names: NamesOf
    ) -> tuple[tuple[Row, ...], ...]:
        """The rows of the layers, numbered from 0, of which nothing is missing, up to the first of which it is."""
        found: list[tuple[Row, ...]] = []
        for place in map(place_of, range(MOST)):
            if self.missing(place, tensors, names):
                break
            found.append(self.rows_at(place, tensors))
        return tuple(found)


def _is_held(row: Row, place: Place, tensors: Collection[str]) -> bool:
    """In a checkpoint or in a file."""
    bundles = list(row.bundles(place))
    return any(all(name in tensors for each in bundles for name in names(each)) for names in (sources_of, targets_of))


def sources_of(bundle: Bundle) -> Iterable[str]:
    return bundle.sources


def targets_of(bundle: Bundle) -> Iterable[str]:
    return bundle.targets


def names_behind(blocks: str, n_layer: int, names: Collection[str]) -> dict[int, dict[str, str]]:
    """The tensors of layers after the last: by the layer's number, each name without the layer's prefix -> the name."""
    found: dict[int, dict[str, str]] = {}
    layer = re.compile(rf"{re.escape(blocks)}\.(\d+)\.")
    for name in names:
        if (match := layer.match(name)) and int(match[1]) >= n_layer:
            found.setdefault(int(match[1]), {})[name[match.end() :]] = name
    return found


def further_metadata(
    metadata: Metadata, architecture: str, n_layer: int, n_ahead: int, by_layer: Mapping[str, float]
) -> Metadata:
    """The keys that ``n_ahead`` layers behind the last of ``n_layer`` change."""
    lists = {key: metadata[key] for key in (f"{architecture}.{name}" for name in by_layer)}
    values = dict(zip(lists, by_layer.values(), strict=True))
    longer = {k: replace(kv, value=(*kv.value, *n_ahead * (values[k],))) for k, kv in lists.items()}  # type: ignore[misc]
    return {
        f"{architecture}.{BLOCKS}": u32(n_layer + n_ahead),
        f"{architecture}.{AHEAD}": u32(n_ahead),
        **longer,
    }


def without_further(metadata: Metadata, prefix: str = "") -> Metadata:
    """The keys of a model without the layers behind its last; ``prefix`` is the architecture's, with a dot."""
    n_ahead, n_all = integer(metadata, prefix + AHEAD) or 0, integer(metadata, prefix + BLOCKS) or 0
    n_layer = n_all - n_ahead
    found = {key: kv for key, kv in metadata.items() if key != prefix + AHEAD}
    if not 0 < n_ahead < n_all:
        return found
    for key, kv in found.items():
        if key.startswith(prefix) and isinstance(kv.value, tuple) and len(kv.value) == n_all:
            found[key] = replace(kv, value=kv.value[:n_layer])
    return {**found, prefix + BLOCKS: u32(n_layer)}


def notes_ahead(
    architecture: Architecture,
    config: PreTrainedConfig,
    given: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    *,
    wanted: bool,
) -> Iterator[str]:
    """Where what predicts further tokens is not what config.json (``given``) says, or left out."""
    if architecture.ahead is None:
        return
    held = [name for names in architecture.behind(config, tensors).values() for name in names.values()]
    used = {source for bundle in architecture.bundles_ahead(config) for source in bundle.sources}
    left, n_found = [name for name in held if name not in used], len(architecture.further)
    setting = next((name for name in _SETTINGS if isinstance(given.get(name), int) and given[name]), None)
    promised = given[setting] if setting else 0
    if left:
        found = counted(len(left), "tensor only predicts", "tensors only predict")
        why = _why_left_out(architecture, config, tensors, wanted=wanted)
        names = listed(tensors[name].name for name in left)
        yield f"{found} further tokens, and {'is' if len(left) == 1 else 'are'} left out{why}: {names}"
    elif promised and not held and wanted and not architecture.ahead.left_out(config):
        yield (
            f"config.json tells of {counted(promised, 'layer')} behind the last to predict further tokens ({setting}), "
            "but the files hold none: neither does the GGUF file"
        )
    if n_found and promised != n_found:
        yield (
            f"{counted(n_found, 'layer')} behind the last to predict further tokens {'is' if n_found == 1 else 'are'} "
            f"kept, though config.json tells of {promised or 'none'}"
        )


def _why_left_out(
    architecture: Architecture, config: PreTrainedConfig, tensors: Collection[str], *, wanted: bool
) -> str:
    assert architecture.ahead is not None
    if not wanted:
        return ", as was asked for"
    if why := architecture.ahead.left_out(config):
        return f", because {why}"
    place = architecture.place_ahead(config, len(architecture.further))
    missing = architecture.ahead.missing(place, tensors, sources_of)
    return f", because {listed(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else ""
