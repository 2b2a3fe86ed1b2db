"""The weights of a model, block by block, each read from disk once."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.finite import check_finite
from hubquant.checkpoint.stored import stored_tensors
from hubquant.errors import CheckpointError
from hubquant.models.load import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class StreamedWeights:
    """A model without weights (``skeleton``), and its weights to put into it, in float32 on ``device``.

    ``checkpoint`` has the names of today and plain floats; ``blocks_path`` is where the list of blocks is in the model
    and in the checkpoint, ``output`` what the checkpoint calls the output layer, and ``token_tables`` are the names of
    its matrices with a row for each token. Nothing is read before :meth:`load_rest`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: Any,
        blocks_path: str,
        output: str,
        token_tables: Sequence[str],
        device: str,
    ) -> None:
        from accelerate import init_empty_weights
        from transformers import AutoModelForCausalLM
        from transformers.conversion_mapping import get_model_conversion_mapping

        auto: Any = AutoModelForCausalLM
        with quiet(), init_empty_weights(include_buffers=False):
            self.skeleton: PreTrainedModel = auto.from_config(config, dtype=torch.float32)
        self.skeleton.eval().requires_grad_(False)
        self._output: Any = self.skeleton.get_output_embeddings()
        self.blocks: list[Any] = list(self.skeleton.get_submodule(blocks_path))
        self._checkpoint, self._prefix, self._device = checkpoint, f"{blocks_path}.", device
        self._stored = stored_tensors(checkpoint)
        self._token_tables: dict[str, Any] = {
            name: self.skeleton.get_submodule(name.removesuffix(".weight")) for name in token_tables
        }
        self._output_names = [name for name in checkpoint.tensors if name.startswith(f"{output}.")]
        self._mapping: Any = get_model_conversion_mapping(self.skeleton)
        for module in self.skeleton.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(device)

    def read(self, block: int) -> dict[str, torch.Tensor]:
        """The tensors of a block as the checkpoint has them: names, dtypes and shapes are its own.

        Raises ``CheckpointError`` for weights that are not finite.
        """
        prefix = f"{self._prefix}{block}."
        return self._read(name for name in self._stored if name.startswith(prefix))

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put tensors with a checkpoint's names and shapes into the skeleton, in float32 and fused as transformers has
        them. Raises ``CheckpointError`` when they do not fit."""
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        settings = LoadStateDictConfig(
            dtype=torch.float32, weight_mapping=self._mapping, device_map={"": torch.device(self._device)}
        )
        with quiet():
            found, _ = convert_and_load_state_dict_in_model(self.skeleton, dict(tensors), settings)
        if found.conversion_errors or found.mismatched_keys:
            raise CheckpointError(
                f"weights of {next(iter(tensors))} do not fit transformers' model",
                hint="compare config.json and the weights with the original repository",
            )
        _give_back()

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
            for name in self._stored
            if not name.startswith(self._prefix) and name not in self._output_names and name not in tables
        ]
        self.load(self._read(names))
        for name, module in tables.items():
            # A table may be shorter than the vocabulary, and then gives the others the row of token 0.
            present = torch.tensor(sorted({0, *tokens.flatten().tolist()}))
            present = present[present < module.num_embeddings]
            rows = self._checkpoint.read_rows(name, present.tolist())
            module.weight = torch.nn.Parameter(rows.float().to(self._device), requires_grad=False)
            module.padding_idx = None
            module.register_forward_pre_hook(_Renumbered(present.to(self._device)))

    def load_output(self) -> None:
        """The output layer, which may be the same matrix as the embedding."""
        if self._output_names:
            self.load(self._read(self._output_names))
        if self._output.weight.is_meta:
            embedding = self.skeleton.get_input_embeddings()
            (name,) = (name for name, module in self._token_tables.items() if module is embedding)
            whole = self._checkpoint.read(name).float().to(self._device)
            self._output.weight = torch.nn.Parameter(whole, requires_grad=False)

    def _read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        # What a checkpoint gives lies in its file until it is used; a copy is there when the block's turn comes.
        tensors = {name: self._stored[name][...].clone() for name in names}
        for name, x in tensors.items():
            check_finite(name, x)
        return tensors


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
