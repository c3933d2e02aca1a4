"""What benchmarks.reader measures, a reader a process: ours, and others as their own documentation uses them.

    python -m benchmarks.peers version|convert|read READER SOURCE

Imports are inside the functions, because the interpreter that has LitData or MosaicML Streaming need have nothing of ours but
this file and numpy. SOURCE is a data set for ours; for the others a folder of shards, or of `sequences.npz` and what
`convert` made of it. Each prints one line of JSON.

All deliver in shuffled order, every column as an array; ours verifies what it reads. Only ours and those that read our shards
deliver packed rows; LitData and MosaicML Streaming deliver a sequence at a time.
"""

import argparse
import gc
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

# The sequences and tokens that a reader delivers at once.
Counts = tuple[int, int]
# Makes a reader. Each call of the function that it returns reads the data once, from the start.
Open = Callable[[Path], Callable[[], Iterable[Counts]]]
SPLIT, SEED = "train", 0
GLOBAL_BATCH, MICRO_BATCH, THREADS = 256, 32, 2
SHUFFLE_BUFFER = 1000
CHUNK_BYTES = 1 << 26
WARM_UP_SEQUENCES = 2000


def open_rows(source: Path) -> Callable[[], Iterator[Counts]]:
    """Ours: rows in the order of training."""
    from shards.dataset import open_data_set
    from train.data.order import Order, RowGroups
    from train.data.phase_order import PhaseOrder
    from train.data.reader import RankSlice, read_steps
    from train.data.row_groups import DecodedGroups

    manifest = open_data_set(str(source))
    order = Order(RowGroups.of(manifest.splits[SPLIT]), SEED, GLOBAL_BATCH, MICRO_BATCH)

    def read() -> Iterator[Counts]:
        groups = DecodedGroups(str(source), manifest, SPLIT, THREADS)
        try:
            rank_slice = RankSlice(rank=0, world_size=1, first_step=0, start=0, end=order.groups.num_rows)
            for given in read_steps(groups, PhaseOrder.of_one(order), rank_slice):
                yield len(given.rows.sequence_lengths), len(given.rows.input_ids)
        finally:
            groups.close()

    return read


def open_batches(source: Path) -> Callable[[], Iterator[Counts]]:
    """Ours: batches of tensors, ready for the model."""
    from train.stream import ShardStream

    def read() -> Iterator[Counts]:
        stream: Any = ShardStream(str(source), global_batch=GLOBAL_BATCH, micro_batch=MICRO_BATCH, packed=True)
        return ((batch.pairs, batch.tokens) for batch in stream)

    return read


def open_datasets_streaming(source: Path) -> Callable[[], Iterator[Counts]]:
    """Hugging Face datasets, streaming."""
    import datasets  # type: ignore[import-untyped]

    files = sorted(str(path) for path in source.glob("*.parquet"))
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # else 5 s at the end of a pass, which weigh little on a long one
    rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    shuffled = rows.shuffle(seed=SEED, buffer_size=SHUFFLE_BUFFER).with_format("numpy")
    return lambda: _counts(shuffled)


def open_datasets_map(source: Path) -> Callable[[], Iterator[Counts]]:
    """Hugging Face datasets, map-style: memory-mapped Arrow, which `convert` makes."""
    import datasets

    files = sorted(str(path) for path in source.glob("*.parquet"))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(source / "arrow"))
    shuffled = rows.shuffle(seed=SEED).with_format("numpy")
    return lambda: _counts(shuffled)


def open_webdataset(source: Path) -> Callable[[], Iterator[Counts]]:
    """WebDataset."""
    import webdataset  # type: ignore[import-untyped]

    files = sorted(str(path) for path in source.glob("*.tar.gz"))
    samples = webdataset.WebDataset(files, shardshuffle=len(files), seed=SEED).shuffle(SHUFFLE_BUFFER).decode()
    return lambda: _counts(dict(sample["npz"]) for sample in samples)  # an archive reads a column when it is asked for


def _counts(rows: Iterable[Any]) -> Iterator[Counts]:
    return ((len(row["sequence_lengths"]), len(row["input_ids"])) for row in rows)


def open_litdata(source: Path) -> Callable[[], Iterator[Counts]]:
    """LitData."""
    import litdata  # type: ignore[import-not-found]

    samples = litdata.StreamingDataset(str(source / "litdata"), shuffle=True, seed=SEED)
    return lambda: ((1, len(sample["input_ids"])) for sample in samples)


