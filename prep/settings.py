"""The settings of a build: one frozen dataclass, checked once. Flags override a TOML file, and the file overrides the defaults.

`recipe()` holds the fields that can change the output; the others set places and speed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from prep.corpus.documents import Rule
from prep.corpus.names import InputName
from prep.pairing.recipes import RECIPES, Pairing
from shards import storage
from shards.command.options import check_ranges, check_types, flag, option, read_values
from shards.errors import UserError
from shards.schema import MaskUnit

SplitRule = Literal["language", "line", "fullstop", "whole"]
OnError = Literal["stop", "skip"]
ExchangeName = Literal["auto", "one-level", "two-level"]
StageName = Literal["vocabulary", "tokenize", "merge", "pair", "commit"]
VocabularyKind = Literal["WordPiece", "byte-level BPE"]

# Titles of the sections of the help, by the first field of each.
SECTIONS = {
    "corpus": "text and tokenizer",
    "max_seq_len": "sequences",
    "masking": "masks",
    "pack_to": "rows and shards",
    "on_error": "the build itself",
}
MAX_WEIGHT = 1000
# Fields that cannot change the output. The tokenizer enters the recipe by its content, --cased only with train:N.
_NO_RECIPE = (
    *("corpus", "out", "engine", "workers", "stage", "task_shard", "exchange", "tokenizer_engine", "scratch", "tokenizer"),
    "cased",
)
_TRAINED: dict[str, VocabularyKind] = {"train": "WordPiece", "train-bpe": "byte-level BPE"}
MAX_SPAN_PROB = 0.5  # above this rate, spans that do not touch no longer fit


class Splitting(NamedTuple):
    """Where sentences end: by the rules of a language, at every line's end, at every full stop, or at no place."""

    rule: SplitRule
    language: str  # empty with the rule `whole`


