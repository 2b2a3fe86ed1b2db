"""Facts about a model as transformers' config tells them and as GGUF metadata tells them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import KV, Metadata, boolean, f32, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Settings = Mapping[str, Any]


XIELU = "xielu."
_OF_NO_FAMILY = ("diffusion.", "tokenizer.", XIELU)


def full_key(architecture: str, key: str) -> str:
    """A rule's key with llama.cpp's name of the architecture before it, where llama.cpp looks for one."""
    return key if key.startswith(_OF_NO_FAMILY) else f"{architecture}.{key}"


def rule_keys(architecture: str, metadata: Metadata) -> Metadata:
    """What rules read of a file's metadata, by the keys that they know."""
    prefix = f"{architecture}."
    return {
        key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith((prefix, *_OF_NO_FAMILY))
    }


@dataclass(frozen=True)
class Numbers:
    """Tensors of a checkpoint, of one number each and of this ``shape``, that are a list in a file's metadata."""

    names: tuple[str, ...]
    shape: tuple[int, ...]


class Rule:
    """``metadata`` and ``settings`` are each other's inverse; keys are without the architecture's prefix."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The settings that it answers for, by the names of the config class."""
        setting = getattr(self, "setting", None)
        return () if setting is None else (setting,)

    def check(self, settings: Settings) -> None:
        """Refuse values of config.json: ``CheckpointError`` for what no model has, ``NotSupportedYet`` for what
        llama.cpp does not compute. What is absent has transformers' default."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:  # noqa: ARG002
        """Raises ``CheckpointError`` for values that do not fit together, ``NotSupportedYet`` for what llama.cpp does
        not compute."""
        return {}

    def settings(self, metadata: Metadata) -> dict[str, Any]:  # noqa: ARG002
        """What the config class is to be told. Absent keys stay absent. Raises as ``metadata`` does."""
        return {}

    def numbers(self, config: PreTrainedConfig) -> Mapping[str, Numbers]:  # noqa: ARG002
        """Keys whose values the checkpoint's tensors have: ``metadata`` has as many zeros."""
        return {}

    def notes(self, config: PreTrainedConfig) -> Iterator[str]:  # noqa: ARG002
        """Where llama.cpp computes otherwise than transformers, though the model is useful there too."""
        return iter(())


