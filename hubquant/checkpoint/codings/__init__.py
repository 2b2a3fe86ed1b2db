"""How quantized checkpoints store matrices: GPTQ, AWQ, compressed-tensors, ModelOpt, 8 bits of bitsandbytes and
BitNet."""
