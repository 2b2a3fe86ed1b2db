"""The UNets of Stable Diffusion 1, 2 and XL: the original layout numbers what diffusers has in blocks of layers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count

from hubquant.convert.diffusion.family import Family, Layout, Rows, module, within


@dataclass(frozen=True)
class _Sizes:
    """``layers`` residual layers in each level on the way down, one more on the way up; which levels have attention."""

    layers: int
    down: tuple[bool, ...]
    up: tuple[bool, ...]

    @classmethod
    def of(cls, names: Collection[str], layout: Layout) -> _Sizes:
        modules = {".".join(parts[:end]) for name in names for parts in [name.split(".")] for end in (2, 3, 4)}
        if layout == "diffusers":
            layers = _count(modules, "down_blocks.0.resnets.{}")
            levels = range(_count(modules, "down_blocks.{}"))
            down, up = (
                tuple(f"{way}_blocks.{level}.attentions.0" in modules for level in levels) for way in ("down", "up")
            )
            return cls(layers, down, up)
        blocks = range(_count(modules, "input_blocks.{}"))
        # The first block is a convolution, and a level ends in one that makes the picture smaller.
        layers = next((block - 1 for block in blocks[2:] if f"input_blocks.{block}.0.op" in modules), 1)
        levels = range(-(-len(blocks) // (layers + 1)))
        down = tuple(f"input_blocks.{level * (layers + 1) + 1}.1" in modules for level in levels)
        up = tuple(f"output_blocks.{level * (layers + 1)}.1" in modules for level in levels)
        return cls(layers, down, up)


def _count(modules: Collection[str], pattern: str) -> int:
    """How many modules of ``pattern`` there are without a gap, at least one."""
    return max(1, next(number for number in count() if pattern.format(number) not in modules))


def _residual(original: str, diffusers: str) -> Rows:
    return within(
        f"{original}.",
        f"{diffusers}.",
        module("in_layers.0", "norm1"),
        module("in_layers.2", "conv1"),
        module("emb_layers.1", "time_emb_proj"),
        module("out_layers.0", "norm2"),
        module("out_layers.3", "conv2"),
        module("skip_connection", "conv_shortcut", option=f"skip of {original}"),
    )


def _attention(original: str, diffusers: str) -> Rows:
    block = [
        row
        for attention in ("attn1", "attn2")
        for part in (
            *(module(f"{attention}.to_{name}", bias=False) for name in "qkv"),
            module(f"{attention}.to_out.0"),
        )
        for row in part
    ]
    around = [row for name in ("norm", "proj_in", "proj_out") for row in module(name)]
    inside = (module(name) for name in ("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"))
    return within(f"{original}.", f"{diffusers}.", around, within(*2 * ("transformer_blocks.{}.",), block, *inside))


def _layers(sizes: _Sizes) -> Iterator[Rows]:
    last = len(sizes.down) - 1
    for level, attention in enumerate(sizes.down):
        first = level * (sizes.layers + 1) + 1
        for layer in range(sizes.layers):
            yield _residual(f"input_blocks.{first + layer}.0", f"down_blocks.{level}.resnets.{layer}")
            if attention:
                yield _attention(f"input_blocks.{first + layer}.1", f"down_blocks.{level}.attentions.{layer}")
        if level < last:
            yield module(f"input_blocks.{first + sizes.layers}.0.op", f"down_blocks.{level}.downsamplers.0.conv")
    for level, attention in enumerate(sizes.up):
        first = level * (sizes.layers + 1)
        for layer in range(sizes.layers + 1):
            yield _residual(f"output_blocks.{first + layer}.0", f"up_blocks.{level}.resnets.{layer}")
            if attention:
                yield _attention(f"output_blocks.{first + layer}.1", f"up_blocks.{level}.attentions.{layer}")
        if level < last:
            after = 2 if attention else 1
            yield module(f"output_blocks.{first + sizes.layers}.{after}.conv", f"up_blocks.{level}.upsamplers.0.conv")


def _rows(names: Collection[str], layout: Layout) -> Rows:
    parts = (
        module("input_blocks.0.0", "conv_in"),
        module("time_embed.0", "time_embedding.linear_1"),
        module("time_embed.2", "time_embedding.linear_2"),
        *_layers(_Sizes.of(names, layout)),
        _residual("middle_block.0", "mid_block.resnets.0"),
        _attention("middle_block.1", "mid_block.attentions.0"),
        _residual("middle_block.2", "mid_block.resnets.1"),
        module("out.0", "conv_norm_out"),
        module("out.2", "conv_out"),
    )
    return [row for part in parts for row in part]


def _rows_of_xl(names: Collection[str], layout: Layout) -> Rows:
    return [
        *_rows(names, layout),
        *module("label_emb.0.0", "add_embedding.linear_1"),
        *module("label_emb.0.2", "add_embedding.linear_2"),
    ]


SD = Family("sd", _rows, known_as="sd1", prefixed=True)
"""Stable Diffusion 1 and 2, which have the same names."""

SDXL = Family("sdxl", _rows_of_xl, prefixed=True)
