"""Projectors by configurations as published models have them: keys left out, leftovers of other code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from hubquant.convert.projectors.conversion import projector_of
from hubquant.convert.projectors.projector import Multimodal

COLOURS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "SmolVLM2, which leaves out the encoder's layers": (
        {
            "architectures": ["SmolVLMForConditionalGeneration"],
            "model_type": "smolvlm",
            "image_token_id": 49190,
            "scale_factor": 4,
            "text_config": {"model_type": "llama", "hidden_size": 576, "pixel_shuffle_factor": 4},
            "vision_config": {
                "hidden_size": 768,
                "image_size": 512,
                "max_image_size": {"longest_edge": 512},
                "model_type": "smolvlm_vision",
                "num_attention_heads": 12,
                "patch_size": 16,
                "size": {"longest_edge": 2048},
                "use_base_siglip": False,
            },
        },
        {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}},
        {
            "vision.block_count": 12,
            "vision.feed_forward_length": 3072,
            "vision.projector.scale_factor": 4,
            "vision.preproc_image_size": 2048,
            "vision.projection_dim": 576,
        },
    ),
    "InternVL 3.5, with settings of its own code": (
        {
            "architectures": ["InternVLChatModel"],
            "model_type": "internvl_chat",
            "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
            "downsample_ratio": 0.5,
            "dynamic_image_size": True,
            "force_image_size": 448,
            "llm_config": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 2048},
            "max_dynamic_patch": 12,
            "min_dynamic_patch": 1,
            "pad2square": False,
            "ps_version": "v2",
            "select_layer": -1,
            "template": "internvl2_5",
            "torch_dtype": "bfloat16",
            "use_thumbnail": True,
            "vision_config": {
                "architectures": ["InternVisionModel"],
                "attention_dropout": 0.0,
                "auto_map": {"AutoConfig": "configuration_intern_vit.InternVisionConfig"},
                "drop_path_rate": 0.0,
                "dropout": 0.0,
                "hidden_act": "gelu",
                "hidden_size": 1024,
                "image_size": 448,
                "initializer_factor": 1.0,
                "intermediate_size": 4096,
                "layer_norm_eps": 1e-06,
                "model_type": "",
                "norm_type": "layer_norm",
                "num_attention_heads": 16,
                "num_hidden_layers": 24,
                "patch_size": 14,
                "qk_normalization": False,
                "qkv_bias": True,
                "torch_dtype": "bfloat16",
                "use_bfloat16": True,
                "use_flash_attn": True,
            },
        },
        {"crop_size": 448},
        {
            "vision.block_count": 24,
            "vision.image_size": 448,
            "vision.preproc_max_tiles": 12,
            "vision.projector.scale_factor": 2,
            "vision.projection_dim": 2048,
        },
    ),
    "LFM2-VL, with its processor's settings in config.json": (
        {
            "architectures": ["Lfm2VlForConditionalGeneration"],
            "model_type": "lfm2_vl",
            "do_image_splitting": True,
            "downsample_factor": 2,
            "encoder_patch_size": 16,
            "max_image_tokens": 256,
            "projector_bias": True,
            "projector_hidden_act": "gelu",
            "projector_hidden_size": 2560,
            "text_config": {"model_type": "lfm2", "hidden_size": 1024},
            "vision_config": {
                "hidden_act": "gelu_pytorch_tanh",
                "hidden_size": 768,
                "intermediate_size": 3072,
                "layer_norm_eps": 1e-06,
                "model_type": "siglip2_vision_model",
                "num_attention_heads": 12,
                "num_hidden_layers": 12,
                "patch_size": 16,
                "vision_use_head": False,
            },
            "vision_feature_layer": -1,
        },
        {"max_image_tokens": 256, "tile_size": 512},
        {"vision.image_size": 256, "vision.block_count": 12, "vision.projector.scale_factor": 2},
    ),
    "PaddleOCR-VL, whose language model's settings are at the top": (
        {
            "architectures": ["PaddleOCRVLForConditionalGeneration"],
            "model_type": "paddleocr_vl",
            "hidden_size": 1024,
            "num_hidden_layers": 18,
            "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
            "rope_theta": 500000,
            "vision_config": {
                "architectures": ["SiglipVisionModel"],
                "hidden_act": "gelu_pytorch_tanh",
                "hidden_size": 1152,
                "image_size": 384,
                "intermediate_size": 4304,
                "model_type": "paddleocr_vl",
                "num_attention_heads": 16,
                "num_hidden_layers": 27,
                "patch_size": 14,
                "spatial_merge_size": 2,
            },
        },
        {"min_pixels": 147384, "max_pixels": 2822400},
        {"vision.image_min_pixels": 147384, "vision.image_max_pixels": 2822400, "vision.image_size": 1680},
    ),
    "Qwen2-Audio, whose language model has transformers' defaults": (
        {
            "architectures": ["Qwen2AudioForConditionalGeneration"],
            "model_type": "qwen2_audio",
            "audio_config": {
                "activation_dropout": 0.0,
                "d_model": 1280,
                "encoder_attention_heads": 20,
                "encoder_ffn_dim": 5120,
                "encoder_layers": 32,
                "max_source_positions": 1500,
                "model_type": "qwen2_audio_encoder",
                "num_mel_bins": 128,
                "scale_embedding": False,
            },
            "text_config": {"model_type": "qwen2", "intermediate_size": 11008, "vocab_size": 156032},
            "vocab_size": 156032,
        },
        {"chunk_length": 30, "feature_size": 128, "hop_length": 160, "n_fft": 400, "sampling_rate": 16000},
        {"audio.projection_dim": 4096, "audio.block_count": 32, "audio.num_mel_bins": 128},
    ),
    "LLaVA 1.5, which names no activation": (
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": "llava",
            "ignore_index": -100,
            "image_token_index": 32000,
            "projector_hidden_act": "gelu",
            "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064},
            "vision_config": {
                "hidden_size": 1024,
                "image_size": 336,
                "intermediate_size": 4096,
                "model_type": "clip_vision_model",
                "num_attention_heads": 16,
                "num_hidden_layers": 24,
                "patch_size": 14,
                "projection_dim": 768,
                "vocab_size": 32000,
            },
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
            "vocab_size": 32064,
        },
        {"crop_size": {"height": 336, "width": 336}},
        {"projector_type": "mlp", "vision.block_count": 24, "vision.projection_dim": 4096},
    ),
    "Mistral Small 3.1, with rope_theta beside the others": (
        {
            "architectures": ["Mistral3ForConditionalGeneration"],
            "model_type": "mistral3",
            "image_token_index": 10,
            "multimodal_projector_bias": False,
            "projector_hidden_act": "gelu",
            "spatial_merge_size": 2,
            "text_config": {"model_type": "mistral", "hidden_size": 5120, "rms_norm_eps": 1e-05, "vocab_size": 131072},
            "vision_config": {
                "attention_dropout": 0.0,
                "head_dim": 64,
                "hidden_act": "silu",
                "hidden_size": 1024,
                "image_size": 1540,
                "intermediate_size": 4096,
                "model_type": "pixtral",
                "num_attention_heads": 16,
                "num_channels": 3,
                "num_hidden_layers": 24,
                "patch_size": 14,
                "rope_theta": 10000.0,
            },
            "vision_feature_layer": -1,
        },
        {"size": {"longest_edge": 1540}},
        {"use_silu": True, "vision.image_size": 1540, "vision.spatial_merge_size": 2},
    ),
    "Qwen3-VL, without settings of its rotary embeddings": (
        {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            "text_config": {"model_type": "qwen3_vl_text", "hidden_size": 2560},
            "vision_config": {
                "deepstack_visual_indexes": [5, 11, 17],
                "depth": 24,
                "hidden_act": "gelu_pytorch_tanh",
                "hidden_size": 1024,
                "in_channels": 3,
                "initializer_range": 0.02,
                "intermediate_size": 4096,
                "model_type": "qwen3_vl",
                "num_heads": 16,
                "num_position_embeddings": 2304,
                "out_hidden_size": 2560,
                "patch_size": 16,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
            },
        },
        {"merge_size": 2},
        {
            "vision.image_size": 768,
            "vision.block_count": 24,
            "vision.is_deepstack_layers": tuple(number in (5, 11, 17) for number in range(24)),
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str) -> None:
    config, processor, expected = PUBLISHED[name]
    projector = projector_of(config)
    assert projector is not None
    known = projector.as_transformers(config)
    described: Any = CONFIG_MAPPING[known["model_type"]]
    model = Multimodal(described.from_dict(dict(known)), COLOURS | processor, Path())
    metadata = projector.metadata(model)
    assert {key: metadata[key].value for key in expected} == expected
