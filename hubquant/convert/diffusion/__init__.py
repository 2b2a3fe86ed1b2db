"""Names of denoisers: as who trained a diffusion model wrote them (the original layout), and as diffusers has them.

A table for each family says which tensors hold the same numbers. :func:`hubquant.convert.diffusion.recognise.recognise`
tells from a header which family and layout a file has.
"""
