"""LTX-Video, and LTX-2 that makes sound, too."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, Rows, always, module, tensor, within


def _attention(name: str) -> Rows:
    return within(
        *2 * (f"{name}.",),
        tensor("q_norm.weight", "norm_q.weight"),
        tensor("k_norm.weight", "norm_k.weight"),
        *(module(part) for part in ("to_q", "to_k", "to_v", "to_out.0")),
        module("to_gate_logits", option=f"gate of {name}"),
    )


def _adaptive(original: str, diffusers: str) -> Rows:
    parts = ("emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2", "linear")
    return [row for part in parts for row in module(f"{original}.{part}", f"{diffusers}.{part}")]


def _of_a_stream(of: str, *further: Rows) -> Rows:
    """Video has no prefix, and sound has one; ``further`` rows are those of a block."""
    return [
        *tensor(f"{of}scale_shift_table"),
        *module(f"{of}patchify_proj", f"{of}proj_in"),
        *_adaptive(f"{of}adaln_single", f"{of}time_embed"),
        *module(f"{of}caption_projection.linear_1", option="caption"),
        *module(f"{of}caption_projection.linear_2", option="caption"),
        *module(f"{of}proj_out"),
        *within(
            *2 * (f"transformer_blocks.{{}}.{of}",),
            tensor("scale_shift_table"),
            _attention("attn1"),
            _attention("attn2"),
            module("ff.net.0.proj"),
            module("ff.net.2"),
            *further,
        ),
    ]


LTX = Family(
    "ltx",
    always(
        tensor("scale_shift_table"),
        module("patchify_proj", "proj_in"),
        module("adaln_single.emb.timestep_embedder.linear_1", "time_embed.emb.timestep_embedder.linear_1"),
        module("adaln_single.emb.timestep_embedder.linear_2", "time_embed.emb.timestep_embedder.linear_2"),
        module("adaln_single.linear", "time_embed.linear"),
        module("caption_projection.linear_1"),
        module("caption_projection.linear_2"),
        within(
            *2 * ("transformer_blocks.{}.",),
            tensor("scale_shift_table"),
            _attention("attn1"),
            _attention("attn2"),
            module("ff.net.0.proj"),
            module("ff.net.2"),
        ),
        module("proj_out"),
    ),
    known_as="ltxv",
    videos=True,
)

_TABLE = "scale_shift_table_a2v_ca"
_BETWEEN = (
    _adaptive("av_ca_video_scale_shift_adaln_single", "av_cross_attn_video_scale_shift"),
    _adaptive("av_ca_audio_scale_shift_adaln_single", "av_cross_attn_audio_scale_shift"),
    _adaptive("av_ca_a2v_gate_adaln_single", "av_cross_attn_video_a2v_gate"),
    _adaptive("av_ca_v2a_gate_adaln_single", "av_cross_attn_audio_v2a_gate"),
    within(
        *2 * ("transformer_blocks.{}.",),
        tensor(f"{_TABLE}_video", "video_a2v_cross_attn_scale_shift_table"),
        tensor(f"{_TABLE}_audio", "audio_a2v_cross_attn_scale_shift_table"),
        _attention("audio_to_video_attn"),
        _attention("video_to_audio_attn"),
    ),
)
# They make the text's states ready; in diffusers they are a component of their own.
_CONNECTORS = r"(video|audio)_embeddings_connector\..*"

LTX2 = Family(
    "ltx2",
    always(_of_a_stream(""), _of_a_stream("audio_"), *_BETWEEN),
    unused=_CONNECTORS,
    known_as="ltxv",
    videos=True,
)

_PROMPT = tensor("prompt_scale_shift_table")

LTX23 = Family(
    "ltx2.3",
    always(
        _of_a_stream("", _PROMPT),
        _of_a_stream("audio_", _PROMPT),
        # Of diffusers' script; its function for single files keeps the original names.
        _adaptive("prompt_adaln_single", "prompt_adaln"),
        _adaptive("audio_prompt_adaln_single", "audio_prompt_adaln"),
        *_BETWEEN,
    ),
    unused=_CONNECTORS,
    known_as="ltxv",
    videos=True,
)
