"""Rows, models and runs for the tests of devices."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForPreTraining, ModernBertConfig, ModernBertForMaskedLM, PreTrainedModel

from benchmarks.random_data import SPECIAL_IDS, masked, random_rows
from shards.schema import Rows
from train.data.batch import PackedBatch, pack_batch, pad_batch
from train.data.layout import Layout, Shape
from train.loop import Trainer
from train.ranks import Ranks
from train.row_log import RowLog
from train.run import Run
from train.settings import Settings
from train.start.join import join_ranks
from train.start.prepare import prepare
from train.step import Counts
from train.stopping import StopRequest

GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        pytest.mark.filterwarnings("default"),  # what Inductor and the profiler say of a card is no error of ours
    ],
)
VOCAB_SIZE, LONGEST = 500, 128
SHAPE = Shape(rows=4, tokens=512, longest=LONGEST, sequences=26, masked=110)


def rows_of(count: int, seed: int = 0) -> Rows:
    return masked(random_rows(count, LONGEST, VOCAB_SIZE, seed), VOCAB_SIZE, seed)


def pack(rows: Rows, layout: Layout, device: torch.device) -> PackedBatch:
    return pack_batch(rows, SHAPE, SPECIAL_IDS["pad"], layout).to(device)


def counts_of(batch: PackedBatch) -> Counts:
    return Counts(batch.tokens, batch.masked, batch.pairs, batch.attended)


def bert(device: torch.device, dropout: float = 0.0, seed: int = 0) -> BertForPreTraining:
    """Two layers of 256 features, initialised as BERT is."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=1024,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="sdpa",
    )
    return BertForPreTraining(config).to(device).train()


def modernbert(device: torch.device) -> ModernBertForMaskedLM:
    """Three layers, one with global attention and two with a window of 16 tokens."""
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=192,
        local_attention=16,
        pad_token_id=SPECIAL_IDS["pad"],
        attn_implementation="sdpa",
    )
    return ModernBertForMaskedLM(config).to(device).train()


def padded_losses(model: BertForPreTraining, rows: Rows, device: torch.device) -> Tensor:
    """[MLM, NSP] by transformers' own model, each sequence padded."""
    batch = {name: values.to(device) for name, values in pad_batch(rows, LONGEST, SPECIAL_IDS["pad"]).items()}
    out = model(**{name: values for name, values in batch.items() if "label" not in name})
    mlm = nn.functional.cross_entropy(out.prediction_logits.view(-1, VOCAB_SIZE).float(), batch["labels"].view(-1))
    nsp = nn.functional.cross_entropy(out.seq_relationship_logits.float(), batch["next_sentence_label"])
    return torch.stack([mlm, nsp])


def gradient_of(model: nn.Module) -> Tensor:
    """The gradient of all parameters, as one vector on the CPU."""
    return torch.cat([p.grad.detach().float().flatten().cpu() for p in model.parameters() if p.grad is not None])


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The norm of the difference, as a share of theirs."""
    return float((ours - theirs).norm() / theirs.norm())


class Watch:
    """Stands in for the trainer's Reporter: calls `after` with the number of steps done, and keeps what is reported."""

    def __init__(self, after: Callable[[int], None] = lambda num_done: None) -> None:
        self.show_step = after
        self.lines: list[Mapping[str, Any]] = []
        self.messages: list[str] = []

    def say(self, text: str) -> None:
        self.messages.append(text)

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if kind == "train":
            self.lines.append(values)

    def checkpointed(self) -> None: ...


class TrainerWithoutOutput(Trainer):
    def _save(self, num_done: int) -> None:
        self.saved_step = num_done

    def _score(self, num_done: int) -> None: ...


def settings_of(data: str, steps: int, **values: Any) -> Settings:
    defaults = {"model": "tiny", "global_batch": 8, "micro_batch": 4, "log_every": steps, "lr": 1e-3}
    return Settings(data=(data,), out="memory-of-no-run", steps=steps, **defaults | values)


def without_attention_dropout(encoder: PreTrainedModel) -> None:
    """Dropout of attention weights depends on how many places the layout of a batch has: compiled code has more."""
    for layer in encoder.base_model.encoder.layer:
        layer.attention.self.dropout.p = 0.0


def train(
    settings: Settings, device: torch.device, watch: Watch, change: Callable[[PreTrainedModel], None] = lambda encoder: None
) -> Run:
    """A run of the trainer's own loop, without checkpoints and scores. `change` is applied to the model first."""
    run, messages = prepare([settings], Ranks(0, 1, device))
    change(run.encoder)
    watch.messages += messages
    join_ranks(run)
    TrainerWithoutOutput(run, watch, RowLog("", run.ranks), StopRequest()).train()  # type: ignore[arg-type]
    return run


@contextmanager
def no_waits(device: torch.device) -> Iterator[None]:
    """Raises RuntimeError where the host waits for the device. Without effect on a CPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def distance(one: Run, two: Run) -> float:
    """How far the parameters of two runs are apart, as a share of their norm."""
    pairs = list(zip(one.encoder.parameters(), two.encoder.parameters(), strict=True))
    apart, length = (
        math.fsum(float(x.detach().square().sum()) for x in xs) for xs in ((x - y for x, y in pairs), (x for x, _ in pairs))
    )
    return math.sqrt(apart / length)
