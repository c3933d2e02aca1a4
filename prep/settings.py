"""What a build is asked for: one frozen dataclass, checked once, from flags over a TOML file over the defaults.

`recipe()` has the fields that can change the output; the rest say where and how fast.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from shards import storage
from shards.errors import UserError
from shards.options import check_ranges, check_types, flag, option, read_values


@dataclass(frozen=True)
class Settings:
    """The settings of one build. Raises UserError for a value that makes no sense."""

    corpus: tuple[str, ...] = option(
        "files, folders, globs or fsspec URLs of plain text, JSON lines (.jsonl) or Parquet; the first two also as .gz, .zst",
        metavar="URL",
    )
    out: str = option("folder or URL of the data set to make", metavar="URL")
    tokenizer: str = option(
        "hub name, folder, tokenizer.json, vocab.txt, or train:N: a WordPiece vocabulary of up to N entries made of the corpus",
        "train:8192",
        metavar="NAME|PATH|train:N",
    )
    cased: bool = option("keep upper case: for train:N, and for a bare vocab.txt, which does not say", False)
    input: str = option("format of the inputs; auto goes by their names", "auto", ("auto", "text", "jsonl", "parquet"))
    document: str = option("where the documents of a plain text end", "line", ("line", "blank-line", "file"))
    text_field: str = option("the field or column that holds the text, in JSON lines and Parquet", "text", metavar="NAME")
    language: str = option(
        "language of the text, for splitting sentences (ISO 639 code); English rules where there are none for it",
        "en",
        metavar="CODE",
    )
    max_seq_len: int = option("most tokens of a sequence, special tokens counted", 128, metavar="TOKENS")
    short_seq_prob: float = option("probability that the pairs of a document aim at a random shorter length", 0.1, metavar="P")
    copies: int = option("different pairings and maskings of the whole corpus", 1, metavar="N")
    masking: str = option("masks in the shards, or drawn anew by the reader in each epoch", "static", ("static", "dynamic"))
    mask_prob: float = option("share of a sequence's tokens that is selected for prediction", 0.15, metavar="P")
    pack_to: int = option("tokens of a row, filled with whole sequences; 0: one sequence a row", 512, metavar="TOKENS")
    format: str = option("file format of the shards", "parquet", ("parquet", "webdataset"))
    shard_bytes: int = option(
        "size that a shard does not pass, about; smaller where a partition holds less", 64 << 20, metavar="BYTES", shown="64MB"
    )
    eval_fraction: float = option("share of the documents held out (at least 8 of them; 0: none)", 0.01, metavar="P")
    on_error: str = option(
        "a broken or empty document ends the build, or is left out and counted; over 64 MB it always is",
        "stop",
        ("stop", "skip"),
    )
    seed: int = option("seed of every random draw", 0, metavar="N")
    engine: str = option(
        "where the tasks run: local processes; Dask or Ray, on this machine or the cluster at ADDRESS; or an Executor of "
        "concurrent.futures that your FACTORY(workers) returns",
        "local",
        metavar="local|dask[:ADDRESS]|ray[:ADDRESS]|MODULE:FACTORY",
    )
    workers: int = option(
        "number of processes; with an engine's ADDRESS the most tasks at once",
        0,
        metavar="N",
        shown="the cores, or the cluster's",
    )
    stage: str = option(
        "the part of the build to do; each needs those before it, and exits with 75 while they are not done",
        "all",
        ("all", "vocabulary", "tokenize", "pair", "commit"),
    )
    task_shard: str = option(
        "of a stage's tasks, only those whose number leaves I when divided by N",
        "",
        metavar="I/N",
        shown="0/1, or what a Slurm array or an indexed Kubernetes job says",
    )
    tokenizer_engine: str = option(
        "auto takes the fast WordPiece (the extra `fast`) where it agrees with the reference; the output is the same",
        "auto",
        ("auto", "reference"),
    )
    scratch: str = option("folder or URL for tokens, kept for later builds of the same corpus", "data/scratch", metavar="URL")

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("short_seq_prob", "mask_prob", "eval_fraction"):
            object.__setattr__(self, name, float(getattr(self, name)))  # 0 and 0.0 are one setting
        ranges = {
            "max_seq_len": (8, 65_535),
            "copies": (1, 1_000),
            "pack_to": (0, 65_535),
            "shard_bytes": (1 << 16, 1 << 40),
            "seed": (0, 2**63 - 1),
            "workers": (0, 100_000),
            "short_seq_prob": (0.0, 1.0),
            "eval_fraction": (0.0, 0.5),
        }
        check_ranges(self, ranges)
        if not 0.0 < self.mask_prob < 1.0:
            raise UserError(f"--mask-prob is {self.mask_prob}, must be above 0 and below 1")
        if 0 < self.pack_to < self.max_seq_len:
            raise UserError(f"--pack-to is {self.pack_to}, must be 0 or at least --max-seq-len ({self.max_seq_len})")
        if not re.fullmatch(r"[a-z]{2,3}(-[a-zA-Z]+)*", self.language):
            raise UserError(f"--language is {self.language!r}, must be an ISO 639 code such as en or de")
        if self.tokenizer.startswith("train:"):
            _ = self.trained_vocab_size
        if not all(self.corpus):
            raise UserError("--corpus names an empty text; give files, folders, globs or URLs")
        if not self.corpus:
            raise UserError("--corpus names nothing; give at least one file, folder, glob or URL")
        self._check_places()

    def _check_places(self) -> None:
        for name in ("out", "scratch", "text_field", "tokenizer"):
            if not getattr(self, name):
                raise UserError(f"{flag(name)} is empty")
            if getattr(self, name).startswith("memory://"):
                raise UserError(
                    f"{flag(name)} is {getattr(self, name)}, which other processes cannot see; use a folder or a bucket"
                )
        out, scratch = (_canonical(url) for url in (self.out, self.scratch))
        if out == scratch or out.startswith(f"{scratch}/") or scratch.startswith(f"{out}/"):
            raise UserError(f"--out ({self.out}) and --scratch ({self.scratch}) must not lie in each other")

    @property
    def trained_vocab_size(self) -> int | None:
        """N of `train:N`; None for a given tokenizer."""
        kind, _, number = self.tokenizer.partition(":")
        if kind != "train" or not number:
            return None
        if not number.isdecimal() or not 100 <= int(number) <= 1_000_000:
            raise UserError(f"--tokenizer is {self.tokenizer!r}, must be train:N with N from 100 to 1000000")
        return int(number)

    @property
    def row_capacity(self) -> int:
        """The most tokens of a row."""
        return self.pack_to or self.max_seq_len

    def recipe(self, tokenizer: str) -> dict[str, Any]:
        """What can change the output, and no place: `tokenizer` is train:N or the fingerprint of a given one."""
        left_out = {"corpus", "out", "engine", "workers", "stage", "task_shard"}
        left_out |= {"tokenizer_engine", "scratch", "tokenizer", "cased"}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        return values | {"tokenizer": tokenizer} | ({"cased": self.cased} if self.trained_vocab_size else {})


def _canonical(url: str) -> str:
    return str(storage.local_path(url).resolve()) if storage.is_local(url) else url.rstrip("/")


def from_arguments(arguments: Mapping[str, Any]) -> Settings:
    """Settings from parsed flags over `--config` over the defaults. Raises UserError."""
    return Settings(**read_values(arguments, Settings))
