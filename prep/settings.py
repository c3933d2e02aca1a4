"""What a build is asked for: one frozen dataclass, checked once, from flags over a TOML file over the defaults.

`recipe()` has the fields that can change the output; the rest say where and how fast.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from prep.corpus.documents import Rule
from prep.corpus.names import INPUTS
from shards import storage
from shards.command.options import check_ranges, check_types, flag, option, read_values
from shards.errors import UserError

SECTIONS = {
    "corpus": "text and tokenizer",
    "max_seq_len": "sequences",
    "masking": "masks",
    "pack_to": "rows and shards",
    "on_error": "the build itself",
}
"""Of the help, by the field that each begins with."""
PAIRINGS = ("nsp", "paragraph", "sop", "none")
MAX_WEIGHT = 1000
MAX_SPAN_PROB = 0.5
"""Spans that do not touch find no room beyond."""


class Splitting(NamedTuple):
    """Where sentences end: by the rules of a language, at every line's end, or at every full stop."""

    rule: str  # language, line or fullstop
    language: str


@dataclass(frozen=True)
class Settings:
    """The settings of one build. Raises UserError for a value that makes no sense."""

    corpus: tuple[str, ...] = option(
        "files, folders, globs or fsspec URLs (hf://datasets/NAME too) of plain text, JSON lines (.jsonl), Parquet, WARC and "
        "WET, or tars of texts; all but Parquet also as .gz, .zst, .bz2, .xz",
        metavar="URL",
    )
    out: str = option("folder or URL of the data set to make", metavar="URL")
    tokenizer: str = option(
        "hub name, folder, tokenizer.json, vocab.txt, or train:N: a WordPiece vocabulary of up to N entries made of the corpus",
        "train:8192",
        metavar="NAME|PATH|train:N",
    )
    cased: bool = option("keep upper case: for train:N, and for a bare vocab.txt, which does not say", False)
    corpus_weight: tuple[float, ...] = option(
        "a weight for each --corpus, in their order: 0.5 takes every second of its documents, by address; 2 takes all twice",
        (),
        metavar="W",
    )
    dedup: str = option(
        "exact: of documents with the same text (a hash of it), in the whole corpus, only one stays", "none", ("none", "exact")
    )
    input: str = option("format of the inputs; auto goes by their names", "auto", INPUTS)
    document: str = option("where the documents of a plain text end", "line", ("line", "blank-line", "file"))
    text_field: str = option(
        "the field or column that holds the text, in JSON and Parquet; in a tar also the ending of its texts, beside .txt",
        "text",
        metavar="NAME",
    )
    sentences: str = option(
        "where sentences end; auto: by the rules of --language, for --pairing paragraph at full stops",
        "auto",
        ("auto", "line", "fullstop"),
    )
    language: str = option(
        "language of the text, for splitting sentences (ISO 639 code); English rules where there are none for it",
        "en",
        metavar="CODE",
    )
    max_seq_len: int = option("most tokens of a sequence, special tokens counted", 128, metavar="TOKENS")
    pairing: str = option(
        "nsp: BERT's next-sentence pairs; paragraph: one pair a document, of single sentences; sop: two segments in or out of "
        "order; none: full sentences, one segment",
        "nsp",
        PAIRINGS,
    )
    cross_documents: bool = option("with --pairing none: sequences go on into the next document, a separator between", False)
    short_seq_prob: float | None = option(
        "probability that the sequences of a document aim at a random shorter length",
        None,
        metavar="P",
        shown="0.1 for nsp and sop, else 0",
    )
    copies: int = option("different pairings and maskings of the whole corpus", 1, metavar="N")
    masking: str = option("masks in the shards, or drawn anew by the reader in each epoch", "static", ("static", "dynamic"))
    mask_prob: float = option("share of a sequence's tokens that is selected for prediction", 0.15, metavar="P")
    mask_unit: str = option(
        "what is selected: single tokens, whole words, or spans of words (3.8 in the mean)", "token", ("token", "word", "span")
    )
    mask_replace_prob: float = option("share of the selected tokens that become the mask token", 0.8, metavar="P")
    random_replace_prob: float = option("share of them that become a random token; the rest stays", 0.1, metavar="P")
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
        if self.short_seq_prob is None:
            object.__setattr__(self, "short_seq_prob", 0.1 if self.pairing in ("nsp", "sop") else 0.0)
        for name in ("short_seq_prob", "mask_prob", "mask_replace_prob", "random_replace_prob", "eval_fraction"):
            object.__setattr__(self, name, float(getattr(self, name)))  # 0 and 0.0 are one setting
        object.__setattr__(self, "corpus_weight", tuple(float(weight) for weight in self.corpus_weight))
        ranges = {
            "max_seq_len": (8, 65_535),
            "copies": (1, 1_000),
            "pack_to": (0, 65_535),
            "shard_bytes": (1 << 16, 1 << 40),
            "seed": (0, 2**63 - 1),
            "workers": (0, 100_000),
            "short_seq_prob": (0.0, 1.0),
            "mask_replace_prob": (0.0, 1.0),
            "random_replace_prob": (0.0, 1.0),
            "eval_fraction": (0.0, 0.5),
        }
        check_ranges(self, ranges)
        if not 0.0 < self.mask_prob < 1.0:
            raise UserError(f"--mask-prob is {self.mask_prob}, must be above 0 and below 1")
        self._check_recipe()
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

    def _check_recipe(self) -> None:
        if self.mask_replace_prob + self.random_replace_prob > 1.0 + 1e-9:
            raise UserError(
                f"--mask-replace-prob {self.mask_replace_prob} and --random-replace-prob {self.random_replace_prob} come "
                "to more than 1"
            )
        if self.mask_unit == "span" and self.mask_prob > MAX_SPAN_PROB:
            raise UserError(f"--mask-prob is {self.mask_prob}, must be at most {MAX_SPAN_PROB} with --mask-unit span")
        if self.cross_documents and self.pairing != "none":
            raise UserError(f"--cross-documents goes with --pairing none; with {self.pairing} a sequence is of one document")
        if self.short_seq_prob and self.pairing == "paragraph":
            raise UserError("--short-seq-prob means nothing with --pairing paragraph, whose pairs have the length they have")
        if self.corpus_weight and len(self.corpus_weight) != len(self.corpus):
            raise UserError(
                f"--corpus-weight has {len(self.corpus_weight)} weights for {len(self.corpus)} --corpus; give one each"
            )
        for url, weight in zip(self.corpus, self.corpus_weight, strict=False):
            if not 0.0 < weight <= MAX_WEIGHT:
                raise UserError(
                    f"--corpus-weight {weight:g} of {url}: must be above 0 and at most {MAX_WEIGHT}; leave a corpus without "
                    "weight out"
                )

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
    def rule(self) -> Rule:
        """What a document is."""
        return Rule(self.document, self.text_field)

    @property
    def splitting(self) -> Splitting:
        """Where sentences end."""
        automatic = "fullstop" if self.pairing == "paragraph" else "language"
        return Splitting(automatic if self.sentences == "auto" else self.sentences, self.language)

    @property
    def row_capacity(self) -> int:
        """The most tokens of a row."""
        return self.pack_to or self.max_seq_len

    def recipe(self, tokenizer: str) -> dict[str, Any]:
        """What can change the output, and no place: `tokenizer` is train:N or the identity of a given one."""
        left_out = {"corpus", "out", "engine", "workers", "stage", "task_shard"}
        left_out |= {"tokenizer_engine", "scratch", "tokenizer", "cased"}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        values["corpus_weight"] = list(self.corpus_weight)
        return values | {"tokenizer": tokenizer} | ({"cased": self.cased} if self.trained_vocab_size else {})


_ADDED = ("dedup", "sentences", "pairing", "cross_documents", "mask_unit", "mask_replace_prob", "random_replace_prob")
DEFAULTS = {f.name: f.default for f in fields(Settings) if f.name in _ADDED} | {"corpus_weight": []}
"""What data sets were made with whose settings do not say."""


def _canonical(url: str) -> str:
    return str(storage.local_path(url).resolve()) if storage.is_local(url) else url.rstrip("/")


def from_arguments(arguments: Mapping[str, Any]) -> Settings:
    """Settings from parsed flags over `--config` over the defaults. Raises UserError."""
    return Settings(**read_values(arguments, Settings))
