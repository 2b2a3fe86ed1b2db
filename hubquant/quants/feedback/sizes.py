"""How kernels and what calls them divide columns."""

SLAB = 256  # columns that are rounded before what is behind them is changed
PANEL = 4  # columns whose factors lie together and whose sums stay in registers, of which AVX2 has sixteen
