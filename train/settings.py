"""The settings of a training run, or of a phase of it: one frozen dataclass. A run of several phases has one for each."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from shards import storage
from shards.command.options import check_ranges, check_types, flag, option
from shards.errors import UserError
from train.optimizers.schedules import DecayShape, Schedule, ScheduleName

Precision = Literal["auto", "fp32", "bf16"]
Attention = Literal["auto", "padded", "varlen"]
Switch = Literal["auto", "on", "off"]
MaskSource = Literal["auto", "stored", "dynamic"]
Span = Literal["phase", "run"]
MaskUnitName = Literal["auto", "token", "word", "ngram", "span"]
OptimizerName = Literal["adamw", "lamb", "stable-adamw", "muon"]

SIZES = ("tiny", "mini", "small", "medium", "base", "large")
# Titles of the help's sections, by the field that each begins with.
SECTIONS = {
    "data": "data and model",
    "global_batch": "steps",
    "precision": "computation",
    "seed": "randomness",
    "eval_every": "the run itself",
}
# What every start of a run must have in common, besides model and data. The rest is where, how long and how fast.
FIXED = frozenset({"global_batch", "lr", "weight_decay", "clip_norm", "dropout", "seed", "masking", "ignore_pairs"}) | {
    *("schedule", "decay", "decay_share", "end_lr", "span", "optimizer", "betas", "epsilon"),
    *("branch", "rope_theta", "weights", "end_global_batch", "mask_prob", "mask_unit"),
}
# What a phase that is done must keep, too.
LENGTHS = frozenset({"steps", "tokens", "epochs", "warmup_steps"})
# Of a recipe: what each phase sets for itself, and what it may set.
PHASE_ONLY = frozenset({"data", "weights", "steps", "tokens", "epochs"})
PHASE_SETTINGS = PHASE_ONLY | {
    *("global_batch", "end_global_batch", "micro_batch", "lr", "end_lr", "schedule", "span", "decay", "decay_share"),
    *("warmup_steps", "weight_decay", "clip_norm", "dropout", "rope_theta", "masking", "mask_prob", "mask_unit"),
}
# What belongs to one run of a recipe, not to the recipe: it stays a flag.
PLACES = frozenset({"out", "branch", "row_log", "cache", "cache_bytes", "wandb"})
WARMUP_SHARE = 0.06
# As in BERT's own code.
BETAS = (0.9, 0.999)
EPSILON = 1e-6
# Values of micro_batch until it is settled: see train/start/micro_batch.py.
DEFAULT_ROWS, AUTO_ROWS = 0, -1
_MANY = 2**40  # no run is longer; larger values are slips
_RANGES = {
    "global_batch": (1, 2**24),
    "micro_batch": (AUTO_ROWS, 2**24),
    "end_global_batch": (0, 2**24),
    "mask_prob": (0.0, 0.9),
    "rope_theta": (0.0, 1e12),
    "tokens": (0, _MANY),
    "steps": (0, _MANY),
    "epochs": (0, _MANY),
    "warmup_steps": (-1, _MANY),
    "decay_share": (0.0, 1.0),
    "epsilon": (1e-30, 1.0),
    "weight_decay": (0.0, 10.0),
    "clip_norm": (0.0, 1e9),
    "seed": (0, 2**63 - 1),
    "eval_every": (0, _MANY),
    "eval_rows": (0, _MANY),
    "checkpoint_every": (0, _MANY),
    "keep": (1, _MANY),
    "log_every": (1, _MANY),
    "reader_threads": (1, 256),
    "cache_bytes": (0, 2**60),
    "max_skipped": (1, _MANY),
}


@dataclass(frozen=True)
class Settings:
    """The settings of one run. Raises UserError for a value that is not allowed."""

    data: tuple[str, ...] = option(
        "the data set: folder or URL that `prep build` wrote; several are mixed evenly, as --weights says", metavar="URL"
    )
    out: str = option("folder or URL for checkpoints and metrics; an existing run there is resumed", metavar="URL")
    branch: str = option(
        "a checkpoint, or a run with one, of the same model: a new run begins with its weights, its optimizer's state and its "
        "place in the data, and then does the steps that the other flags set",
        "",
        metavar="URL",
        shown="none",
    )
    model: str = option(
        f"from scratch: {', '.join(SIZES)} (BERT), roberta-SIZE, albert-SIZE, modernbert-SIZE, esm2-SIZE, or the model of a "
        "config.json; a folder or hub name: continue from its pretrained weights. docs/models.md lists families and sizes",
        "base",
        metavar="SIZE|CONFIG|PATH|NAME",
    )
    weights: tuple[float, ...] = option(
        "share of each data set in the tokens; they need not add up to 1", (), metavar="X", shown="equal shares"
    )
    ignore_pairs: bool = option("train on masked tokens alone where the data set has sentence pairs", False)
    global_batch: int = option("rows per step, over all processes", 256, metavar="ROWS")
    end_global_batch: int = option(
        "rows per step at the end; the number of micro-batches grows evenly", 0, metavar="ROWS", shown="--global-batch"
    )
    micro_batch: int = option(
        "rows per forward and backward pass; must divide --global-batch. auto: what is fastest, tried when the run begins",
        DEFAULT_ROWS,
        metavar="ROWS|auto",
        shown="on a GPU by the size of model and memory, else the largest divisor that is at most 32 and at most an eighth of "
        "--global-batch",
        words={"auto": AUTO_ROWS},
    )
    steps: int = option("length of the run in steps", 0, metavar="N", shown="set by --tokens or --epochs")
    tokens: int = option("length of the run in tokens, to whole steps", 0, metavar="N", shown="set by --steps or --epochs")
    epochs: int = option("length of the run in passes over the data", 0, metavar="N", shown="set by --steps or --tokens")
    lr: float = option("peak learning rate, reached at the end of the warm-up", 1e-4, metavar="X")
    schedule: ScheduleName = option(
        "learning rate after the warm-up: falls linearly, or as half a cosine; stays constant; wsd: constant, and falls in the "
        "last part of the run; falls as 1 / sqrt(step)",
        "linear",
    )
    span: Span = option("whether the schedule spans the phase or the whole run (they differ in a --recipe)", "phase")
    end_lr: float = option("learning rate at the end of linear, cosine and wsd", 0.0, metavar="X")
    decay: DecayShape = option("how wsd falls: linearly, or as 1 - sqrt of the share that is done", "linear")
    decay_share: float = option("share of the run in which wsd falls", 0.1, metavar="X")
    warmup_steps: int = option("steps of linear warm-up", -1, metavar="N", shown=f"{WARMUP_SHARE:.0%} of the run")
    optimizer: OptimizerName = option(
        "adamw; lamb, for large batches; stable-adamw; muon: for the matrices of the layers, with adamw for the rest", "adamw"
    )
    betas: tuple[float, ...] = option(
        "weights of the past in the running means of gradients and of their squares", BETAS, metavar="X", shown="0.9 0.999"
    )
    epsilon: float = option("keeps the optimizer from dividing by 0", EPSILON, metavar="X")
    weight_decay: float = option("weight decay; biases and norms do not decay", 0.01, metavar="X")
    clip_norm: float = option("maximum norm of a step's gradient; 0: no limit", 1.0, metavar="X")
    dropout: float = option(
        "dropout of hidden states and, with padded attention, of attention weights (the varlen kernels have none)",
        -1.0,
        metavar="P",
        shown="the model's own; of the sizes, 0.1 for BERT and RoBERTa, 0 for the others",
    )
    rope_theta: float = option(
        "base of the rotary positions, of ModernBERT in layers with global attention", 0.0, metavar="X", shown="the model's own"
    )
    precision: Precision = option("auto: bf16 on a GPU that has it, else fp32; weights stay fp32", "auto")
    attention: Attention = option("auto: varlen where possible (CUDA, bf16), else padded", "auto")
    compile: Switch = option(
        "compile the layers with torch.compile; auto: on a GPU, if the compiler works there", "auto", bare="on"
    )
    cuda_graphs: Switch = option(
        "compile the whole model and replay it as CUDA graphs, in a run of one process; auto: for small models, whose time "
        "goes into launching kernels",
        "auto",
        bare="on",
    )
    activation_checkpointing: bool = option(
        "keep only the inputs of the layers for the backward pass and compute the layers again: much less memory, a third "
        "more work",
        False,
    )
    seed: int = option("seed of weights, order, dynamic masks and dropout", 0, metavar="N")
    masking: MaskSource = option(
        "stored: the masks in the shards; dynamic: new masks in every epoch; auto: as the data set was built",
        "auto",
    )
    mask_prob: float = option(
        "share of the tokens that dynamic masks select", 0.0, metavar="P", shown="as the data set was built"
    )
    mask_unit: MaskUnitName = option("what dynamic masks select; auto: as the data set was built", "auto")
    eval_every: int = option("steps between scores on the held-out split; 0: only at the end", 1000, metavar="N")
    eval_rows: int = option("held-out rows scored while training; 0: all of them", 4096, metavar="ROWS")
    eval_all: bool = option("at the end of each phase, score the held-out splits of all phases, not only its own", False)
    checkpoint_every: int = option("steps between checkpoints; 0: only at the end, or when stopped", 1000, metavar="N")
    keep: int = option("number of checkpoints to keep", 3, metavar="N")
    log_every: int = option("steps between lines of metrics.jsonl", 10, metavar="N")
    row_log: str = option(
        "folder for a log of the rows that each rank got in each step, for audits", "", metavar="DIR", shown="none"
    )
    reader_threads: int = option("threads per process that fetch and decode", 2, metavar="N")
    cache: str = option(
        "folder on a local disk that keeps shards from a bucket, for all processes and runs of this machine",
        "",
        metavar="DIR",
        shown="none; shards from a bucket are held in memory",
    )
    cache_bytes: int = option("maximum size of --cache", 0, metavar="BYTES", shown="required with --cache")
    max_skipped: int = option(
        "end the run after N skipped steps in a row (a step is skipped if its gradient is not finite); checked at each line "
        "of metrics",
        10,
        metavar="N",
    )
    wandb: str = option("Weights & Biases project to report to; needs the extra `wandb`", "", metavar="PROJECT", shown="none")

    def __post_init__(self) -> None:
        check_types(self)
        for f in fields(self):
            if f.type is float:
                value = getattr(self, f.name)
                # 1 and 1.0 are the same setting: a run resumes with either
                object.__setattr__(self, f.name, math.inf if abs(value) >= 2**1000 else float(value))
        check_ranges(self, _RANGES)
        if self.dropout != -1.0 and not 0.0 <= self.dropout <= 0.9:  # -1: the model's own
            raise UserError(f"--dropout is {self.dropout}, must be from 0.0 to 0.9")
        if not 0.0 < self.lr < 100.0:
            raise UserError(f"--lr is {self.lr}, must be above 0 and below 100")
        if len(self.betas) != 2 or not all(0.0 < beta < 1.0 for beta in self.betas):
            raise UserError(f"--betas is {' '.join(map(str, self.betas))}, must be two numbers above 0 and below 1")
        if not 0.0 <= self.end_lr <= self.lr:
            raise UserError(f"--end-lr is {self.end_lr}, must be from 0 to --lr, which is {self.lr}")
        if [bool(self.steps), bool(self.tokens), bool(self.epochs)].count(True) != 1:
            raise UserError("set exactly one of --steps, --tokens and --epochs, to 1 or more")
        self._check_batches()
        self._check_places()

    def _check_batches(self) -> None:
        if self.micro_batch > 0 and self.global_batch % self.micro_batch:
            raise UserError(f"--micro-batch {self.micro_batch} does not divide --global-batch {self.global_batch}")
        if 0 < self.end_global_batch < self.global_batch:
            raise UserError(f"--end-global-batch is {self.end_global_batch}, less than --global-batch {self.global_batch}")
        if self.micro_batch > 0 and self.end_global_batch % self.micro_batch:
            raise UserError(f"--micro-batch {self.micro_batch} does not divide --end-global-batch {self.end_global_batch}")
        if self.weights and len(self.weights) != len(self.data):
            raise UserError(f"--weights has {len(self.weights)} numbers for {len(self.data)} data sets; set one for each")

    def _check_places(self) -> None:
        places = [("data", url) for url in self.data or ("",)] + [("out", self.out), ("model", self.model)]
        for name, place in places:
            if not place:
                raise UserError(f"{flag(name)} is empty")
            if place.startswith("memory://"):
                raise UserError(f"{flag(name)} is {place}: memory:// ends with the process; use a folder or a bucket")
        out = storage.absolute(self.out)
        for data in self.data:
            if out == storage.absolute(data) or out.startswith(f"{storage.absolute(data)}/"):
                raise UserError(f"--out ({self.out}) is inside the data set ({data}); choose a folder outside it")

    @property
    def common_batch(self) -> int:
        """What the rows of a micro-batch must divide: --global-batch, also where it grows."""
        return math.gcd(self.global_batch, self.end_global_batch)

    def learning_rates(self, num_steps: int) -> Schedule:
        """The schedule of a run of `num_steps`."""
        warmup = self.warmup_steps if self.warmup_steps >= 0 else round(WARMUP_SHARE * num_steps)
        return Schedule(self.schedule, self.lr, self.end_lr, warmup, num_steps, self.decay_share, self.decay)


def default_micro_batch(global_batch: int) -> int:
    """The largest divisor of the batch that leaves work for eight processes and is at most 32; 1 for batches under 16."""
    largest = min(32, max(1, global_batch // 8))
    return next(rows for rows in range(largest, 0, -1) if global_batch % rows == 0)
