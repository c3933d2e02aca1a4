"""How a model runs on its device.

attention        packed sequences that do not see each other: padded, or by variable-length kernels
kernels          which of them is the fastest here
precision        bf16 in products and between layers
compiling        torch.compile, layer by layer, or CUDA graphs
memory           layers computed twice, logits in parts, rows of a micro-batch
torch_versions   what differs between versions of torch
"""
