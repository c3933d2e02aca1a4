"""How a pair that is too long loses tokens."""

from typing import Any

from shards.compiled import compiled
from shards.randomness import draw_fraction


@compiled
def truncate(key: Any, first_draw: int, a_length: int, b_length: int, max_tokens: int) -> tuple[int, int, int, int]:
    """BERT's `truncate_seq_pair`: the longer segment (B when they tie) loses a token at its front or back, at random.

    Takes one draw of the stream `key` per token, from number `first_draw` on. Lengths are in tokens. Returns the tokens cut
    from A's front, A's length, those cut from B's front, B's length.
    """
    a_front = b_front = 0
    index = first_draw
    while a_length + b_length > max_tokens:
        front = 1 if draw_fraction(key, index) < 0.5 else 0
        if a_length > b_length:
            a_length -= 1
            a_front += front
        else:
            b_length -= 1
            b_front += front
        index += 1
    return a_front, a_length, b_front, b_length


@compiled
def truncate_longest(a_length: int, b_length: int, max_tokens: int) -> tuple[int, int]:
    """`longest_first` of `tokenizers`: the longer is cut to the shorter, then both to halves of `max_tokens` (B's the larger).

    Returns the lengths that are kept, in tokens; all cuts are at the ends.
    """
    if a_length + b_length <= max_tokens:
        return a_length, b_length
    short = min(a_length, b_length)
    if 2 * short >= max_tokens:
        half = max_tokens // 2
        return (half, max_tokens - half) if a_length <= b_length else (max_tokens - half, half)
    return (short, max_tokens - short) if a_length <= b_length else (max_tokens - short, short)
