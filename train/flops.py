"""How much arithmetic a step needs: for the share of the device's peak that is used (MFU)."""

from transformers import BertConfig

from train.step import Counts


def step_flops(config: BertConfig, counts: Counts) -> float:
    """Floating-point operations of forward and backward: 6 a weight and token, and 12 a feature and attended pair of tokens
    in each layer (Chowdhery et al. 2022, arXiv:2204.02311, appendix B); heads only where something is predicted."""
    features, layers = config.hidden_size, config.num_hidden_layers
    layer_weights = 4 * features * features + 2 * features * config.intermediate_size
    encoder = 6.0 * layers * layer_weights * counts.tokens + 12.0 * layers * features * counts.attended
    mlm_head = 6.0 * (features * features + features * config.vocab_size) * counts.masked
    nsp_head = 6.0 * (features * features + 2 * features) * counts.pairs
    return encoder + mlm_head + nsp_head
