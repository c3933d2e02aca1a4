"""What a build is asked for: one frozen dataclass, checked once, from flags over a TOML file over the defaults.

A field's metadata holds its help. `recipe()` has the fields that can change the output; the rest say where and how fast.
"""

import argparse
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from shards import storage
from shards.errors import UserError

_BYTES = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def _option(help: str, default: Any = MISSING, choices: Sequence[str] | None = None, metavar: str | None = None) -> Any:
    metadata = {"help": help, "choices": choices, "metavar": metavar}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """The settings of one build. Raises UserError for a value that makes no sense."""

    corpus: tuple[str, ...] = _option(
        "files, folders, globs or fsspec URLs of plain text, JSON lines (.jsonl) or Parquet; the first two also as .gz, .zst",
        metavar="URL",
    )
    out: str = _option("folder or URL of the data set to make", metavar="URL")
    tokenizer: str = _option(
        "hub name, folder, tokenizer.json, vocab.txt, or train:N: a WordPiece vocabulary of up to N entries made of the corpus",
        "train:8192",
        metavar="NAME|PATH|train:N",
    )
    cased: bool = _option("keep upper case: for train:N, and for a bare vocab.txt, which does not say", False)
    input: str = _option("format of the inputs; auto goes by their names", "auto", ("auto", "text", "jsonl", "parquet"))
    document: str = _option("where the documents of a plain text end", "line", ("line", "blank-line", "file"))
    text_field: str = _option("the field or column that holds the text, in JSON lines and Parquet", "text", metavar="NAME")
    language: str = _option(
        "language of the text, for splitting sentences (ISO 639 code); English rules where there are none for it",
        "en",
        metavar="CODE",
    )
    max_seq_len: int = _option("most tokens of a sequence, special tokens counted", 128, metavar="TOKENS")
    short_seq_prob: float = _option("probability that the pairs of a document aim at a random shorter length", 0.1, metavar="P")
    copies: int = _option("different pairings and maskings of the whole corpus", 1, metavar="N")
    masking: str = _option("masks in the shards, or drawn anew by the reader in each epoch", "static", ("static", "dynamic"))
    mask_prob: float = _option("share of a sequence's tokens that is selected for prediction", 0.15, metavar="P")
    pack_to: int = _option("tokens of a row, filled with whole sequences; 0: one sequence a row", 512, metavar="TOKENS")
    format: str = _option("file format of the shards", "parquet", ("parquet", "webdataset"))
    shard_bytes: int = _option(
        "size that a shard does not pass, about; smaller where a partition holds less", 64 << 20, metavar="BYTES"
    )
    eval_fraction: float = _option("share of the documents held out (at least 8 of them; 0: none)", 0.01, metavar="P")
    on_error: str = _option(
        "a broken or empty document ends the build, or is left out and counted; over 64 MB it always is",
        "stop",
        ("stop", "skip"),
    )
    seed: int = _option("seed of every random draw", 0, metavar="N")
    workers: int = _option("number of processes", os.cpu_count() or 1, metavar="N")
    tokenizer_engine: str = _option(
        "auto takes the fast WordPiece (the extra `fast`) where it agrees with the reference; the output is the same",
        "auto",
        ("auto", "reference"),
    )
    scratch: str = _option("folder or URL for tokens, kept for later builds of the same corpus", "data/scratch", metavar="URL")

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("short_seq_prob", "mask_prob", "eval_fraction"):
            object.__setattr__(self, name, float(getattr(self, name)))  # 0 and 0.0 are one setting
        for name, low, high in (
            ("max_seq_len", 8, 65_535),
            ("copies", 1, 1_000),
            ("pack_to", 0, 65_535),
            ("shard_bytes", 1 << 16, 1 << 40),
            ("seed", 0, 2**63 - 1),
            ("workers", 1, 4_096),
            ("short_seq_prob", 0.0, 1.0),
            ("eval_fraction", 0.0, 0.5),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{_flag(name)} is {getattr(self, name)}, must be from {low} to {high}")
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
                raise UserError(f"{_flag(name)} is empty")
            if getattr(self, name).startswith("memory://"):
                raise UserError(
                    f"{_flag(name)} is {getattr(self, name)}, which other processes cannot see; use a folder or a bucket"
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
        left_out = {"corpus", "out", "workers", "tokenizer_engine", "scratch", "tokenizer", "cased"}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        return values | {"tokenizer": tokenizer} | ({"cased": self.cased} if self.trained_vocab_size else {})


def _canonical(url: str) -> str:
    return str(storage.local_path(url).resolve()) if storage.is_local(url) else url.rstrip("/")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_types(settings: Settings) -> None:
    for f in fields(settings):
        value, choices = getattr(settings, f.name), f.metadata["choices"]
        if choices and value not in choices:
            raise UserError(f"{_flag(f.name)} is {value!r}, must be one of {', '.join(choices)}")
        kind = f.type if isinstance(f.type, type) else tuple
        fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
        if "\0" in (value if isinstance(value, str) else "".join(map(str, value)) if isinstance(value, tuple) else ""):
            raise UserError(f"{_flag(f.name)} is {value!r}: no name has a NUL in it")
        if not fits or (kind is tuple and not all(isinstance(part, str) for part in value)):
            raise UserError(
                f"{_flag(f.name)} is {value!r}, must be {'a list of texts' if kind is tuple else f'of type {kind.__name__}'}"
            )


def parse_bytes(text: str) -> int:
    """Bytes from text such as 64MB, 1.5GiB or 4096; the units are powers of 1024."""
    match = _BYTES.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write for example 64MB or 1GB")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for every field, absent from the result where not given."""
    for f in fields(Settings):
        add: dict[str, Any] = {"help": _help(f), "default": argparse.SUPPRESS}
        if f.type is bool:
            parser.add_argument(_flag(f.name), action="store_true", **add)
            continue
        add |= {name: f.metadata[name] for name in ("metavar", "choices")}
        if f.name == "corpus":
            add |= {"nargs": "+"}
        elif f.name == "shard_bytes":
            add |= {"type": parse_bytes}
        elif isinstance(f.type, type):
            add |= {"type": f.type}
        parser.add_argument(_flag(f.name), **add)
    parser.add_argument("--config", metavar="FILE.toml", help="settings as `name = value` lines; flags win over them")


def _help(f: Field[Any]) -> str:
    text = str(f.metadata["help"]).replace("%", "%%")
    if f.default is MISSING or f.type is bool:
        return text
    default = "64MB" if f.name == "shard_bytes" else "the cores" if f.name == "workers" else f.default
    return f"{text} (default: {default})"


def from_arguments(arguments: Mapping[str, Any]) -> Settings:
    """Settings from parsed flags over `--config` over the defaults. Raises UserError."""
    names = {f.name for f in fields(Settings)}
    values = _read_config(arguments["config"], names) if arguments.get("config") else {}
    values |= {name: value for name, value in arguments.items() if name in names}
    for name in ("corpus", "out"):
        if name not in values:
            raise UserError(f"{_flag(name)} is missing")
    corpus = values["corpus"]
    values["corpus"] = (corpus,) if isinstance(corpus, str) else tuple(corpus) if isinstance(corpus, list) else corpus
    return Settings(**values)


def _read_config(path: str, names: set[str]) -> dict[str, Any]:
    try:
        values = tomllib.loads(storage.read_bytes(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from error
    values = {name.replace("-", "_"): value for name, value in values.items()}
    unknown = sorted(set(values) - names)
    if unknown:
        raise UserError(f"{path}: unknown setting {unknown[0]!r}; there are {', '.join(sorted(names))}")
    if isinstance(values.get("shard_bytes"), str):
        try:
            values["shard_bytes"] = parse_bytes(values["shard_bytes"])
        except argparse.ArgumentTypeError as error:
            raise UserError(f"{path}: shard_bytes: {error}") from error
    return values
