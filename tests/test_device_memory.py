"""Memory of a device: layers computed twice give the same gradients, logits come in parts, and the default rows fit."""

import copy
import weakref
from collections.abc import Iterator

import pytest
import torch
from batches import bert, masked_rows, pack
from small_encoders import small_encoder
from torch import Tensor, nn
from transformers import BertConfig, BertForPreTraining

from train.data.layout import Shape
from train.device import attention, compiling
from train.device.memory import default_rows, divisors, fastest_rows, keep_inputs_only
from train.models.families import layers_of
from train.models.packed import PackedEncoder


def gradients(model: PackedEncoder, seed: int = 0) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(seed)
    sums = model(pack(masked_rows(5, 3)))
    (sums.mlm_loss + sums.nsp_loss).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "albert"])
def test_layers_that_are_computed_twice_have_the_same_dropout(model_type: str) -> None:
    plain = PackedEncoder(small_encoder(model_type, attention.PADDED)).train()
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    twice = copy.deepcopy(plain)
    names = list(twice.state_dict())
    keep_inputs_only(twice.encoder)
    counts = [0]
    layers_of(twice.encoder)[0].register_forward_pre_hook(
        lambda *_: counts.__setitem__(0, counts[0] + 1)  # type: ignore[arg-type]
    )
    expected = gradients(plain)
    assert expected and equal(gradients(twice), expected)
    assert counts[0] % 2 == 0 and counts[0] > 0, "forward and backward computed it"
    assert list(twice.state_dict()) == names
    compiling.undo(twice)
    assert equal(gradients(twice), expected)


def kept_tensors(model: PackedEncoder) -> int:
    """How many numbers the forward pass keeps for the backward pass."""
    kept: list[weakref.ref[Tensor]] = []

    def pack_saved(tensor: Tensor) -> Tensor:
        kept.append(weakref.ref(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack_saved, lambda tensor: tensor):
        loss = model(pack(masked_rows(5, 3))).mlm_loss
    numbers = sum(tensor.numel() for tensor in {id(t): t for t in (ref() for ref in kept) if t is not None}.values())
    del loss
    return numbers


def test_layers_that_are_computed_twice_keep_little() -> None:
    model = PackedEncoder(bert(attention.PADDED)).train()
    before = kept_tensors(model)
    keep_inputs_only(model.encoder)
    assert kept_tensors(model) < 0.7 * before


def test_logits_in_parts_give_the_same_losses_and_gradients() -> None:
    model = PackedEncoder(bert(attention.PADDED)).train()
    batch = pack(masked_rows(5, 3))
    expected = gradients(model)
    whole = model(batch).mlm_loss.item()
    model.most_logits = 7 * model.encoder.config.vocab_size  # seven tokens at a time, and a rest
    assert len(batch.masked_labels) % 7
    seen = list[int]()
    model.encoder.cls.predictions.register_forward_hook(lambda _, __, logits: seen.append(len(logits)))
    assert model(batch).mlm_loss.item() == pytest.approx(whole, rel=1e-6)
    assert max(seen) == 7 and sum(seen) == len(batch.masked_labels)
    for name, gradient in gradients(model).items():
        assert torch.allclose(gradient, expected[name], atol=1e-5), name
    with torch.no_grad():
        right = model.eval()(batch).mlm_right
        model.most_logits = None
        assert right == model(batch).mlm_right


def encoders() -> Iterator[tuple[str, BertForPreTraining]]:
    with torch.device("meta"):
        for name, layers, features in (("small", 4, 512), ("base", 12, 768), ("large", 24, 1024)):
            config = BertConfig(
                vocab_size=30_522,
                num_hidden_layers=layers,
                hidden_size=features,
                num_attention_heads=features // 64,
                intermediate_size=4 * features,
            )
            yield name, BertForPreTraining(config)


@pytest.mark.parametrize(
    ("gigabytes", "world_size", "keep_all", "rows"),
    [
        (140, 1, True, {"small": 128, "base": 128, "large": 128}),
        (80, 1, True, {"small": 128, "base": 128, "large": 64}),
        (40, 1, True, {"small": 128, "base": 128, "large": 32}),
        (24, 1, True, {"small": 128, "base": 64, "large": 16}),
        (24, 1, False, {"small": 128, "base": 128, "large": 128}),
        (140, 8, True, {"small": 32, "base": 32, "large": 32}),
        (1, 1, True, {"small": 4, "base": 1, "large": 1}),
    ],
)
def test_default_rows(gigabytes: int, world_size: int, keep_all: bool, rows: dict[str, int]) -> None:
    """The memory of a batch of 256 rows of 512 tokens."""
    shape = Shape(32, 512, 128, 19, 82, 4.0)
    for name, encoder in encoders():
        assert default_rows(256, world_size, shape, encoder, gigabytes << 30, keep_all) == rows[name], name


def test_the_fewest_rows_that_are_nearly_the_fastest() -> None:
    speeds = {1: 10.0, 2: 19.0, 4: 30.0, 8: 30.5, 16: None, 32: 99.0}
    assert fastest_rows(list(speeds), speeds.__getitem__) == 4, "32 is behind what does not fit"
    assert fastest_rows([1, 2, 4], {1: 10.0, 2: 5.0, 4: 99.0}.__getitem__) == 1, "it stops when it gets much slower"
    assert fastest_rows([3, 6], lambda _: None) == 3
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
