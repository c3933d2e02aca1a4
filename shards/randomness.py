"""Random draws that are addressed, never consumed.

Each draw is a function of `(seed, purpose, ids..., index)`: `address` makes a 64-bit key of all but the index, and `draw`
takes the index-th output of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)
started at that key. Nothing depends on a worker, a rank, or on what was drawn before.

`mix`, `combine`, `draw`, `below` and `fraction` run inside compiled loops and, element by element, on numpy arrays of
uint64; their arguments must be uint64 already (numba turns a mix of signed and unsigned into floats). `stream`,
`draw_below` and `draw_fraction` take plain integers, for loops that read as the algorithm they come from.
"""

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.compiled import compiled

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S11, _S27, _S30, _S31, _S32 = (np.uint64(bits) for bits in (11, 27, 30, 31, 32))


class Purpose(IntEnum):
    """What a draw is for. The numbers are part of the format: never change or reuse one."""

    DOCUMENT_ORDER = 1
    PAIR = 2
    SEQUENCE_ORDER = 3
    ROW_ORDER = 4
    MASK = 5
    PARTITION = 6
    VOCABULARY_SAMPLE = 7
    SHOW = 8
    SHARD_ORDER = 9
    GROUP_ORDER = 10
    WINDOW = 11
    DYNAMIC_MASK = 12
    DROPOUT = 13
    INITIAL_WEIGHTS = 14
    CORPUS_WEIGHT = 15
    SOURCE = 16


@compiled
def mix(value: Any) -> Any:
    """SplitMix64's step: uint64 -> uint64, a bijection."""
    z = value + GOLDEN_GAMMA
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@compiled
def combine(key: Any, value: Any) -> Any:
    """A key made of a key and one more id; the order of the ids matters."""
    return mix(key ^ mix(value))


@compiled
def draw(key: Any, index: Any) -> Any:
    """The index-th 64 random bits (from 0) of the stream `key`."""
    return mix(key + index * GOLDEN_GAMMA)


@compiled
def below(bits: Any, bound: Any) -> Any:
    """A uniform integer in [0, bound) from 64 random bits, for 0 < bound <= 2**32 (bias under bound / 2**32)."""
    return ((bits >> _S32) * bound) >> _S32


@compiled
def fraction(bits: Any) -> Any:
    """A uniform float64 in [0, 1) from 64 random bits."""
    return (bits >> _S11) * (1.0 / 9007199254740992.0)


@compiled
def stream(key: Any, number: Any) -> Any:
    """The key of stream `number` below `key`: uint64."""
    return combine(key, np.uint64(number))


@compiled
def draw_below(key: Any, index: Any, bound: Any) -> Any:
    """A uniform int64 in [0, bound), for 0 < bound <= 2**32: draw `index` of the stream `key`."""
    return np.int64(below(draw(key, np.uint64(index)), np.uint64(bound)))


@compiled
def draw_fraction(key: Any, index: Any) -> Any:
    """A uniform float64 in [0, 1): draw `index` of the stream `key`."""
    return fraction(draw(key, np.uint64(index)))


def address(seed: int, purpose: Purpose, *ids: int | npt.NDArray[np.uint64]) -> Any:
    """The key of a stream: uint64, or an array of them where the last id is an array."""
    key: Any = np.uint64(mix(np.uint64(seed)))
    for part in (int(purpose), *ids):
        key = combine(key, part if isinstance(part, np.ndarray) else np.uint64(part))
        key = key if isinstance(key, np.ndarray) else np.uint64(key)
    return key
