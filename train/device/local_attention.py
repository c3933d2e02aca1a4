"""Local attention without the work of a whole sequence: a block of queries attends to its own block and to those beside it.

Shapes: Q slots for sequences of up to L tokens, H heads, D features per head; N blocks of B tokens, B = window - 1.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from train.data.layout import Slots

# Below this number of blocks, three blocks of keys per block cost more than a mask over the whole sequence saves.
_FEWEST_BLOCKS = 6


def is_worth_it(window: int, longest: int) -> bool:
    """Whether blocks are faster than a mask, for sequences of up to `longest` tokens."""
    return window > 1 and longest >= _FEWEST_BLOCKS * (window - 1)


def attend_in_blocks(
    query_QHLD: Tensor, key_QHLD: Tensor, value_QHLD: Tensor, slots: Slots, window: int, dropout: float, scaling: float | None
) -> Tensor:
    """Attention to tokens of the same sequence at a distance below the window, [Q, H, L, D]. Keys may have fewer heads."""
    num_slots, heads, longest, features = query_QHLD.shape
    size = window - 1
    missing = -longest % size

    def beside(x: Tensor) -> Tensor:
        """[..., L, D] -> [..., N, 3 * B, D]: the tokens of each block, of the one before it and of the one after it."""
        return pad(x, (0, 0, size, size + missing)).unfold(-2, 3 * size, size).transpose(-1, -2)

    def by_block(x_QHNTD: Tensor) -> Tensor:
        return x_QHNTD.transpose(1, 2).flatten(0, 1)

    query_QHNBD = pad(query_QHLD, (0, 0, 0, missing)).reshape(num_slots, heads, -1, size, features)
    out_XHBD = scaled_dot_product_attention(
        by_block(query_QHNBD),
        by_block(beside(key_QHLD)),
        by_block(beside(value_QHLD)),
        _keys_of_blocks(slots, size, missing),
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=key_QHLD.shape[1] != heads,
    )
    out_QNHBD = out_XHBD.reshape(num_slots, -1, heads, size, features)
    return out_QNHBD.transpose(1, 2).reshape(num_slots, heads, -1, features)[:, :, :longest]


def _keys_of_blocks(slots: Slots, size: int, missing: int) -> Tensor:
    """[Q * N, 1, B, 3 * B] bool: the keys that each slot of a block attends to."""
    place_B1 = torch.arange(size, 2 * size, device=slots.is_key.device)[:, None]
    place_K = torch.arange(3 * size, device=slots.is_key.device)
    is_near_BK = (place_B1 - place_K).abs() <= size
    is_key_QN1K = pad(slots.is_key, (size, size + missing)).unfold(1, 3 * size, size)[:, :, None]
    is_token_QNB1 = pad(slots.is_token, (0, missing)).reshape(len(slots.is_token), -1, size)[..., None]
    # A slot without a token may have no key near it, and a softmax over no keys is NaN. So it attends to all of them.
    keys_QNBK = (is_key_QN1K & is_near_BK) | ~is_token_QNB1
    return keys_QNBK.flatten(0, 1)[:, None]
