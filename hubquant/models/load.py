"""Load a local model folder: safetensors only, never remote code, and no output."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.links import check_links
from hubquant.checkpoint.storage import QUANTIZATION
from hubquant.checkpoint.transformers_config import config_of
from hubquant.devices import Device, chosen_device
from hubquant.engine.machine import free_memory_bytes
from hubquant.environ import LOUD
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.models.classes import model_class
from hubquant.panics import tokenizer_errors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


_READ_FROM_OUTSIDE = ("DbrxExpertGLU",)
"""Modules whose weights transformers reads without calling them: accelerate loads none then."""


@dataclass(frozen=True)
class Placement:
    """Where accelerate may put weights: over all devices and main memory if ``spread``, and in a folder on ``disk``.

    ``max_memory`` is transformers': bytes, or a size such as "12GiB", by device ("0", "1", …, "cpu").
    """

    spread: bool = False
    max_memory: Mapping[str, str] = field(default_factory=dict)
    disk: Path | None = None

    def options(self, device: str) -> dict[str, Any]:
        """Arguments of ``from_pretrained``."""
        on_gpu = device != "cpu"
        if self.disk is None and not (on_gpu and self.spread):
            return {"device_map": device} if on_gpu else {}
        memory: dict[int | str, str | int] = {int(k) if k.isdecimal() else k: v for k, v in self.max_memory.items()}
        if self.disk is not None and not memory and not on_gpu:
            memory = {"cpu": free_memory_bytes() // 2}
        options: dict[str, Any] = {"device_map": "auto", "max_memory": memory or None}
        return options if self.disk is None else {**options, "offload_folder": str(self.disk)}


def load(
    checkpoint: Checkpoint,
    folder: Path,
    device: Device = "auto",
    placement: Placement | None = None,
    *,
    encoder: PreTrainedConfig | None = None,
) -> PreTrainedModel:
    """The causal language model of a plain ``checkpoint`` in ``folder``, or with its config as ``encoder`` the encoder
    without heads, in eval mode and without gradients.

    Its weights are what conversion reads, from the same files and under the same names. On the CPU they are float32,
    matrices in half precision as :class:`Widened` tensors that lie in their files; on a GPU they keep the checkpoint's
    dtype. ``auto`` takes a GPU when there is one and, unless ``placement`` says otherwise, spreads the model over all
    devices and main memory. Raises ``CheckpointError`` when weights are missing, broken, not finite or not safetensors,
    ``NotSupportedYet`` for a model that cannot be computed while parts of it are offloaded.
    """
    import torch

    from hubquant.checkpoint.finite import check_finite
    from hubquant.checkpoint.stored import stored_tensors
    from hubquant.models.widened import Widened, WidenedWhenUsed

    chosen = chosen_device(device)
    placement = placement or Placement(spread=device == "auto")
    config: Any = encoder or _config(checkpoint.config)
    place = None
    kind = model_class(config, generates=encoder is None)
    parts = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}
    stored = stored_tensors(checkpoint)
    weights: dict[str, Any] = {"state_dict": stored}
    if placement.disk is not None and _is_as_named(checkpoint, stored, folder):
        # Given the files, transformers leaves on disk what is there, and else writes float32 copies of it.
        place, weights = folder, {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    elif placement.disk is not None and config.tie_word_embeddings:  # copies need a name each
        tied = kind._tied_weights_keys or {}
        stored |= {target: stored[source] for target, source in tied.items() if source in stored}
    elif chosen == "cpu" and placement.disk is None:
        # One expert is widened at a time where they are computed one after the other.
        weights = {
            "state_dict": {name: WidenedWhenUsed(x) for name, x in stored.items()},
            "experts_implementation": "eager",
        }
    model = _from_pretrained(
        kind,
        place,
        folder,
        config=config,
        dtype=torch.float32 if chosen == "cpu" else config.dtype or checkpoint.dtype,
        **placement.options(chosen),
        **parts,
        **weights,
    )
    for name, parameter in model.named_parameters():
        if not parameter.is_meta:  # what is offloaded comes back when it is used
            check_finite(name, parameter.stored if isinstance(parameter, Widened) else parameter)
        elif type(model.get_submodule(name.rpartition(".")[0])).__name__ in _READ_FROM_OUTSIDE:
            raise NotSupportedYet(
                f"offloading parts of {type(model).__name__}",
                why="transformers reads the weights of its experts where accelerate has not loaded them",
                hint="stream it: leave imatrix.offload out, or set it to stream",
            )
    loaded: PreTrainedModel = model.eval().requires_grad_(False)
    return loaded


def load_whole(
    checkpoint: Checkpoint,
    folder: Path,
    device: Device = "auto",
    quantization: Any = None,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """The causal language model of a plain ``checkpoint`` in ``folder`` with weights of its own, in ``dtype`` or the
    checkpoint's, for a library to quantize: while they are loaded, where ``quantization`` is a configuration of
    transformers for that. Otherwise as :func:`load`."""
    from hubquant.checkpoint.finite import Finite
    from hubquant.checkpoint.stored import stored_tensors

    chosen, config = chosen_device(device), _config(checkpoint.config)
    config.dtype = dtype or checkpoint.dtype
    model = _from_pretrained(
        model_class(config, generates=True),
        None,
        folder,
        config=config,
        dtype=config.dtype,
        state_dict={name: Finite(name, x) for name, x in stored_tensors(checkpoint).items()},
        **({"quantization_config": quantization} if quantization is not None else {}),
        **Placement().options(chosen),
    )
    loaded: PreTrainedModel = model.eval().requires_grad_(False)
    return loaded


def _from_pretrained(kind: Any, place: Path | None, folder: Path, **options: Any) -> Any:
    """A model whose weights are all there. Raises ``CheckpointError`` otherwise; ``folder`` is what it tells of."""
    with quiet():
        try:
            model, info = kind.from_pretrained(place, output_loading_info=True, **options)
        except CheckpointError:
            raise
        except Exception as error:  # transformers and torch each raise their own for weights that do not fit
            raise CheckpointError(
                f"the model in {folder} cannot be loaded",
                why=_first_line(error),
                hint="compare the files with those of the repository that the model comes from",
            ) from error
    # transformers would give a missing weight random values.
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of the model's weights, first {missing[0]}",
            hint="compare the files with those of the repository that the model comes from",
        )
    return model


def _is_as_named(checkpoint: Checkpoint, names: Mapping[str, Any], folder: Path) -> bool:
    """Whether transformers finds these weights in the files of ``folder``, under the same names."""
    return checkpoint.is_safetensors and names.keys() == Checkpoint.from_folder(folder).tensors.keys()


def bytes_of_weight(checkpoint: Checkpoint) -> float:
    """That a weight takes in memory once it is loaded on a CPU, on average over the tensors of ``checkpoint``."""
    n_weights = n_bytes = 0
    for info in checkpoint.tensors.values():
        count = math.prod(info.shape) * (2 if info.dtype == "U8" else 1)  # MXFP4: two become bfloat16
        in_half = info.dtype in ("F16", "BF16", "U8") and len(info.shape) > 1 and not info.coding
        n_weights, n_bytes = n_weights + count, n_bytes + count * (2 if in_half else 4)
    return n_bytes / max(1, n_weights)


def _config(settings: Mapping[str, Any]) -> Any:
    # What is quantized is read as floats.
    floats = {name: value for name, value in settings.items() if name not in QUANTIZATION}
    try:
        return config_of(settings["model_type"], floats)
    except Exception as error:  # transformers raises almost anything for values it did not expect
        raise CheckpointError(
            "config.json is no configuration that transformers can use",
            why=_first_line(error),
            hint="compare it with the file of the original repository",
        ) from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in ``folder``; ``TokenizerError`` when there is none or it cannot be read.

    tokenizer.json is taken as it stands: ``AutoTokenizer`` puts the steps of the model's usual tokenizer in the place
    of some, such as the way to split numbers. A folder with only tokenizer.model gives SentencePiece's ids, one with
    tekken.json Mistral's, one with tiktoken.model those of its ranks; RWKV and PLaMo have files of their own, too.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from hubquant.vocab import has_own_file

    check_links(folder)
    as_it_stands = (folder / "tokenizer.json").is_file()
    if not as_it_stands and has_own_file(folder):
        return _of_its_own_file(folder)
    auto: Any = PreTrainedTokenizerFast if as_it_stands else AutoTokenizer
    hint = "the folder needs tokenizer.json or tokenizer.model as its repository has them"
    with quiet(), tokenizer_errors(f"the tokenizer in {folder} cannot be loaded", hint):
        tokenizer: PreTrainedTokenizerBase = auto.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    return tokenizer


def _of_its_own_file(folder: Path) -> PreTrainedTokenizerBase:
    from hubquant.vocab import build_tokenizer, read_vocabulary
    from hubquant.vocab.files import load_json

    return build_tokenizer(read_vocabulary(folder, load_json(folder / "config.json")))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" :")


@contextmanager
def quiet() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    others = {name: getLogger(name).level for name in ("accelerate", *LOUD)}
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    for name in others:
        getLogger(name).setLevel(CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        for name, level in others.items():
            getLogger(name).setLevel(level)
        if bars:
            logging.enable_progress_bar()
