"""The weights of a model, block by block, each read from disk once."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from hubquant.checkpoint.finite import check_finite
from hubquant.errors import CheckpointError
from hubquant.models.classes import model_class
from hubquant.models.load import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_ELEMENTS = 1 << 24
"""Weights of the output layer that are decoded at a time: 64 MB in float32."""

Stored = dict[str, torch.Tensor]
"""What was read of some weights, as it is stored."""

Empty = Callable[[tuple[int, int]], torch.Tensor]
"""Makes room for a matrix in float32."""


class Matrix(Protocol):
    """A matrix on disk of which rows are read."""

    def __getitem__(self, rows: Any, /) -> torch.Tensor:
        """Floats [n, columns] of some rows: a slice, or their numbers."""


class WeightReader(Protocol):
    """Weights by the names that checkpoints have for them today."""

    @property
    def names(self) -> Collection[str]: ...

    def read(self, names: Iterable[str]) -> Stored:
        """What is stored of these weights, in memory of its own."""

    def decode(self, stored: Stored) -> Mapping[str, torch.Tensor]:
        """These weights in floats, by their names. ``stored`` is emptied meanwhile."""

    def matrix(self, name: str) -> Matrix:
        """A weight [rows, columns]."""


class StreamedWeights:
    """A model without weights (``skeleton``), and its weights to put into it, in float32 on ``device``.

    ``blocks_path`` is where the list of blocks is in the model and in the names of ``reader``, ``output`` what these
    call the output layer, and ``token_tables`` are the names of its matrices with a row for each token. Nothing is read
    before :meth:`load_rest`.
    """

    def __init__(
        self,
        reader: WeightReader,
        config: Any,
        blocks_path: str,
        output: str,
        token_tables: Sequence[str],
        device: str,
    ) -> None:
        from accelerate import init_empty_weights
        from transformers.conversion_mapping import get_model_conversion_mapping

        with quiet(), init_empty_weights(include_buffers=False):
            self.skeleton: PreTrainedModel = model_class(config, generates=True)._from_config(
                config, dtype=torch.float32
            )
        self.skeleton.eval().requires_grad_(False)
        self.output: Any = self.skeleton.get_output_embeddings()
        self.blocks: list[Any] = list(self.skeleton.get_submodule(blocks_path))
        self.device = device
        self._reader, self._prefix = reader, f"{blocks_path}."
        self._token_tables: dict[str, Any] = {
            name: self.skeleton.get_submodule(name.removesuffix(".weight")) for name in token_tables
        }
        self._rows: dict[str, torch.Tensor] = {}
        self._output_names = [name for name in reader.names if name.startswith(f"{output}.")]
        self._mapping: Any = get_model_conversion_mapping(self.skeleton)
        for module in self.skeleton.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(device)

    @property
    def n_vocab(self) -> int:
        """How many logits a token has."""
        return int(self.output.weight.shape[0])

    def read(self, block: int) -> Stored:
        """The weights of a block, as they are stored."""
        prefix = f"{self._prefix}{block}."
        return self._reader.read([name for name in self._reader.names if name.startswith(prefix)])

    def load(self, block: int, stored: Stored) -> None:
        """Put what was read of a block into the skeleton, in float32 and fused as transformers has it.

        Raises ``CheckpointError`` for weights that are not finite, that do not fit, or that are missing.
        """
        self._load(stored)
        if lacking := [name for name, x in self.blocks[block].named_parameters() if x.is_meta]:
            raise CheckpointError(
                f"block {block} lacks {len(lacking)} of its weights, first {lacking[0]}",
                hint="compare the files with those of the repository that the model comes from",
            )

    def unload(self, block: int) -> None:
        for module in self.blocks[block].modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
        _give_back()

    def load_rest(self, tokens: torch.Tensor) -> None:
        """What is in no block but the output layer; of tables with a row for each token the rows of ``tokens``, ids of
        any shape."""
        tables = self._token_tables
        names = [
            name
            for name in self._reader.names
            if not name.startswith(self._prefix) and name not in self._output_names and name not in tables
        ]
        self._load(self._reader.read(names))
        for name, module in tables.items():
            # A table may be shorter than the vocabulary, and then gives the others the row of token 0.
            present = torch.tensor(sorted({0, *tokens.flatten().tolist()}))
            self._rows[name] = present = present[present < module.num_embeddings]
            module.weight = self._parameter(self._reader.matrix(name)[present])
            module.padding_idx = None
            module.register_forward_pre_hook(_Renumbered(present.to(self.device)))

    def load_output(self, empty: Empty = torch.empty) -> None:
        """The output layer, which may be the same matrix as the embedding; on a CPU ``empty`` makes room for it."""
        name, (n_rows, n_columns) = self._output_weight, self.output.weight.shape
        self._load(self._reader.read([other for other in self._output_names if other != name]))
        matrix, step = self._reader.matrix(name), max(1, ROWS_ELEMENTS // n_columns)
        whole = (
            empty((n_rows, n_columns)) if self.device == "cpu" else torch.empty(n_rows, n_columns, device=self.device)
        )
        for start in range(0, n_rows, step):
            rows = matrix[start : start + step]
            check_finite(name, rows)
            whole[start : start + step] = rows
        self.output.weight = torch.nn.Parameter(whole, requires_grad=False)

    def put(self, weights: Mapping[str, torch.Tensor]) -> bool:
        """Put other ``weights``, floats by the names of the reader, into the skeleton where it has some: of a table the
        rows that are there, and what is the output layer too once that is loaded. Whether all fit."""
        left = dict(weights)
        for name, rows in self._rows.items():
            if (table := left.pop(name, None)) is not None:
                self._token_tables[name].weight = self._parameter(table[rows])
        matrix = weights.get(self._output_weight)
        if matrix is not None and not self.output.weight.is_meta:
            left.pop(self._output_weight, None)
            if matrix.shape != self.output.weight.shape:
                return False
            self.output.weight = self._parameter(matrix)
        return not left or put_weights(self.skeleton, left, self._mapping, torch.device(self.device))

    @property
    def _output_weight(self) -> str:
        """The name of the output layer's matrix, which may be the embedding's."""
        embedding = self.skeleton.get_input_embeddings()
        tied = [name for name, module in self._token_tables.items() if module is embedding]
        return next(iter([name for name in self._output_names if name.endswith(".weight")] or tied))

    def _parameter(self, x: torch.Tensor) -> torch.nn.Parameter:
        return torch.nn.Parameter(x.float().to(self.device), requires_grad=False)

    def _load(self, stored: Stored) -> None:
        tensors = self._reader.decode(stored)
        for name, x in tensors.items():
            check_finite(name, x)
        if not put_weights(self.skeleton, tensors, self._mapping, torch.device(self.device)):
            raise CheckpointError(
                f"weights of {next(iter(tensors))} do not fit transformers' model",
                hint="compare config.json and the weights with the original repository",
            )
        _give_back()


def put_weights(
    model: PreTrainedModel, weights: Mapping[str, torch.Tensor], mapping: Any, device: torch.device
) -> bool:
    """Put ``weights`` by the names of a checkpoint into ``model``, in float32 on ``device`` and fused as transformers'
    conversion ``mapping`` says; whether all fit."""
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    settings = LoadStateDictConfig(dtype=torch.float32, weight_mapping=mapping, device_map={"": device})
    with quiet():
        found, _ = convert_and_load_state_dict_in_model(model, dict(weights), settings)
    return not (found.conversion_errors or found.mismatched_keys)


def _give_back() -> None:
    """Let the C library return freed memory to the system: glibc keeps what was freed in each thread's arena."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class _Renumbered:
    """Token ids become places among the rows that were read."""

    def __init__(self, present: torch.Tensor) -> None:
        self._present = present

    def __call__(self, _module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (torch.searchsorted(self._present, args[0]), *args[1:])
