"""How a model runs on its device.

attention   packed sequences that do not see each other: padded, or by variable-length kernels
precision   bf16 in products and between layers
compiling   torch.compile, layer by layer, or CUDA graphs
"""
