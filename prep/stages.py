"""The stages of a build: whose tasks run over the engine, and what one stage has to find done by those before it.

What flows from stage to stage is returned, or read back from storage; nothing is kept here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from prep.engines.engine import Engine, ResultT, TaskT, run_tasks
from prep.pairing.pair import PAIR_STAGE, PairTask, pair_partition
from prep.plan import Plan
from prep.progress import Progress, StageDisplay
from prep.records import MAX_LISTED_FAULTS, PairRecord, UnitRecord
from prep.settings import Settings
from prep.task_shard import TaskShard
from prep.tasks import vocabulary_task
from prep.tokens.tokenize import TOKENIZE_STAGE, TokenizeTask, tokenize_unit
from prep.tokens.tokenizer import PreparedTokenizer, is_saved, load_prepared
from prep.tokens.vocabulary import make_vocabulary
from shards import storage
from shards.command.console import say
from shards.errors import NotReadyError
from shards.manifest import SPLITS

READERS = 16
"""Records that are read at once."""


@dataclass(frozen=True)
class Job:
    """What one command works with: the whole plan, its shard of the tasks, and where these run."""

    settings: Settings
    plan: Plan
    shard: TaskShard
    engine: Engine
    progress_folder: str


def publish_tokenizer(scratch: str, given: PreparedTokenizer) -> str:
    """The folder in the scratch folder that workers load a given tokenizer from."""
    url = storage.join(scratch, f"tokenizer-{given.identity[:32]}")
    if not is_saved(url):
        given.save(url)
    return url


def train_tokenizer(job: Job) -> str:
    """Trains the vocabulary, unless it is there; the folder of its tokenizer."""
    task = vocabulary_task(job.settings, job.plan)
    if not is_saved(task.url):
        say(f"vocabulary: training up to {task.size:,} entries")
        for _ in run_tasks(job.engine, make_vocabulary, [task]):
            say(f"vocabulary: {load_prepared(task.url).vocab_size:,} entries")
    return task.url


def find_trained(settings: Settings, plan: Plan) -> str:
    """The folder of the trained tokenizer. Raises NotReadyError where it is not trained yet."""
    url = vocabulary_task(settings, plan).url
    if not is_saved(url):
        raise NotReadyError(f"{url} is missing: the vocabulary is not trained yet; run --stage vocabulary first")
    return url


def tokenize(job: Job, tasks: Sequence[TokenizeTask]) -> Iterator[tuple[int, UnitRecord]]:
    """Tokenizes this shard's units: the number and the record of each as it is done."""
    mine = job.shard.of(tasks)
    display = StageDisplay("tokenize", TOKENIZE_STAGE, sum(task.unit.bytes for task in mine), job.progress_folder)
    done = {info.url.rpartition("/")[2] for info in storage.list_files(tasks[0].store)}
    for task, record in _shown(job, display, tokenize_unit, mine):
        yield task.unit.number, record
        progress = Progress(task.unit.bytes, record.bytes, record.documents, record.tokens)
        display.finish(task.unit.number, progress, was_done=task.record_url.rpartition("/")[2] in done)


def sum_units(num_units: int, records: Iterable[tuple[int, UnitRecord]]) -> tuple[tuple[int, ...], UnitRecord]:
    """How many segments each unit has in the token store, and the sum of all; `records` in any order."""
    total, segments, faults = UnitRecord(), [0] * num_units, [list[dict[str, Any]]()] * num_units
    for number, record in records:
        segments[number], faults[number] = len(record.segments), record.faults
        total.add(record)
    total.faults = [fault for unit in faults for fault in unit][:MAX_LISTED_FAULTS]
    return tuple(segments), total


def pair(job: Job, tasks: Sequence[PairTask], total: UnitRecord) -> Iterator[tuple[int, PairRecord]]:
    """Builds the shards of this shard's tasks: the number and the record of each as it is done."""
    mine = job.shard.of(tasks)
    work = sum(_expected_tokens(task, job.plan, total) for task in mine)
    display = StageDisplay("pair", PAIR_STAGE, work, job.progress_folder, total.used_bytes / max(1, total.tokens))
    done = {info.url.rpartition("/")[2] for info in storage.list_files(tasks[0].records)}
    for task, record in _shown(job, display, pair_partition, mine):
        yield task.number, record
        progress = Progress(record.tally.made, 0, record.documents, record.tally.made)
        display.finish(task.number, progress, was_done=task.record_url.rpartition("/")[2] in done)