@dataclass(frozen=True)
class Count(Rule):
    """A whole number from ``least`` to ``most``."""

    key: str
    setting: str
    most: int = 1 << 24
    least: int = 1

    def check(self, settings: Settings) -> None:
        check_count(settings, self.setting, self.most, self.least)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        value = getattr(config, self.setting)
        if value is None:
            raise out_of_range(self.setting, value, f"a whole number from {self.least} to {self.most:,}")
        return {self.key: u32(value)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {self.setting: metadata[self.key].value} if self.key in metadata else {}


@dataclass(frozen=True)
class Computed(Rule):
    """A whole number that the config may leave to a convention: ``value`` knows it."""

    key: str
    setting: str
    value: Callable[[PreTrainedConfig], int]
    most: int = 1 << 24

    def check(self, settings: Settings) -> None:
        check_count(settings, self.setting, self.most)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {self.key: u32(self.value(config))}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {self.setting: metadata[self.key].value} if self.key in metadata else {}


@dataclass(frozen=True)
class Epsilon(Rule):
    """A number above 0 and below 1."""

    key: str
    setting: str

    def check(self, settings: Settings) -> None:
        value = settings.get(self.setting)
        if value is not None and not (is_number(value) and 0 < value < 1):
            raise out_of_range(self.setting, value, "a number above 0 and below 1")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {self.key: f32(getattr(config, self.setting))}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {self.setting: metadata[self.key].value} if self.key in metadata else {}


@dataclass(frozen=True)
class Number(Rule):
    """A number above 0; ``None`` where the model has none."""

    key: str
    setting: str

    def check(self, settings: Settings) -> None:
        value = settings.get(self.setting)
        if value is not None and not (is_number(value) and 0 < value < 1e30):
            raise out_of_range(self.setting, value, "a number above 0")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        value = getattr(config, self.setting)
        return {} if value is None else {self.key: f32(value)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {self.setting: number(metadata, self.key)}


@dataclass(frozen=True)
class Fixed(Rule):
    """A setting for which llama.cpp has one ``value``; GGUF does not mention it. ``same`` are other names for it."""

    setting: str
    value: str | int | float | list[int] | dict[str, str] | None
    same: tuple[str, ...] = ()

    def check(self, settings: Settings) -> None:
        value = settings.get(self.setting)
        if value is not None and value != self.value and value not in self.same:
            raise self._other(value)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        """None is not the default here but what config.json says: nothing, or no."""
        name = config.attribute_map.get(self.setting, self.setting)
        if self.value and name in config.__dataclass_fields__ and vars(config).get(name) is None:
            raise self._other(None)
        return {}

    def settings(self, metadata: Metadata) -> dict[str, Any]:  # noqa: ARG002
        return {self.setting: self.value}

    def _other(self, value: object) -> NotSupportedYet:
        what = "without it" if self.value in (None, False) else f"with {self.value!r}"
        return NotSupportedYet(
            f"{self.setting} {str(value)[:40]!r}", why=f"llama.cpp computes this architecture {what}"
        )


SILU = Fixed("hidden_act", "silu", same=("swish",))
# One formula by many names; what it approximates differs by less than 0.0005.
GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu")


@dataclass(frozen=True)
class Switch(Rule):
    """Something that a model has or has not."""

    key: str
    setting: str

    def check(self, settings: Settings) -> None:
        value = settings.get(self.setting)
        if value is not None and not isinstance(value, bool):
            raise out_of_range(self.setting, value, "true or false")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {self.key: boolean(getattr(config, self.setting))}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {self.setting: bool(metadata[self.key].value)} if self.key in metadata else {}


@dataclass(frozen=True)
class Constant(Rule):
    """A key with the same value for every model of the architecture."""

    key: str
    value: KV

    def metadata(self, config: PreTrainedConfig) -> Metadata:  # noqa: ARG002
        return {self.key: self.value}


@dataclass(frozen=True)
class Heads(Rule):
    """Attention heads, their size, and the key-value heads that groups of them share where they may be ``grouped``.

    ``whole`` heads are together as wide as the model, or llama.cpp loads no file.
    """

    grouped: bool = True
    whole: bool = False
    counts = ("num_attention_heads", "num_key_value_heads", "head_dim")
    reads = (*counts, "hidden_size")

    def check(self, settings: Settings) -> None:
        for setting in self.counts:
            check_count(settings, setting, 1 << 16)
        _check_even(settings.get("head_dim") or 0)
        heads, size = settings.get("num_attention_heads"), settings.get("hidden_size")
        if settings.get("head_dim") is None and heads and type(size) is int and size % heads:
            raise out_of_range("hidden_size", size, f"a multiple of the {heads} attention heads")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        heads, kv_heads, size = config.num_attention_heads, key_value_heads(config), head_size(config)
        if heads % kv_heads:
            raise out_of_range("num_key_value_heads", kv_heads, f"a divisor of the {heads} attention heads")
        if heads != kv_heads and not self.grouped:
            raise NotSupportedYet(f"{kv_heads} key-value heads for {heads} heads", why="llama.cpp groups none here")
        _check_even(size)
        if self.whole and size * heads != config.hidden_size:
            raise NotSupportedYet(
                f"{heads} heads of {size} in a model of width {config.hidden_size}",
                why="llama.cpp takes them to be as wide as the model here",
            )
        return {
            "attention.head_count": u32(heads),
            "attention.head_count_kv": u32(kv_heads),
            "attention.key_length": u32(size),
            "attention.value_length": u32(size),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        heads, width = integer(metadata, "attention.head_count"), integer(metadata, "embedding_length")
        return {
            "num_attention_heads": heads,
            "num_key_value_heads": integer(metadata, "attention.head_count_kv") or heads,
            "head_dim": integer(metadata, "attention.key_length") or (width // heads if width and heads else None),
        }


def _check_even(size: int) -> None:
    if size % 2:
        raise out_of_range("head_dim", size, "even, because rope rotates pairs")


@contextmanager
def without_option() -> Iterator[None]:
    """What rules refuse has no step to take but this, unless they name one."""
    try:
        yield
    except NotSupportedYet as error:
        error.hint = error.hint or "no option helps: only what llama.cpp computes as transformers does is written"
        raise


def plain_setting(config: PreTrainedConfig, name: str) -> Any:
    """A setting by any of its names; None where the config has none. Layers may have others of their own."""
    return vars(config).get(config.attribute_map.get(name, name))


def head_size(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def key_value_heads(config: PreTrainedConfig) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def integer(metadata: Metadata, key: str) -> int | None:
    """The number under ``key``, None where there is none. ``NotSupportedYet`` for a list of one for each layer."""
    value = metadata[key].value if key in metadata else None
    if value is not None and type(value) is not int:
        raise NotSupportedYet(f"{key} that differs between layers")
    return value


def number(metadata: Metadata, key: str) -> float | None:
    """The finite number under ``key``, None where there is none. ``CheckpointError`` for anything else."""
    value = metadata[key].value if key in metadata else None
    if value is not None and not is_number(value):
        raise out_of_range(key, value, "a number")
    return value


def check_count(settings: Settings, setting: str, most: int, least: int = 1) -> None:
    """Raises ``CheckpointError`` for what is there and no whole number from ``least`` to ``most``."""
    value = settings.get(setting)
    if value is not None and not (type(value) is int and least <= value <= most):
        raise out_of_range(setting, value, f"a whole number from {least} to {most:,}")


def check_list(settings: Settings, setting: str) -> None:
    """Raises ``CheckpointError`` for what is there and no list."""
    value = settings.get(setting)
    if value is not None and not isinstance(value, list):
        raise out_of_range(setting, value, "a list")


def is_number(value: object) -> TypeGuard[int | float]:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def out_of_range(setting: str, value: object, expected: str) -> CheckpointError:
    shown = f'"{value}"' if isinstance(value, str) else str(value)  # "2" is no number
    return CheckpointError(
        f"{setting} in config.json is {shown[:40]}",
        why=f"it must be {expected}",
        hint="compare config.json with the one of the original repository",
    )
