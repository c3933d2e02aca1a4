"""How a model runs on its device.

attention   packed sequences that do not see each other: padded, or by variable-length kernels
local_attention   the padded kind for layers with a window, in blocks
precision   bf16 in products and between layers
compiling   torch.compile, layer by layer, or CUDA graphs
memory      layers computed twice, logits in parts, rows of a micro-batch
torch_versions   what differs between versions of torch
"""