def open_mosaic(source: Path) -> Callable[[], Iterator[Counts]]:
    """MosaicML Streaming."""
    import streaming  # type: ignore[import-not-found]

    samples = streaming.StreamingDataset(local=str(source / "mds"), shuffle=True, batch_size=MICRO_BATCH)
    return lambda: ((1, len(sample["input_ids"])) for sample in samples)


class Sample:
    """The sequences of `sequences.npz`; LitData sends them to a process of its own."""

    def __init__(self, source: Path) -> None:
        import numpy as np

        with np.load(source / "sequences.npz") as columns:
            self._columns = {name: columns[name] for name in columns}
        self._starts = np.concatenate([[0], np.cumsum(self._columns["lengths"], dtype=np.int64)])
        self._masked = np.concatenate([[0], np.cumsum(self._columns["masked_counts"], dtype=np.int64)])

    def __len__(self) -> int:
        return len(self._columns["lengths"])

    def __call__(self, i: int) -> dict[str, Any]:
        """A sequence by its number, as a dict of small arrays."""
        tokens, masked = slice(*self._starts[i : i + 2].tolist()), slice(*self._masked[i : i + 2].tolist())
        columns = self._columns
        return {
            "input_ids": columns["input_ids"][tokens],
            "masked_positions": columns["masked_positions"][masked],
            "masked_labels": columns["masked_labels"][masked],
            "segment_a_length": int(columns["segment_a_lengths"][i]),
            "next_sentence_label": int(columns["next_sentence_label"][i]),
        }


def convert_datasets(source: Path) -> None:
    """Parquet to Arrow."""
    open_datasets_map(source)


def convert_litdata(source: Path) -> None:
    """Sequences to LitData's chunks."""
    import litdata

    sample = Sample(source)
    litdata.optimize(sample, list(range(len(sample))), str(source / "litdata"), chunk_bytes=CHUNK_BYTES, num_workers=1)


def convert_mosaic(source: Path) -> None:
    """Sequences to MDS."""
    import streaming

    arrays = dict.fromkeys(("input_ids", "masked_positions", "masked_labels"), "ndarray:uint16")
    columns = arrays | dict.fromkeys(("segment_a_length", "next_sentence_label"), "int")
    sample = Sample(source)
    with streaming.MDSWriter(out=str(source / "mds"), columns=columns, size_limit=CHUNK_BYTES) as writer:
        for i in range(len(sample)):
            writer.write(sample(i))


class Reader(NamedTuple):
    """How one reader is set up and read."""

    package: str | None  # None: ours
    open: Open
    convert: Callable[[Path], None] | None = None


READERS = {
    "rows": Reader(None, open_rows),
    "batches": Reader(None, open_batches),
    "datasets-streaming": Reader("datasets", open_datasets_streaming),
    "datasets-map": Reader("datasets", open_datasets_map, convert_datasets),
    "webdataset": Reader("webdataset", open_webdataset),
    "litdata": Reader("litdata", open_litdata, convert_litdata),
    "mosaic": Reader("mosaicml-streaming", open_mosaic, convert_mosaic),
}


def version_of(package: str) -> str | None:
    """What is installed here."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read(reader: Reader, source: Path) -> dict[str, float]:
    """Reads all once, on one core, and says how long it took, after the first sequences of a reading that is given up."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before there are threads
    start = reader.open(source)
    warm_up = iter(start())
    seen = 0
    while seen < WARM_UP_SEQUENCES:
        seen += next(warm_up)[0]
    del warm_up
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    sequences = tokens = 0
    for more_sequences, more_tokens in start():
        sequences += more_sequences
        tokens += more_tokens
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"sequences": sequences, "tokens": tokens, "wall_s": wall, "cpu_s": cpu}


def main() -> None:
    """Does one thing with one reader."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="One reader of benchmarks.reader.")
    parser.add_argument("action", choices=("version", "convert", "read"))
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("source", type=Path)
    arguments = parser.parse_args()
    reader = READERS[arguments.reader]
    result: Any = None
    if arguments.action == "version" and reader.package:
        result = version_of(reader.package)
    elif arguments.action == "convert" and reader.convert:
        reader.convert(arguments.source)
    elif arguments.action == "read":
        result = read(reader, arguments.source)
    print(f"\n{json.dumps(result)}", flush=True)
    os._exit(0)  # others' threads and processes may not end by themselves


if __name__ == "__main__":
    main()
