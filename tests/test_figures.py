"""Rates with their intervals, and padding, against published or counted values."""

from dataclasses import replace

import numpy as np
import pytest

from prep.inspect.figures import binned_padding, clustered, padding, wilson
from prep.inspect.sample import Actions


def test_intervals() -> None:
    rate = wilson(50, 100, 0.5)
    assert (round(rate.low, 4), round(rate.high, 4)) == (0.4038, 0.5962)  # published for 50 of 100
    draws = np.random.default_rng(0).random(20_000) < 0.8
    alone, tied = Actions(), Actions()
    alone.add(np.ones(len(draws), np.int64), draws.astype(np.int64))
    tied.add(np.full(len(draws), 4), 4 * draws.astype(np.int64))  # each draw decides of four tokens
    one, four = clustered(alone, 0.8), clustered(tied, 0.8)
    expected = wilson(int(draws.sum()), len(draws), 0.8)
    assert one.high - one.low == pytest.approx(expected.high - expected.low, rel=0.01)
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=1e-9)
    assert not one.is_off and replace(one, target=0.85).is_off


def test_padding_of_other_layouts() -> None:
    lengths = np.bincount([10, 30, 32, 33, 128], minlength=129)
    assert binned_padding(lengths, 128, 4) == pytest.approx(1 - 233 / (32 + 32 + 32 + 64 + 128))
    assert binned_padding(lengths, 128, 1) == pytest.approx(1 - 233 / (5 * 128))
    totals = {"rows": 1, "sequences": 5, "tokens": 233}
    packed = dict(padding(totals, {"max_seq_len": 128, "pack_to": 512}, lengths))
    assert packed["each padded to 128"] == pytest.approx(1 - 233 / 640)
    assert packed["each padded to 512"] == pytest.approx(1 - 233 / 2560)
    alone = dict(padding(totals | {"rows": 5}, {"max_seq_len": 128, "pack_to": 0}, lengths))
    assert "each padded to 128" not in alone and alone["this data set: each padded to 128"] == pytest.approx(1 - 233 / 640)