def _expected_tokens(task: PairTask, plan: Plan, total: UnitRecord) -> int:
    """Few, where the documents held out lie among the others."""
    if task.split == "eval" and task.first_bucket < plan.num_partitions:
        return 0
    return sum(total.bucket_tokens[task.first_bucket : task.last_bucket]) // task.num_key_ranges


def read_units(tasks: Sequence[TokenizeTask]) -> Iterator[tuple[int, UnitRecord]]:
    """The records of all units, in any order. Raises NotReadyError when one is missing, or tokens that it speaks of."""
    files = {info.url.rpartition("/")[2]: info.bytes for info in storage.list_files(tasks[0].store)}
    missing = []
    for task, record in _read(tasks, files, UnitRecord.load):
        if record and task.accepts(record) and _all_there(files, task.segments_of(record)):
            yield task.unit.number, record
        else:
            missing.append(task.unit.number)
    if missing:
        raise _not_ready("units", len(tasks), missing, tasks[0].store, "tokenize")


def read_pair_records(tasks: Sequence[PairTask]) -> list[PairRecord]:
    """The records of all pair tasks, in order. Raises NotReadyError if one is missing, or a shard that it names."""
    records = {info.url.rpartition("/")[2]: info.bytes for info in storage.list_files(tasks[0].records)}
    shards = shard_sizes(tasks[0].out)
    found: dict[int, PairRecord] = {}
    for task, record in _read(tasks, records, PairRecord.load):
        if record and _all_there(shards, task.shards_of(record)):
            found[task.number] = record
    missing = [task.number for task in tasks if task.number not in found]
    if missing:
        raise _not_ready("pair tasks", len(tasks), missing, tasks[0].records, "pair")
    return [found[task.number] for task in tasks]


def shard_sizes(out: str) -> dict[str, int]:
    """The shards that this process sees: the bytes of each by its name."""
    return {
        info.url.rpartition("/")[2]: info.bytes for split in SPLITS for info in storage.list_files(storage.join(out, split))
    }


def _all_there(files: dict[str, int], wanted: Iterable[tuple[str, int]]) -> bool:
    return all(files.get(url.rpartition("/")[2]) == num_bytes for url, num_bytes in wanted)


def _not_ready(what: str, num_all: int, missing: list[int], place: str, stage: str) -> NotReadyError:
    listed = ", ".join(map(str, sorted(missing)[:5])) + (" and more" if len(missing) > 5 else "")
    return NotReadyError(
        f"{place}: {len(missing)} of {num_all} {what} are not done yet ({listed}); finish --stage {stage}, whose shard I/N "
        "does those that leave I when divided by N"
    )


class _RecordedTask(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def record_url(self) -> str: ...


RecordedTaskT = TypeVar("RecordedTaskT", bound=_RecordedTask)


def _read(
    tasks: Sequence[RecordedTaskT], files: dict[str, int], load: Callable[[str], ResultT]
) -> Iterator[tuple[RecordedTaskT, ResultT | None]]:
    """Each task with its record, or None where there is none or it is damaged; in any order, a bounded number at once."""

    def read(task: RecordedTaskT) -> ResultT | None:
        try:
            return load(task.record_url) if task.record_url.rpartition("/")[2] in files else None
        except (ValueError, TypeError, KeyError):
            return None

    with ThreadPoolExecutor(READERS) as readers:
        yield from run_tasks(Engine(readers, lambda: 2 * READERS, elsewhere=False), read, tasks)


def _shown(
    job: Job, display: StageDisplay, function: Callable[[TaskT], ResultT], tasks: Sequence[TaskT]
) -> Iterator[tuple[TaskT, ResultT]]:
    """Each task with its result as it comes, under a display of the stage."""
    try:
        yield from run_tasks(job.engine, function, tasks, display.show)
    finally:
        display.close()