@dataclass(frozen=True)
class Settings:
    """The settings of one build. Raises UserError for a value that makes no sense."""

    corpus: tuple[str, ...] = option(
        "files, folders, globs or fsspec URLs (also hf://datasets/NAME) of plain text, JSON lines (.jsonl), Parquet, WARC, WET "
        "or tars of texts; all but Parquet also compressed as .gz, .zst, .bz2 or .xz",
        metavar="URL",
    )
    out: str = option("folder or URL of the data set to make", metavar="URL")
    tokenizer: str = option(
        "hub name, folder, tokenizer.json, vocab.txt; or one trained on the corpus, of up to N entries: train:N (WordPiece) or "
        "train-bpe:N (byte-level BPE, which keeps case and white space)",
        "train:8192",
        metavar="NAME|PATH|train:N|train-bpe:N",
    )
    cased: bool = option("keep upper case; only for train:N and for a vocab.txt without a configuration", False)
    corpus_weight: tuple[float, ...] = option(
        "one weight per --corpus, in the same order: 0.5 keeps a fixed pseudo-random half of the documents, 2 uses each twice",
        (),
        metavar="W",
    )
    dedup: Literal["none", "exact"] = option(
        "exact: keep one of all documents with identical text (by a 64-bit hash), corpus-wide", "none"
    )
    input: InputName = option("format of the inputs; auto: by the extension and the first bytes of each file", "auto")
    document: Literal["line", "blank-line", "file"] = option("where a document of plain text ends", "line")
    text_field: str = option(
        "field or column that holds the text, in JSON and Parquet; in a tar, the extension of its texts besides .txt",
        "text",
        metavar="NAME",
    )
    sentences: Literal["auto", "line", "fullstop"] = option(
        "where a sentence ends; auto: by the rules of --language, or at full stops with --pairing paragraph", "auto"
    )
    language: str = option(
        "language of the text, for splitting sentences (ISO 639 code); a language without rules uses those of English",
        "en",
        metavar="CODE",
    )
    max_seq_len: int = option("maximum tokens per sequence, special tokens included", 128, metavar="TOKENS")
    pairing: Pairing = option(
        "nsp: BERT's next-sentence pairs; paragraph: one pair per document, of single sentences; sop: two segments in order or "
        "swapped; none: full sentences, one segment; document: the whole text as it is, long ones in pieces",
        "nsp",
    )
    cross_documents: bool = option(
        "with --pairing none: continue a sequence with the next document, after a separator token", False
    )
    document_overlap: int = option(
        "with --pairing document: number of tokens that a piece of a long document shares with the piece before it",
        0,
        metavar="TOKENS",
    )
    short_seq_prob: float | None = option(
        "probability that the sequences of a document get a random shorter target length",
        None,
        metavar="P",
        shown="0.1 for nsp and sop, else 0",
    )
    copies: int = option("number of passes over the corpus, each with other pairs and masks", 1, metavar="N")
    masking: Literal["static", "dynamic"] = option(
        "static: store the masks in the shards; dynamic: the reader draws new masks in each epoch", "static"
    )
    mask_prob: float = option("fraction of the tokens of a sequence that is selected for prediction", 0.15, metavar="P")
    mask_unit: MaskUnit = option(
        "what is selected: single tokens, whole words, n-grams of 1 to 3 words as ALBERT's, or spans of words (3.8 on average)",
        "token",
    )
    mask_replace_prob: float = option("fraction of the selected tokens that becomes the mask token", 0.8, metavar="P")
    random_replace_prob: float = option(
        "fraction of the selected tokens that becomes a random token; the rest stays as it is", 0.1, metavar="P"
    )
    pack_to: int = option("tokens per row, filled with whole sequences; 0: one sequence per row", 512, metavar="TOKENS")
    format: Literal["parquet", "webdataset"] = option("file format of the shards", "parquet")
    shard_bytes: int = option("approximate maximum shard size", 64 << 20, metavar="BYTES", shown="64MB")
    eval_fraction: float = option(
        "fraction of the documents that is held out for evaluation (at least 8 documents; 0: none)", 0.01, metavar="P"
    )
    on_error: OnError = option(
        "at a broken or empty document: stop the build, or skip and count it; a document over 64 MB is always skipped",
        "stop",
    )
    seed: int = option("seed of every random draw", 0, metavar="N")
    engine: str = option(
        "where the tasks run: local processes; Dask or Ray, on this machine or on the cluster at ADDRESS; or the "
        "concurrent.futures Executor that your function FACTORY(workers) returns",
        "local",
        metavar="local|dask[:ADDRESS]|ray[:ADDRESS]|MODULE:FACTORY",
    )
    workers: int = option(
        "number of processes; with the ADDRESS of a cluster, maximum number of tasks at once",
        0,
        metavar="N",
        shown="all cores, or all of the cluster",
    )
    stage: Literal["all", StageName] = option(
        "run one stage of the build; it needs the stages before it, and exits with 75 until they are done", "all"
    )
    task_shard: str = option(
        "run only the tasks i of the stage with i % N == I",
        "",
        metavar="I/N",
        shown="0/1, or the position in a Slurm array or an indexed Kubernetes job",
    )
    exchange: ExchangeName = option(
        "one-level: each pair task reads from each unit; two-level: units are merged in groups in between, which takes fewer "
        "requests for a large corpus; auto: what costs less (see `prep plan`); the data are the same",
        "auto",
    )
    tokenizer_engine: Literal["auto", "reference"] = option(
        "auto: use the fast tokenizer of that kind (extra `fast`: WordPiece, byte-level BPE) if it agrees with the reference; "
        "the ids are the same",
        "auto",
    )
    scratch: str = option("folder or URL for tokens, kept for later builds of the same corpus", "data/scratch", metavar="URL")

    def __post_init__(self) -> None:
        check_types(self)
        if self.short_seq_prob is None:
            object.__setattr__(self, "short_seq_prob", RECIPES[self.pairing].short_seq_prob or 0.0)
        for name in ("short_seq_prob", "mask_prob", "mask_replace_prob", "random_replace_prob", "eval_fraction"):
            object.__setattr__(self, name, float(getattr(self, name)))  # 0 and 0.0 are one setting
        object.__setattr__(self, "corpus_weight", tuple(float(weight) for weight in self.corpus_weight))
        ranges = {
            "max_seq_len": (8, 65_535),
            "document_overlap": (0, 65_534),
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
        _ = self.trained_vocab_size
        if self.cased and self.trained_kind == "byte-level BPE":
            raise UserError(f"--cased has no effect with --tokenizer {self.tokenizer}, which keeps case; leave it out")
        if not all(self.corpus):
            raise UserError("--corpus has an empty name; set files, folders, globs or URLs")
        if not self.corpus:
            raise UserError("--corpus is empty; set at least one file, folder, glob or URL")
        self._check_places()

    def _check_recipe(self) -> None:
        if self.mask_replace_prob + self.random_replace_prob > 1.0 + 1e-9:
            raise UserError(
                f"--mask-replace-prob {self.mask_replace_prob} and --random-replace-prob {self.random_replace_prob} add up "
                "to more than 1"
            )
        if self.mask_unit == "span" and self.mask_prob > MAX_SPAN_PROB:
            raise UserError(f"--mask-prob is {self.mask_prob}, must be at most {MAX_SPAN_PROB} with --mask-unit span")
        if self.cross_documents and not RECIPES[self.pairing].crosses_documents:
            raise UserError(f"--cross-documents needs --pairing none; with {self.pairing}, a sequence comes from one document")
        if self.short_seq_prob and RECIPES[self.pairing].short_seq_prob is None:
            raise UserError(
                f"--short-seq-prob has no effect with --pairing {self.pairing}, which has no target length; leave it out"
            )
        self._check_documents()
        if self.corpus_weight and len(self.corpus_weight) != len(self.corpus):
            raise UserError(
                f"--corpus-weight has {len(self.corpus_weight)} weights for {len(self.corpus)} --corpus; set one per corpus"
            )
        for url, weight in zip(self.corpus, self.corpus_weight, strict=False):
            if not 0.0 < weight <= MAX_WEIGHT:
                raise UserError(
                    f"--corpus-weight {weight:g} of {url}: must be above 0 and at most {MAX_WEIGHT}; to leave a "
                    "corpus out, remove it from --corpus"
                )

    def _check_documents(self) -> None:
        keeps_text = RECIPES[self.pairing].keeps_text
        if self.document_overlap and not keeps_text:
            raise UserError(f"--document-overlap needs --pairing document; {self.pairing} cuts no documents into pieces")
        if self.document_overlap >= self.max_seq_len:
            raise UserError(
                f"--document-overlap is {self.document_overlap}, must be below --max-seq-len ({self.max_seq_len}) and its "
                "special tokens"
            )
        if self.sentences != "auto" and keeps_text:
            raise UserError(f"--sentences {self.sentences} has no effect with --pairing {self.pairing}; leave it out")

    def _check_places(self) -> None:
        for name in ("out", "scratch", "text_field", "tokenizer"):
            if not getattr(self, name):
                raise UserError(f"{flag(name)} is empty; set it, or leave it out")
            if getattr(self, name).startswith("memory://"):
                raise UserError(
                    f"{flag(name)} is {getattr(self, name)}, which other processes cannot see; use a folder or a bucket"
                )
        out, scratch = (_canonical(url) for url in (self.out, self.scratch))
        if out == scratch or out.startswith(f"{scratch}/") or scratch.startswith(f"{out}/"):
            raise UserError(
                f"--out ({self.out}) and --scratch ({self.scratch}) must not contain each other; choose another --scratch"
            )

    @property
    def trained_kind(self) -> VocabularyKind | None:
        """What `train:N` or `train-bpe:N` trains; None for an existing tokenizer."""
        return _TRAINED.get(self.tokenizer.partition(":")[0]) if ":" in self.tokenizer else None

    @property
    def trained_vocab_size(self) -> int | None:
        """N of `train:N` or `train-bpe:N`; None for an existing tokenizer."""
        if self.trained_kind is None:
            return None
        name, _, number = self.tokenizer.partition(":")
        least = 100 if self.trained_kind == "WordPiece" else 300
        if not number.isdecimal() or not least <= int(number) <= 1_000_000:
            raise UserError(f"--tokenizer is {self.tokenizer!r}, must be {name}:N with N from {least} to 1000000")
        return int(number)

    @property
    def rule(self) -> Rule:
        """What a document is."""
        return Rule(self.document, self.text_field, is_exact=RECIPES[self.pairing].keeps_text)

    @property
    def splitting(self) -> Splitting:
        """Where sentences end."""
        if RECIPES[self.pairing].keeps_text:
            return Splitting("whole", "")
        return Splitting(RECIPES[self.pairing].split_rule if self.sentences == "auto" else self.sentences, self.language)

    @property
    def row_capacity(self) -> int:
        """Maximum tokens per row."""
        return self.pack_to or self.max_seq_len

    def recipe(self, tokenizer: str) -> dict[str, Any]:
        """The settings that can change the output, without places. `tokenizer`: train:N, or the identity of an existing one."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NO_RECIPE}
        values["corpus_weight"] = list(self.corpus_weight)
        return values | {"tokenizer": tokenizer} | ({"cased": self.cased} if self.trained_kind == "WordPiece" else {})


def _canonical(url: str) -> str:
    return str(storage.local_path(url).resolve()) if storage.is_local(url) else url.rstrip("/")


def from_arguments(arguments: Mapping[str, Any]) -> Settings:
    """Settings from parsed flags, then `--config`, then the defaults. Raises UserError."""
    return Settings(**read_values(arguments, Settings))
