"""How quantized checkpoints store matrices: GPTQ, AWQ, compressed-tensors, ModelOpt and bitsandbytes."""
