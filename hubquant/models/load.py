"""Load a local model folder: safetensors only, never remote code, and no output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubquant.devices import default_device
from hubquant.errors import CheckpointError, NotSupportedYet, TokenizerError
from hubquant.models.identify import read_config
from hubquant.models.storage import read_storage
from hubquant.models.text_tower import TEXT_NAMES, is_multimodal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Device = Literal["auto", "cpu", "cuda", "mps"]


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
            import psutil

            memory = {"cpu": psutil.virtual_memory().available // 2}
        options: dict[str, Any] = {"device_map": "auto", "max_memory": memory or None}
        return options if self.disk is None else {**options, "offload_folder": str(self.disk)}


def load(folder: Path, device: Device = "auto", placement: Placement | None = None) -> PreTrainedModel:
    """The causal language model in ``folder``, in eval mode and without gradients.

    On the CPU its weights are float32; on a GPU they keep the checkpoint's dtype. ``auto`` takes a GPU when there is
    one and, unless ``placement`` says otherwise, spreads the model over all devices and main memory. Of a multimodal
    model only the language model is loaded, as it is alone. Raises ``CheckpointError`` when weights are missing, broken
    or not safetensors.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    kind: Any = AutoModelForCausalLM
    chosen = default_device() if device == "auto" else device
    _check_weights(folder)
    config = read_config(folder)
    place: Path | None = folder
    options: dict[str, Any] = {}
    if read_storage(config) is not None:
        place, options = None, _dequantized(folder)
        mapping: Any = MODEL_FOR_CAUSAL_LM_MAPPING
        kind = mapping[type(options["config"])]  # the general class needs a folder
    elif is_multimodal(config):
        options = _language_model(folder)
    with quiet():
        try:
            model, info = kind.from_pretrained(
                place,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32 if chosen == "cpu" else "auto",
                **(placement or Placement(spread=device == "auto")).options(chosen),
                output_loading_info=True,
                **options,
            )
        except Exception as error:  # safetensors, json, transformers and torch each raise their own for a bad file
            raise CheckpointError(
                f"the model in {folder} cannot be loaded",
                why=_first_line(error),
                hint="compare the files with the repository's, and download them again",
            ) from error
    # transformers would give a missing weight random values.
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of the model's weights, first {missing[0]}",
            hint="a shard may be missing: download the model again",
        )
    loaded: PreTrainedModel = model.eval().requires_grad_(False)
    return loaded


def _dequantized(folder: Path) -> dict[str, Any]:
    """What makes transformers load weights of FP8 as the floats that conversion reads."""
    from hubquant.convert.checkpoint import Checkpoint
    from hubquant.convert.plain import plain_checkpoint

    plain, _ = plain_checkpoint(Checkpoint.from_folder(folder))
    return {"config": _config(plain.config), "state_dict": {name: plain.read(name) for name in plain.tensors}}


def _config(settings: Mapping[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    kind: Any = CONFIG_MAPPING[settings["model_type"]]
    return kind.from_dict(dict(settings))


def _language_model(folder: Path) -> dict[str, Any]:
    """What makes transformers load the language model of a multimodal checkpoint and nothing else."""
    from hubquant.convert.checkpoint import Checkpoint
    from hubquant.convert.plain import plain_checkpoint

    plain, _ = plain_checkpoint(Checkpoint.from_folder(folder))
    return {"config": _config(plain.config), "key_mapping": dict(TEXT_NAMES)}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in ``folder``; ``TokenizerError`` when there is none or it cannot be read.

    tokenizer.json is taken as it stands: ``AutoTokenizer`` puts the steps of the model's usual tokenizer in the place
    of some, such as the way to split numbers. A folder with only tokenizer.model gives SentencePiece's ids.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    as_it_stands = (folder / "tokenizer.json").is_file()
    if not as_it_stands and (folder / "tokenizer.model").is_file():
        return _of_sentencepiece(folder)
    auto: Any = PreTrainedTokenizerFast if as_it_stands else AutoTokenizer
    with quiet():
        try:
            tokenizer: PreTrainedTokenizerBase = auto.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # tokenizers raises bare Exception
            raise TokenizerError(
                f"the tokenizer in {folder} cannot be loaded",
                why=_first_line(error),
                hint="the folder needs tokenizer.json or tokenizer.model as its repository has them",
            ) from error
    return tokenizer


def _of_sentencepiece(folder: Path) -> PreTrainedTokenizerBase:
    from hubquant.convert.vocab import read_vocabulary
    from hubquant.convert.vocab.special import load_json

    return read_vocabulary(folder, load_json(folder / "config.json")).tokenizer()


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any(path for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern)):
        raise NotSupportedYet(
            "pickled weights",
            why=f"{folder} holds no safetensors, and unpickling can run any code",
            hint="convert the model to safetensors first: huggingface.co/spaces/safetensors/convert",
        )
    raise CheckpointError(f"{folder} holds no safetensors", hint="name a folder with the weights of a model")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" :")


@contextmanager
def quiet() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    accelerate = getLogger("accelerate")
    level = accelerate.level
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    accelerate.setLevel(CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        accelerate.setLevel(level)
        if bars:
            logging.enable_progress_bar()
