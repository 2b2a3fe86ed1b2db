"""How quantized checkpoints store matrices: GPTQ, AWQ, compressed-tensors, ModelOpt, bitsandbytes and BitNet."""
