"""A data set of random ids, for measurements of the trainer where prep's packages are not installed.

    documents of lognormal length -> sequences with pairs -> packed rows -> masks -> shards, tokenizer, manifest

Lengths are those of encyclopedia articles: padded to 512, about half of the places are padding. Ids have the frequencies of
words (Zipf), so that rows of the embedding table get their gradients as they do from text.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prep.pairing.packing import pack
from shards import storage
from shards.dataset import open_data_set, publish_manifest
from shards.formats import FORMATS
from shards.manifest import Manifest, ShardInfo, Split, fingerprint
from shards.masking import Masking, mask_rows
from shards.randomness import Purpose, address
from shards.schema import Rows, columns_sha256, lengths_to_offsets, token_dtype

SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
ROW_TOKENS = 512
MASK_PROB = 0.15
GROUP_ROWS = 64
# Tokens of a document: the logarithm's mean and deviation; and how often a document is cut into shorter sequences.
_DOCUMENT = (np.log(300.0), 1.0)
_SHORT_SHARE = 0.1
_SENTENCE = 20  # tokens: no sequence is shorter


def random_lengths(num_tokens: int, longest: int, seed: int) -> npt.NDArray[np.int64]:
    """[S] lengths of sequences of at most `longest` tokens, special ones included; about `num_tokens` in all."""
    rng = np.random.default_rng(seed)
    documents = np.maximum(_SENTENCE, rng.lognormal(*_DOCUMENT, size=max(1, num_tokens // 400))).astype(np.int64)
    room = longest - 3
    is_short = rng.random(len(documents)) < _SHORT_SHARE
    target = np.where(is_short, rng.integers(_SENTENCE, room + 1, len(documents)), room)
    rest = documents % target
    parts = np.concatenate([np.repeat(target, documents // target), rest[rest >= _SENTENCE]])
    return rng.permutation(parts + 3)


def random_rows(num_rows: int, longest: int, vocab_size: int, seed: int) -> Rows:
    """`num_rows` packed rows of up to 512 tokens, unmasked. Sequences are `[CLS] A [SEP] B [SEP]`."""
    rng = np.random.default_rng(seed)
    lengths = random_lengths(2 * num_rows * ROW_TOKENS, longest, seed)
    order, row_starts = pack(lengths, ROW_TOKENS)
    rows = rng.permutation(len(row_starts) - 1)[:num_rows]
    if len(rows) < num_rows:
        raise ValueError(f"{len(rows)} rows were made, {num_rows} are needed")
    sequences = np.concatenate([order[row_starts[row] : row_starts[row + 1]] for row in rows])
    sequence_offsets = lengths_to_offsets(np.diff(row_starts)[rows])
    lengths = lengths[sequences]
    a_lengths = 2 + 1 + (rng.random(len(lengths)) * (lengths - 4)).astype(np.int64)  # at least a token in each segment
    starts = lengths_to_offsets(lengths)
    num_ordinary = vocab_size - len(SPECIAL_IDS)
    ids = len(SPECIAL_IDS) - 1 + np.exp(rng.random(int(starts[-1])) * np.log(num_ordinary)).astype(np.int64)
    ids[starts[:-1]] = SPECIAL_IDS["cls"]
    ids[starts[:-1] + a_lengths - 1] = ids[starts[1:] - 1] = SPECIAL_IDS["sep"]
    return Rows(
        token_offsets=starts[sequence_offsets],
        sequence_offsets=sequence_offsets,
        input_ids=ids.astype(token_dtype(vocab_size)),
        sequence_lengths=lengths.astype(np.uint16),
        segment_a_lengths=a_lengths.astype(np.uint16),
        next_sentence_label=rng.integers(0, 2, len(lengths)).astype(np.uint8),
    )


def masked(rows: Rows, vocab_size: int, seed: int) -> Rows:
    """The rows with 15 % of their tokens masked."""
    keys = address(seed, Purpose.MASK, np.arange(len(rows.sequence_lengths), dtype=np.uint64))
    return mask_rows(rows, keys, Masking(MASK_PROB, vocab_size, tuple(SPECIAL_IDS.values()), SPECIAL_IDS["mask"]))


def write_data_set(url: str, num_rows: int, longest: int, vocab_size: int, seed: int = 0) -> Manifest:
    """Writes a data set of `num_rows` rows to train on and 16 held out, and returns its manifest."""
    tokenizer = _write_tokenizer(url, vocab_size)
    splits = {}
    for name, count, draw in (("train", num_rows, seed), ("eval", 16, seed + 1)):
        rows = masked(random_rows(count, longest, vocab_size, draw), vocab_size, draw)
        splits[name] = Split((_write_shard(url, f"{name}/000000-0000", rows),))
    settings = {
        "format": "parquet",
        "masking": "static",
        "mask_prob": MASK_PROB,
        "mask_unit": "token",
        "mask_replace_prob": 0.8,
        "random_replace_prob": 0.1,
        "pairing": "nsp",
        "cross_documents": False,
        "copies": 1,
        "dedup": "none",
        "pack_to": ROW_TOKENS,
        "max_seq_len": longest,
        "seed": seed,
    }
    inputs = {"files": 0, "bytes": 0, "sha256": "0" * 64, "listed": []}
    manifest = Manifest(settings, tokenizer, inputs, splits, _empty_ledger(), {}, recipe_version=1)
    publish_manifest(url, manifest)
    return open_data_set(url)


def _write_shard(url: str, name: str, rows: Rows) -> ShardInfo:
    data, groups = FORMATS["parquet"].write(rows, GROUP_ROWS)
    path = name + FORMATS["parquet"].SUFFIX
    storage.publish(storage.join(url, path), data)
    assert rows.next_sentence_label is not None and rows.masked_offsets is not None
    return ShardInfo(
        path=path,
        bytes=len(data),
        sha256=sha256(data).hexdigest(),
        columns_sha256=columns_sha256(rows),
        rows=len(rows),
        sequences=len(rows.sequence_lengths),
        tokens=len(rows.input_ids),
        masked_tokens=int(rows.masked_offsets[-1]),
        not_next=int(rows.next_sentence_label.sum()),
        forced_not_next=0,
        max_row_tokens=int(np.diff(rows.token_offsets).max()),
        max_sequence_tokens=int(rows.sequence_lengths.max()),
        max_sequences_per_row=int(np.diff(rows.sequence_offsets).max()),
        max_masked_per_row=int(np.diff(rows.masked_offsets).max()),
        row_groups=tuple(groups),
    )


def _write_tokenizer(url: str, vocab_size: int) -> dict[str, Any]:
    """Writes a WordPiece tokenizer of words w5, w6, ..., and returns the manifest's entry for it."""
    names = {f"[{role.upper()}]": number for role, number in SPECIAL_IDS.items()}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": name, **flags} for name, number in names.items()],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": names | {f"w{number}": number for number in range(len(names), vocab_size)},
        },
    }
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": ROW_TOKENS}
    files = {"tokenizer_config.json": json.dumps(config).encode(), "tokenizer.json": json.dumps(definition).encode()}
    for name, data in files.items():
        storage.publish(storage.join(url, "tokenizer", name), data)
    cls, sep = SPECIAL_IDS["cls"], SPECIAL_IDS["sep"]
    single = {"prefix": [cls], "between": [], "suffix": [sep], "between_a": 0}
    return {
        "fingerprint": fingerprint(definition),
        "folder": "tokenizer",
        "files": {name: sha256(data).hexdigest() for name, data in files.items()},
        "model": "WordPiece",
        "vocab_size": vocab_size,
        "id_type": token_dtype(vocab_size).name,
        "special_ids": SPECIAL_IDS,
        "unused_ids": [],
        "templates": {"single": single, "pair": single | {"between": [sep], "between_a": 1}},
    }


def _empty_ledger() -> dict[str, Any]:
    """The ledger of no corpus."""
    counted = {"in": 0, "used": 0, "dropped": {}}
    texts = ("documents", "made", "placed", "truncated", "unpaired", "repeated")
    pairs = ("negatives", "redrawn", "dropped", "separators")
    return {
        "documents": counted,
        "bytes": counted,
        "sentences": 0,
        "tokens": 0,
        "unknown_tokens": 0,
        "pairs": {split: dict.fromkeys((*texts, *pairs), 0) for split in ("train", "eval")},
        "document_tokens_histogram": [],
        "sentence_tokens_histogram": [],
        "duplicates": {"sampled": 0, "different": 0, "dropped_tokens": 0},
        "corpora": [],
        "faults": [],
    }


def padding_share(manifest: Manifest, padded_to: int) -> float:
    """The share of padding where each sequence of the training split is padded to `padded_to` tokens."""
    totals = manifest.splits["train"].totals()
    return 1.0 - totals["tokens"] / (totals["sequences"] * padded_to)


def folder_of(parent: Path, longest: int) -> str:
    """Where a benchmark keeps the data set with sequences of that length."""
    return str(parent / f"data-{longest}")
