"""The stages of a build: they run tasks on an engine, or read the records of an earlier stage.

    tokenize    units -> (number, UnitRecord) as each is done           read_tokens   the sum of them, from records
    merge       merge tasks -> (number, MergeRecord) as each is done    read_merges   the same, from records
    pair        pair tasks -> (number, PairRecord) as each is done      read_pairs    the same, from records

What flows from stage to stage is returned, or read back from storage; nothing is kept here.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from prep.engines.engine import Engine, ResultT, TaskT, run_tasks
from prep.engines.local import cores
from prep.pairing.pair import find_pair, pair_partition
from prep.pairing.task import PAIR_STAGE, PairTask
from prep.progress import Progress, StageDisplay
from prep.records import MAX_LISTED_FAULTS, MergeRecord, PairRecord, TotalRecord, UnitRecord
from prep.tasks import Tokens
from prep.tokens.fast import installed_engine
from prep.tokens.merge import MERGE_STAGE, MergeTask, merge_units
from prep.tokens.sources import Sources, digest_of, load_sources, make_sources, publish_sources
from prep.tokens.store import LAST_PLACE
from prep.tokens.task import TOKENIZE_STAGE, TokenizeTask, TokenizeTasks
from prep.tokens.tokenize import tokenize_unit
from prep.tokens.tokenizer import PreparedTokenizer, is_saved, load_prepared
from prep.tokens.vocabulary import VocabularyTask, make_vocabulary
from shards import storage
from shards.command.console import say
from shards.errors import NotReadyError
from shards.manifest import fingerprint

RecordT = TypeVar("RecordT")
READERS = 16  # records that are read at once


def publish_tokenizer(scratch: str, tokenizer: PreparedTokenizer) -> str:
    """The folder in the scratch folder that workers load an existing tokenizer from."""
    url = storage.join(scratch, f"tokenizer-{tokenizer.identity[:32]}")
    if not is_saved(url):
        tokenizer.save(url)
    return url


def agree_on_engine(tokenizer_url: str, tokenizer: PreparedTokenizer, is_whole: bool) -> str:
    """The tokenizing engine of a build, which all its processes must share: it is in the key of the token store.

    A whole build takes the one that is installed. Of the processes of a stage, the first writes what it has beside the
    tokenizer, and the others read that.
    """
    installed = installed_engine(tokenizer.definition)
    if is_whole:
        return installed
    url = storage.join(tokenizer_url, "engine.txt")
    storage.publish(url, installed.encode(), first=True)
    return storage.read_bytes(url).decode()


def train_tokenizer(engine: Engine, task: VocabularyTask) -> str:
    """Trains the vocabulary, unless that is done; the folder of its tokenizer."""
    if not is_saved(task.url):
        say(f"vocabulary: training up to {task.size:,} entries")
        for _ in run_tasks(engine, make_vocabulary, [task]):
            entries = f"{load_prepared(task.url).vocab_size:,} entries"
            say(f"vocabulary: {entries}; if the corpus grows, --tokenizer {task.url} keeps its tokens")
    return task.url


def find_trained(task: VocabularyTask) -> str:
    """The folder of the trained tokenizer. Raises NotReadyError if it is not trained yet."""
    if not is_saved(task.url):
        raise NotReadyError(f"{task.url} is missing: the vocabulary is not trained yet; run --stage vocabulary first")
    return task.url


def tokenize(engine: Engine, tasks: TokenizeTasks) -> Generator[tuple[int, UnitRecord], None, None]:
    """Tokenizes the units: the number and the record of each as it is done."""
    if not tasks:
        return
    display = StageDisplay("tokenize", TOKENIZE_STAGE, tasks.bytes, engine.progress_folder)
    before = _sizes(tasks.store)
    for task, record in _displayed(engine, display, tokenize_unit, tasks):
        yield task.unit.number, record
        progress = Progress(task.unit.bytes, record.bytes, record.documents, record.tokens)
        display.finish(task.unit.number, progress, was_done=_name(task.record_url) in before)


def sum_units(tasks: TokenizeTasks, records: Iterable[tuple[int, UnitRecord]]) -> Tokens:
    """What the tokenize stage leaves, from the records of all units, which come in any order. Publishes the list of files."""
    total, faults = UnitRecord(), [list[dict[str, Any]]()] * len(tasks)
    files = [(0, 0)] * len(tasks)
    for number, record in records:
        files[number], faults[number] = (record.index_bits, record.stored_bytes), record.faults
        total.add(record)
    total.faults = [fault for unit in faults for fault in unit][:MAX_LISTED_FAULTS]
    total.extend_corpora(tasks.num_corpora)
    units = make_sources([(key, 0, LAST_PLACE, *file) for key, file in zip(tasks.keys, files, strict=True)])
    publish_sources(tasks.store, units)
    return Tokens(tasks.store, units, total)


def merge(engine: Engine, tasks: Sequence[MergeTask], total: UnitRecord) -> Generator[tuple[int, MergeRecord], None, None]:
    """Merges the units: the number and the record of each task as it is done. `total` is the sum of all units."""
    if not tasks:
        return
    bytes_per_stored = total.used_bytes / max(1, total.stored_bytes)
    display = StageDisplay("merge", MERGE_STAGE, total.stored_bytes, engine.progress_folder, bytes_per_stored)
    before = _sizes(tasks[0].store)
    for task, record in _displayed(engine, display, merge_units, tasks):
        yield task.number, record
        display.finish(task.number, Progress(record.bytes, 0, record.documents), was_done=_name(task.record_url) in before)


def merged_sources(tasks: Sequence[MergeTask], records: Mapping[int, MergeRecord]) -> Sources:
    """The list of the merged files, which is published."""
    files = ((task, records[task.number]) for task in tasks)
    sources = make_sources([(task.key, task.first, task.last, record.index_bits, record.bytes) for task, record in files])
    publish_sources(tasks[0].store, sources)
    return sources


def pair(engine: Engine, tasks: Sequence[PairTask], total: UnitRecord) -> Generator[tuple[int, PairRecord], None, None]:
    """Builds the shards: the number and the record of each task as it is done. `total` is the sum of all units."""
    if not tasks:
        return
    work = sum(_expected_tokens(task, total) for task in tasks)
    display = StageDisplay("pair", PAIR_STAGE, work, engine.progress_folder, total.used_bytes / max(1, total.tokens))
    before = _sizes(tasks[0].records)
    for task, record in _displayed(engine, display, pair_partition, tasks):
        yield task.number, record
        progress = Progress(record.tally.made, 0, record.documents, record.tally.made)
        display.finish(task.number, progress, was_done=_name(task.record_url) in before)


def _expected_tokens(task: PairTask, total: UnitRecord) -> int:
    """About the tokens of its documents; nearly none for a task that finds a few held-out documents among all others."""
    if task.split == "eval" and task.first < task.places.train_end:
        return 0
    return total.tokens * (task.last - task.first + 1) >> 64


def read_tokens(tasks: TokenizeTasks) -> Tokens:
    """What the tokenize stage left. The first process that finds all units done sums them up, the others read the sum.

    Raises NotReadyError if a unit is missing or damaged, or its tokens are missing.
    """
    sizes = _sizes(tasks.store)  # one listing in place of several requests per unit
    url = storage.join(tasks.store, f"total-{fingerprint(tasks.keys)[:32]}.json")
    if _name(url) in sizes:
        with suppress(ValueError, TypeError, KeyError, storage.StorageError):  # damaged, or of another release
            summed = TotalRecord.load(url)
            units = load_sources(storage.join(tasks.store, f"sources-{summed.sources}.bin"))
            files = zip(units["name"].tolist(), units["bytes"].tolist(), strict=True)
            if tasks[0].accepts(summed.total) and all(sizes.get(f"{name.decode()}.tokens") == size for name, size in files):
                return Tokens(tasks.store, units, summed.total)
    tokens = sum_units(tasks, _read_units(tasks, sizes))
    TotalRecord(tokens.total, digest_of(tokens.units)).publish(url)
    return tokens


def _read_units(tasks: TokenizeTasks, sizes: Mapping[str, int]) -> Iterator[tuple[int, UnitRecord]]:
    """The records of all units, in any order; `sizes` are those of the files in the store."""

    def read(task: TokenizeTask) -> UnitRecord | None:
        return _load(task.record_url, UnitRecord.load, sizes)

    missing = []
    with ThreadPoolExecutor(READERS) as readers:
        for task, record in run_tasks(Engine(readers, lambda: 2 * READERS, elsewhere=False), read, tasks):
            if record and task.accepts(record) and _all_present(sizes, task.files_of(record)):
                yield task.unit.number, record
            else:
                missing.append(task.unit.number)
    if missing:
        raise _not_ready("units", len(tasks), missing, tasks.store, "tokenize")


def read_merges(tasks: Sequence[MergeTask]) -> dict[int, MergeRecord]:
    """The records of all merge tasks. Raises NotReadyError if one is missing or damaged, or its file is missing."""
    sizes = _sizes(tasks[0].store)

    def read(task: MergeTask) -> MergeRecord | None:
        return _load(task.record_url, MergeRecord.load, sizes)

    with ThreadPoolExecutor(READERS) as readers:
        done = run_tasks(Engine(readers, lambda: 2 * READERS, elsewhere=False), read, tasks)
        records = {task.number: record for task, record in done if record and _all_present(sizes, task.files_of(record))}
    missing = [task.number for task in tasks if task.number not in records]
    if missing:
        raise _not_ready("merge tasks", len(tasks), missing, tasks[0].store, "merge")
    return records


def _load(url: str, load: Callable[[str], RecordT], sizes: Mapping[str, int]) -> RecordT | None:
    """The record at `url`; None if it is not listed, is damaged, or is of another release."""
    try:
        return load(url) if _name(url) in sizes else None
    except (ValueError, TypeError, KeyError):
        return None


def read_pairs(tasks: Sequence[PairTask]) -> list[PairRecord]:
    """The records of all pair tasks, in order. Raises NotReadyError if one is missing, or a shard is not what was written.

    Reads and hashes all shards, because other processes wrote them: nothing else looks at them before the manifest does.
    """
    records: dict[int, PairRecord] = {}
    with ThreadPoolExecutor(min(READERS, cores())) as readers:  # hashing leaves the interpreter's lock
        for task, record in run_tasks(Engine(readers, lambda: READERS, elsewhere=False), find_pair, tasks):
            if record:
                records[task.number] = record
    missing = [task.number for task in tasks if task.number not in records]
    if missing:
        raise _not_ready("pair tasks", len(tasks), missing, tasks[0].records, "pair")
    return [records[task.number] for task in tasks]


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _sizes(folder: str) -> dict[str, int]:
    """The bytes of each file in the folder, by its name."""
    return {_name(info.url): info.bytes for info in storage.list_files(folder)}


def _all_present(sizes: Mapping[str, int], files: Iterable[tuple[str, int]]) -> bool:
    return all(sizes.get(_name(url)) == num_bytes for url, num_bytes in files)


def _not_ready(what: str, num_tasks: int, missing: list[int], place: str, stage: str) -> NotReadyError:
    listed = ", ".join(map(str, sorted(missing)[:5])) + (" and more" if len(missing) > 5 else "")
    return NotReadyError(
        f"{place}: {len(missing)} of {num_tasks} {what} are not done yet ({listed}); finish --stage {stage}, where task i "
        "belongs to --task-shard I/N with i % N == I"
    )


def _displayed(
    engine: Engine, display: StageDisplay, function: Callable[[TaskT], ResultT], tasks: Sequence[TaskT]
) -> Iterator[tuple[TaskT, ResultT]]:
    """Each task with its result as it is done, under a display of the stage."""
    try:
        yield from run_tasks(engine, function, tasks, display.show)
    finally:
        display.close()
