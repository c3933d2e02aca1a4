"""Gradients -> changed weights, or weights that stay as they are where a gradient is not finite.

schedules     step -> learning rate
make          settings -> groups of parameters -> AdamW (torch's own), or one of
lamb          AdamW's direction, as long as the tensor itself
stable_adamw  AdamW with shorter steps where the gradients have grown
muon          orthogonal steps for the matrices of the layers, AdamW for the rest
moments       what LAMB and StableAdamW keep for each parameter

`found_inf` of an optimizer is a scalar on the device: 1 if the step is to be skipped, else 0. It is never read on the host,
which would wait for the device in every step.
"""
