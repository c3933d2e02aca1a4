import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shards.randomness import Purpose, address, below, combine, draw, fraction, mix

UINT64 = st.integers(0, 2**64 - 1)


def splitmix64(state: int) -> int:
    """The reference in plain integers: the output for one state."""
    limit = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & limit
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & limit
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & limit
    return z ^ (z >> 31)


def test_first_draws_are_those_published_for_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [int(draw(np.uint64(1234567), np.uint64(i))) for i in range(5)] == published


def test_addresses_are_pinned() -> None:
    assert int(address(0, Purpose.MASK, 5)) == 16925705994482864077
    assert address(7, Purpose.PAIR, 1, np.arange(2, dtype=np.uint64)).tolist() == [2394851970496937591, 3992114724908217282]


@given(UINT64, UINT64)
def test_mix_and_combine_equal_plain_integers(key: int, value: int) -> None:
    assert int(mix(np.uint64(key))) == splitmix64(key)
    assert int(combine(np.uint64(key), np.uint64(value))) == splitmix64(key ^ splitmix64(value))


@given(st.integers(0, 2**63 - 1), st.lists(UINT64, min_size=1, max_size=20))
def test_an_array_of_ids_gives_the_keys_of_each(seed: int, ids: list[int]) -> None:
    keys = address(seed, Purpose.MASK, np.array(ids, np.uint64))
    assert keys.tolist() == [int(address(seed, Purpose.MASK, one)) for one in ids]


@given(UINT64, st.integers(1, 2**32))
def test_below_and_fraction_stay_in_range(bits: int, bound: int) -> None:
    assert int(below(np.uint64(bits), np.uint64(bound))) == (bits >> 32) * bound >> 32 < bound
    assert 0.0 <= fraction(np.uint64(bits)) < 1.0


def test_below_is_uniform() -> None:
    draws = below(address(3, Purpose.SHOW, np.arange(60_000, dtype=np.uint64)), np.uint64(6))
    counts = np.bincount(draws.astype(np.int64), minlength=6)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 20.5  # chi-squared, 5 degrees of freedom: p = 0.001
