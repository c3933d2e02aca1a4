"""What a run is asked for: one frozen dataclass, checked once, from flags over a TOML file over the defaults."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from shards import storage
from shards.command.options import check_ranges, check_types, flag, option, read_values
from shards.errors import UserError

SIZES = ("tiny", "mini", "small", "medium", "base", "large")
SECTIONS = {
    "data": "data and model",
    "global_batch": "steps",
    "precision": "computation",
    "seed": "draws",
    "eval_every": "the run itself",
}
"""Of the help, by the field that each begins with."""
FIXED = frozenset({"global_batch", "lr", "weight_decay", "clip_norm", "dropout", "seed", "masking"})
"""What every start of a run must be told alike, besides model and data; the rest is where, how long and how fast."""
WARMUP_SHARE = 0.06


@dataclass(frozen=True)
class Settings:
    """The settings of one run. Raises UserError for a value that makes no sense."""

    data: str = option("the data set: folder or URL of what `prep build` made", metavar="URL")
    out: str = option("folder or URL for checkpoints and metrics; a run that is there goes on", metavar="URL")
    model: str = option(
        f"{', '.join(SIZES)}: BERT of that size from scratch; a config.json: that model from scratch; a folder or hub name: "
        "pretrained weights to continue from",
        "base",
        metavar="SIZE|CONFIG|PATH|NAME",
    )
    global_batch: int = option("rows of a step, over all processes", 256, metavar="ROWS")
    micro_batch: int = option(
        "rows of one forward and backward pass; divides --global-batch",
        0,
        metavar="ROWS",
        shown="the largest divisor up to 32 and an eighth of --global-batch",
    )
    steps: int = option("length of the run in steps", 0, metavar="N", shown="--epochs decides")
    epochs: int = option("length of the run in passes over the data", 0, metavar="N", shown="--steps decides")
    lr: float = option("learning rate at the end of the warm-up; from there it falls to 0 in a line", 1e-4, metavar="X")
    warmup_steps: int = option("steps of the rising learning rate", -1, metavar="N", shown=f"{WARMUP_SHARE:.0%} of the run")
    weight_decay: float = option("AdamW's, on all but biases and norms", 0.01, metavar="X")
    clip_norm: float = option("greatest norm of a step's gradient; 0: no limit", 1.0, metavar="X")
    dropout: float = option(
        "of hidden states and, with padded attention, of attention weights (the varlen kernels have none)", 0.1, metavar="P"
    )
    precision: str = option("auto: bf16 on a GPU that has it, else fp32; weights stay fp32", "auto", ("auto", "fp32", "bf16"))
    attention: str = option("auto: varlen where it can be (CUDA, bf16), else padded", "auto", ("auto", "padded", "varlen"))
    compile: bool = option("compile the model with torch.compile", False)
    seed: int = option("seed of weights, order, dynamic masks and dropout", 0, metavar="N")
    masking: str = option(
        "the masks that are stored in the shards, or new ones in every epoch; auto: as the data set was made",
        "auto",
        ("auto", "stored", "dynamic"),
    )
    eval_every: int = option("steps between scores of the held-out split; 0: only at the end", 1000, metavar="N")
    eval_rows: int = option("held-out rows scored while training; 0: all of them", 4096, metavar="ROWS")
    checkpoint_every: int = option("steps between checkpoints; 0: only at the end, or when stopped", 1000, metavar="N")
    keep: int = option("checkpoints kept", 3, metavar="N")
    log_every: int = option("steps between lines of metrics.jsonl", 10, metavar="N")
    row_log: str = option("folder for audits: what rows each rank was given in each step", "", metavar="DIR", shown="none")
    reader_threads: int = option("threads of each process that fetch and decode", 2, metavar="N")
    cache: str = option(
        "folder on a disk of this machine that keeps shards of a data set in a bucket, for all its processes and runs",
        "",
        metavar="DIR",
        shown="none; shards in a bucket are held in memory",
    )
    cache_bytes: int = option("the most that --cache may hold", 0, metavar="BYTES", shown="must be given with --cache")
    max_skipped: int = option(
        "steps in a row without a finite gradient that end the run at the next line of metrics; each is skipped",
        10,
        metavar="N",
    )
    wandb: str = option("project to report to, with the extra `wandb`", "", metavar="PROJECT", shown="none")

    def __post_init__(self) -> None:
        check_types(self)
        for f in fields(self):
            if f.type is float:
                value = getattr(self, f.name)
                object.__setattr__(self, f.name, float(value) if abs(value) < 2**1000 else math.inf)  # 1 and 1.0 are one
        many = 2**40
        ranges = {
            "global_batch": (1, 2**24),
            "micro_batch": (0, 2**24),
            "steps": (0, many),
            "epochs": (0, many),
            "warmup_steps": (-1, many),
            "weight_decay": (0.0, 10.0),
            "clip_norm": (0.0, 1e9),
            "dropout": (0.0, 0.9),
            "seed": (0, 2**63 - 1),
            "eval_every": (0, many),
            "eval_rows": (0, many),
            "checkpoint_every": (0, many),
            "keep": (1, many),
            "log_every": (1, many),
            "reader_threads": (1, 256),
            "cache_bytes": (0, 2**60),
            "max_skipped": (1, many),
        }
        check_ranges(self, ranges)
        if not self.micro_batch:
            object.__setattr__(self, "micro_batch", default_micro_batch(self.global_batch))
        if not 0.0 < self.lr < 100.0:
            raise UserError(f"--lr is {self.lr}, must be above 0 and below 100")
        if self.global_batch % self.micro_batch:
            raise UserError(f"--micro-batch {self.micro_batch} does not divide --global-batch {self.global_batch}")
        if bool(self.steps) == bool(self.epochs):
            raise UserError("give either --steps or --epochs, and not 0")
        for name in ("data", "out", "model"):
            if not getattr(self, name):
                raise UserError(f"{flag(name)} is empty")
            if getattr(self, name).startswith("memory://"):
                raise UserError(f"{flag(name)} is {getattr(self, name)}, which ends with the process; use a folder or a bucket")
        self._check_places()

    def _check_places(self) -> None:
        data, out = (storage.absolute(url) for url in (self.data, self.out))
        if out == data or out.startswith(f"{data}/"):
            raise UserError(f"--out ({self.out}) lies in the data set ({self.data}); choose a folder of its own")

    def warmup(self, num_steps: int) -> int:
        """Steps of the warm-up in a run of `num_steps`."""
        return self.warmup_steps if self.warmup_steps >= 0 else round(WARMUP_SHARE * num_steps)


def from_arguments(arguments: Mapping[str, Any]) -> Settings:
    """Settings from parsed flags over `--config` over the defaults. Raises UserError."""
    return Settings(**read_values(arguments, Settings))


def default_micro_batch(global_batch: int) -> int:
    """The largest divisor of the batch that leaves work for eight processes and is at most 32; 1 for batches under 16."""
    most = min(32, max(1, global_batch // 8))
    return next(rows for rows in range(most, 0, -1) if global_batch % rows == 0)
