"""Data sets written without prep, with any shard sizes, for tests of what reads them."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from rows_of_ids import SPECIAL, VOCAB_SIZE, keys_of, make_rows, masking

from prep.tokens.tokenizer import PreparedTokenizer, prepare, wordpiece
from shards import storage
from shards.dataset import publish_manifest
from shards.formats import FORMATS
from shards.manifest import Manifest, ShardInfo, Split
from shards.masking import mask_rows
from shards.schema import Rows, columns_sha256

MAX_SEQ_LEN = 32
ROW_TOKENS = 64
INPUTS = {"files": 0, "bytes": 0, "sha256": "0" * 64, "listed": []}
_TALLY = dict.fromkeys(
    ("documents", "made", "placed", "truncated", "unpaired", "negatives", "redrawn", "dropped", "separators", "repeated"), 0
)
# Of no corpus: these data sets are made of random rows.
LEDGER = {
    "documents": {"in": 0, "used": 0, "dropped": {}},
    "bytes": {"in": 0, "used": 0, "dropped": {}},
    "sentences": 0,
    "tokens": 0,
    "unknown_tokens": 0,
    "pairs": {"train": _TALLY, "eval": _TALLY},
    "document_tokens_histogram": [],
    "sentence_tokens_histogram": [],
    "duplicates": {"sampled": 0, "different": 0, "dropped_tokens": 0},
    "corpora": [],
    "faults": [],
}


def tokenizer() -> PreparedTokenizer:
    names = {f"[{name.upper()}]": number for name, number in SPECIAL.items()}
    words = {f"w{number}": number for number in range(len(names), VOCAB_SIZE)}
    return prepare(wordpiece(names | words, lowercase=True), {}, "test")


def random_rows(count: int, seed: int, packed: bool = True) -> Rows:
    """`count` rows of 1 to 4 sequences of uneven lengths (one where not packed); about half of the pairs are not next."""
    rng = np.random.default_rng(seed)
    sequences, sizes = [], []
    for _ in range(count):
        left, size = ROW_TOKENS, 0
        for _ in range(rng.integers(1, 5) if packed else 1):
            length = int(rng.integers(5, MAX_SEQ_LEN + 1))
            if length > left:
                break
            sequences.append(rng.integers(len(SPECIAL), VOCAB_SIZE, length - 3).tolist())
            left, size = left - length, size + 1
        sizes.append(size)
    rows = make_rows(sequences, sizes)
    return replace(rows, next_sentence_label=rng.integers(0, 2, len(sequences)).astype(np.uint8))


def write_data_set(
    url: Path | str,
    shard_rows: Sequence[int] = (40, 7, 25),
    *,
    format: str = "parquet",
    group_rows: int = 16,
    masked: bool = True,
    packed: bool = True,
    pairs: bool = True,
    seed: int = 0,
) -> Manifest:
    """A data set of random rows, a shard a number; 11 rows are held out. Returns its manifest."""
    prepared = tokenizer()
    prepared.save(storage.join(str(url), "tokenizer"))
    splits = {}
    for name, counts in (("train", shard_rows), ("eval", (11,))):
        shards = []
        for number, count in enumerate(counts):
            rows = random_rows(count, seed + 1000 * number + (name == "eval"), packed)
            rows = rows if pairs else replace(rows, next_sentence_label=None)
            if masked or name == "eval":
                rows = mask_rows(rows, keys_of(rows, seed + number), masking())
            shards.append(_write_shard(str(url), f"{name}/{number:06d}-0000", rows, format, group_rows))
        splits[name] = Split(tuple(shards))
    settings = {
        "format": format,
        "masking": "static" if masked else "dynamic",
        "mask_prob": 0.15,
        "mask_unit": "token",
        "mask_replace_prob": 0.8,
        "random_replace_prob": 0.1,
        "pairing": "nsp" if pairs else "none",
        "cross_documents": False,
        "copies": 1,
        "dedup": "none",
        "pack_to": ROW_TOKENS if packed else 0,
        "max_seq_len": MAX_SEQ_LEN,
        "seed": seed,
    }
    manifest = Manifest(settings, prepared.describe(), INPUTS, splits, LEDGER, {}, recipe_version=1)
    publish_manifest(str(url), manifest)
    return manifest


def _write_shard(url: str, name: str, rows: Rows, format: str, group_rows: int) -> ShardInfo:
    data, groups = FORMATS[format].write(rows, group_rows)
    path = name + FORMATS[format].SUFFIX
    storage.publish(storage.join(url, path), data)
    masked = np.diff(rows.masked_offsets) if rows.masked_offsets is not None else np.zeros(1, np.int64)
    return ShardInfo(
        path=path,
        bytes=len(data),
        sha256=sha256(data).hexdigest(),
        columns_sha256=columns_sha256(rows),
        rows=len(rows),
        sequences=len(rows.sequence_lengths),
        tokens=len(rows.input_ids),
        masked_tokens=int(masked.sum()),
        not_next=int(rows.next_sentence_label.sum()) if rows.next_sentence_label is not None else 0,
        forced_not_next=0,
        max_row_tokens=int(np.diff(rows.token_offsets).max()),
        max_sequence_tokens=int(rows.sequence_lengths.max()),
        max_sequences_per_row=int(np.diff(rows.sequence_offsets).max()),
        max_masked_per_row=int(masked.max()),
        row_groups=tuple(groups),
    )
