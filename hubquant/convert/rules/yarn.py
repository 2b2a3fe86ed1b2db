"""yarn whose config tells by ``mscale`` and ``mscale_all_dim`` how it scales attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.rules.rope import Rope, raw_parameters, rope_type, tells_rope
from hubquant.convert.rules.rule import Rule, Settings, is_number, number, out_of_range
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, f32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"


def _check_scales(settings: Settings, wanted: str) -> None:
    parameters = raw_parameters(settings)
    if rope_type(parameters) != "yarn":
        return
    rotated, whole = parameters.get("mscale"), parameters.get("mscale_all_dim")
    good = rotated == whole if wanted == "mscale_all_dim" else rotated == 1
    if parameters.get("attention_factor") is not None or not rotated or not whole or not good:
        raise NotSupportedYet(
            f"yarn with mscale {rotated} and mscale_all_dim {whole}", why=f"llama.cpp takes mscale to be {wanted}"
        )


@dataclass(frozen=True)
class LatentYarn(Rule):
    """yarn that scales attention by (0.1 mscale_all_dim ln factor + 1)² and nothing else, as DeepSeek does."""

    rope = Rope(("default", "yarn"))
    reads = Rope.reads

    def check(self, settings: Settings) -> None:
        self.rope.check(settings)
        _check_scales(settings, "mscale_all_dim")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        result = self.rope.metadata(config)
        result.pop("rope.scaling.attn_factor", None)
        scale = config.rope_parameters.get("mscale_all_dim")
        # a tenth of what the key holds elsewhere: llama.cpp undoes it for this architecture
        return result | ({LOG_MULTIPLIER: f32(0.1 * scale)} if scale else {})

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        parameters: dict[str, Any] = self.rope.settings(metadata)["rope_parameters"]
        if parameters["rope_type"] == "yarn":
            scale = 10 * (number(metadata, LOG_MULTIPLIER) or 0.0)
            parameters |= {"attention_factor": None, "mscale": scale, "mscale_all_dim": scale}
        return {"rope_parameters": parameters}


@dataclass(frozen=True)
class TemperedYarn(Rule):
    """yarn of Ministral 3, with a temperature of attention that grows by ``llama_4_scaling_beta`` with the position."""

    rope = Rope(("yarn",))
    reads = Rope.reads

    def check(self, settings: Settings) -> None:
        if not tells_rope(settings):
            return
        self.rope.check(settings)
        _check_scales(settings, "1")
        beta = raw_parameters(settings).get("llama_4_scaling_beta")
        if not (is_number(beta) and 0 < beta < 1e6):
            raise out_of_range("rope's llama_4_scaling_beta", beta, "a number above 0")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        parameters = config.rope_parameters
        result = self.rope.metadata(config)
        result.pop("rope.scaling.attn_factor", None)
        return result | {
            LOG_MULTIPLIER: f32(parameters["mscale_all_dim"]),
            "attention.temperature_scale": f32(parameters["llama_4_scaling_beta"]),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        parameters: dict[str, Any] = self.rope.settings(metadata)["rope_parameters"]
        return {
            "rope_parameters": parameters
            | {
                "attention_factor": None,
                "mscale": 1.0,
                "mscale_all_dim": number(metadata, LOG_MULTIPLIER),
                "llama_4_scaling_beta": number(metadata, "attention.temperature_scale"),
            }
        }


@dataclass(frozen=True)
class UntruncatedYarn(Rope):
    """yarn whose correction range ends between two frequencies. llama.cpp rounds it outwards: a small difference."""

    def check(self, settings: Settings) -> None:
        parameters = raw_parameters(settings)
        if rope_type(parameters) == "yarn" and parameters.get("truncate") is not False:
            raise NotSupportedYet("yarn with truncation", why="this architecture has none")
        super().check({"rope_parameters": {name: x for name, x in parameters.items() if name != "truncate"}})

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        parameters = super().settings(metadata)["rope_parameters"]
        truncate = {"truncate": False} if parameters["rope_type"] == "yarn" else {}
        return {"rope_parameters": parameters | truncate}
