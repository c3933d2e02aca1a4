"""Throughput: the operations of a step against a count of every matrix product, and the peaks of known devices."""

from dataclasses import replace

import pytest
import torch
from batches import SHAPE, counts_of, masked_rows, pack
from small_encoders import small_encoder
from torch.utils.flop_counter import FlopCounterMode

from train.device import attention
from train.models.families import FAMILIES, window_of
from train.models.packed import PackedEncoder
from train.step import Counts
from train.throughput import Interval, peak_flops, step_flops


@pytest.mark.parametrize("model_type", FAMILIES)
def test_operations_are_those_of_the_matrix_products(model_type: str) -> None:
    """torch counts what is computed: padding too, and no attention, for which it has no count on a CPU."""
    model = PackedEncoder(small_encoder(model_type, attention.PADDED))
    batch = pack(masked_rows(6))
    with FlopCounterMode(display=False) as counter:
        sums = model(batch)
        (sums.mlm_loss + sums.nsp_loss).backward()
    computed = Counts(batch.input_ids.numel(), len(batch.masked_at), len(batch.cls_at), attended=0)
    # transformers' base model also pools the first token of each row, for nobody.
    has_pooler = getattr(model.encoder.base_model, "pooler", None) is not None
    own_pooler = 2 * SHAPE.rows * model.encoder.config.hidden_size**2 if has_pooler else 0
    assert counter.get_total_flops() == step_flops(model.encoder, computed) + own_pooler
    real = step_flops(model.encoder, counts_of(batch))
    assert 0 < real < counter.get_total_flops()


def test_a_local_layer_compares_tokens_within_its_window() -> None:
    """Pairs are counted one by one here. One layer of three compares all tokens of a sequence."""
    encoder = small_encoder("modernbert")
    window = window_of(encoder)
    batch = pack(masked_rows(6), replace(SHAPE, window=window))
    lengths = masked_rows(6).sequence_lengths.tolist()
    near = sum(int(((torch.arange(n)[:, None] - torch.arange(n)).abs() < window).sum()) for n in lengths)
    assert (batch.nearby, window) == (near, 5)
    less = step_flops(encoder, Counts(0, 0, 0, batch.attended, batch.nearby))
    assert less == 12 * 32 * (batch.attended + 2 * near)


def test_operations_of_a_known_model_by_hand() -> None:
    """BERT-base on 10 tokens in one sequence, nothing predicted: 6 per weight and token, 12 per layer, feature and pair."""
    from transformers import BertConfig, BertForPreTraining

    with torch.device("meta"):
        encoder = BertForPreTraining(BertConfig())
    weights = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert step_flops(encoder, Counts(10, 0, 0, 100)) == 6 * weights * 10 + 12 * 12 * 768 * 100
    heads = step_flops(encoder, Counts(10, 2, 1, 100)) - step_flops(encoder, Counts(10, 0, 0, 100))
    assert heads == 6 * 2 * (768 * 768 + 768 * encoder.config.vocab_size) + 6 * (768 * 768 + 2 * 768)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_peaks_of_devices(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), half=True) == peak
    assert peak_flops(torch.device("cuda"), half=False) is None and peak_flops(torch.device("cpu"), half=True) is None


def test_an_interval_adds_up_its_steps_and_stops_its_clock() -> None:
    interval = Interval()
    interval.add(Counts(10, 2, 1, 100), 8)
    interval.add(Counts(30, 4, 3, 500), 5)
    assert (interval.steps, interval.rows, interval.counts()) == (2, 13, Counts(40, 6, 4, 600))
    interval.pause()
    before = interval.seconds
    interval.resume()
    interval.pause()
    assert interval.seconds >= before >= 0
