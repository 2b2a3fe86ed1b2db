"""Libraries whose models transformers and diffusers save and load by themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hubquant.backends.libraries.layers import exact, left_in_floats, patterns
from hubquant.backends.libraries.library import Framework, LibraryBackend


class PretrainedBackend(LibraryBackend):
    """Saved with a ``quantization_config``, by which the plain library loads it again."""

    @abstractmethod
    def of_saved(self, type: str, framework: Framework, floats: Sequence[str]) -> Any:
        """The configuration of a model in which exactly the layers named ``floats`` are not quantized."""

    def save(self, model: Any, type: str, folder: Path, framework: Framework) -> None:
        configuration = self.of_saved(type, framework, left_in_floats(model, self.is_quantized))
        if framework == "transformers":
            from transformers.quantizers.auto import AutoHfQuantizer

            model.hf_quantizer = AutoHfQuantizer.from_config(configuration, pre_quantized=True)
            model.config.quantization_config = configuration
        else:
            from diffusers.quantizers import DiffusersAutoQuantizer

            model.hf_quantizer = DiffusersAutoQuantizer.from_config(configuration, pre_quantized=True)
            model.register_to_config(quantization_config=configuration)
        model.hf_quantizer.validate_environment(device_map=None)  # it notes there what it asks for when it saves
        model.save_pretrained(folder)

    def load(self, folder: Path, kind: Any, framework: Framework, **options: Any) -> Any:  # noqa: ARG002
        self.package.check()
        return kind.from_pretrained(folder, **options).eval()


class ListingBackend(PretrainedBackend):
    """One whose configuration lists the modules that stay in floats."""

    @abstractmethod
    def made(self, type: str, framework: Framework, floats: Sequence[str] | None) -> Any:
        """The framework's configuration, with ``floats`` as its quantizers take them; None leaves it to them."""

    def configuration(self, type: str, framework: Framework, skip: Sequence[str] = ()) -> Any:
        self.package.check()
        return self.made(type, framework, patterns(skip) if framework == "transformers" else list(skip) or None)

    def of_saved(self, type: str, framework: Framework, floats: Sequence[str]) -> Any:
        self.package.check()
        return self.made(type, framework, exact(floats) if framework == "transformers" else list(floats))
