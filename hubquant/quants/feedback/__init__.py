"""Error feedback: each weight is rounded for what the rounding of others already did to a layer's outputs.

A layer with weights W and inputs x loses tr(E H Eᵀ) of its outputs' power when W becomes W − E, with the second moment
H = E[x xᵀ]. Columns are rounded one after the other, and the later ones make up for the errors of the earlier ones as
well as they can (LDLQ, Chee et al. 2023, which is GPTQ, Frantar et al. 2022). Everything that is chosen is what the
tensor types of llama.cpp can hold, so the bytes are read as any others of the type.
"""
