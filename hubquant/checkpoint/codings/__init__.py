"""How quantized checkpoints store matrices: GPTQ, AWQ, compressed-tensors, ModelOpt and 8 bits of bitsandbytes."""
