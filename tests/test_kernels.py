"""Which attention runs: varlen on a GPU, unless sequences fill their slots and padded attention is faster there."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from batches import SHAPE, bert
from datasets_of_rows import MAX_SEQ_LEN, ROW_TOKENS
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from train.data.layout import Shape
from train.device import attention, kernels
from train.ranks import Ranks
from train.settings import Settings
from train.start.join import join_ranks
from train.start.prepare import prepare

CPU = torch.device("cpu")


def attend(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, scale: float | None, window: int | None) -> Tensor:
    """Stands in for torch's varlen kernels, which need a GPU."""
    runs = [slice(first, last) for first, last in pairwise(starts.tolist()) if last > first]
    return torch.cat([sdpa(*(x[run].transpose(0, 1) for x in (q, k, v)), scale=scale).transpose(0, 1) for run in runs])


def test_padded_is_tried_only_where_varlen_runs_and_slots_are_full() -> None:
    padded, varlen = bert(attention.PADDED), bert(attention.VARLEN)
    assert kernels.may_be_padded(varlen, 0.95)
    assert not kernels.may_be_padded(varlen, 0.5) and not kernels.may_be_padded(padded, 0.95)


def test_both_are_timed_and_the_fastest_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.device.attention._attend", attend)
    encoder = bert(attention.VARLEN)
    seconds = kernels.times(encoder, SHAPE, CPU, dropout=0.1)
    assert set(seconds) == {attention.PADDED, attention.VARLEN} and min(seconds.values()) > 0
    message = kernels.choose_fastest(encoder, {attention.VARLEN: 0.002, attention.PADDED: 0.001})
    assert message == "attention: padded is the fastest here (varlen 2.00 ms, padded 1.00 ms per layer and micro-batch)"
    assert attention.layout_of(encoder) == "padded"
    assert "varlen is the fastest" in kernels.choose_fastest(encoder, {attention.VARLEN: 0.001, attention.PADDED: 0.002})
    assert attention.layout_of(encoder) == "varlen"


@pytest.mark.parametrize("shape", [SHAPE, Shape(2, 20, 64, 1, 3)])
def test_the_rows_of_the_trial_are_full(shape: Shape) -> None:
    rows = kernels.full_rows(shape)
    assert len(rows) == shape.rows and int(rows.sequence_lengths.max()) == min(shape.longest, shape.tokens)
    assert len(rows.input_ids) == shape.rows * (shape.tokens // shape.longest or 1) * min(shape.longest, shape.tokens)
    assert MAX_SEQ_LEN < ROW_TOKENS, "so that there are several in a row"


@pytest.mark.parametrize(("choice", "layout"), [("auto", "padded"), ("varlen", "varlen")])
def test_a_run_settles_it_before_its_first_batch(
    choice: str, layout: str, random_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: varlen is chosen, the data set is said to be full, and padded is the fastest."""
    monkeypatch.setattr("train.device.attention._attend", attend)
    settings = Settings(data=(str(random_data),), out=str(tmp_path), model="tiny", epochs=1, global_batch=12, micro_batch=3)
    run, _ = prepare([settings], Ranks(0, 1, CPU))
    object.__setattr__(run.settings, "attention", choice)
    run.encoder.config._attn_implementation = attention.VARLEN
    monkeypatch.setattr("train.device.kernels._FILLED_SHARE", 0.0)
    monkeypatch.setattr("train.device.kernels.times", lambda *_: {attention.VARLEN: 2.0, attention.PADDED: 1.0})
    messages = join_ranks(run)
    assert run.layout == run.empty_batch().layout == layout
    assert bool(messages) == (choice == "auto")


def test_torchs_own_kernels_are_named_where_no_faster_ones_run() -> None:
    assert kernels.start(bert(attention.PADDED), CPU) == []
    assert kernels.start(bert(attention.VARLEN), CPU) == [
        "attention: varlen, by FA2, which has no dropout of attention weights"
    ]
