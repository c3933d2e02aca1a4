"""`prep build`: vocabulary -> tokenize -> (merge ->) pair -> commit. Finished work is kept. The manifest is written last.

build_all     the whole build: every stage, one after the other
run_stage     one stage, or one part of it, of many processes that share the work
commit_only   the last stage: it checks that all others are done, and needs no workers
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from prep import output, stages
from prep.engines.engine import Engine
from prep.engines.open import open_engine
from prep.job import Job, make_job
from prep.settings import Settings
from prep.tasks import (
    TaskPart,
    find_task_part,
    merge_tasks,
    pair_documents,
    pair_tasks,
    tokenize_tasks,
    vocabulary_task,
)
from prep.tokens import scratch
from prep.tokens.encoder import resolve_engine
from prep.tokens.fast import REFERENCE, installed_engine
from prep.tokens.task import TokenizeTasks
from prep.tokens.tokenize import load_encoder
from prep.tokens.tokenizer import PreparedTokenizer, load_prepared
from shards import storage
from shards.command.console import say
from shards.errors import NotReadyError, UserError
from shards.manifest import Manifest


def build(settings: Settings) -> Manifest | None:
    """Runs the whole build or the stage in the settings. Resumes a build that was stopped.

    Returns the manifest if this call finished the data set; None if it was finished before or is not finished yet.
    Raises NotReadyError if an earlier stage is not done.
    """
    part = find_task_part(settings.stage, settings.task_shard, os.environ)
    job = make_job(settings)
    finished = job.finished()
    if finished:
        _leave_as_it_is(job, finished)
        return None
    for path in output.lost_files(job.settings.out)[:1]:
        say(f"note: {job.settings.out} was finished, but {path} is missing or has another size; its shards are made again")
    if settings.stage == "all":
        return build_all(job)
    if settings.stage == "commit":
        return commit_only(job, part)
    run_stage(job, part)
    return None


def build_all(job: Job) -> Manifest | None:
    """Runs all stages. Returns None if another process finished the same build meanwhile."""
    settings, out = job.settings, job.settings.out
    with (
        open_engine(settings.engine, settings.workers) as engine,
        output.claimed(out, job.recipe, job.plan.inputs) as finished,
        scratch.in_use(settings.scratch),
    ):
        if finished:
            return None
        url, tokenizer = _make_tokenizer(job, engine)
        is_auto = settings.tokenizer_engine == "auto"
        engine.prepare(load_encoder, url, installed_engine(tokenizer.definition) if is_auto else REFERENCE)
        units = _units(job, url, tokenizer)
        with closing(stages.tokenize(engine, units)) as unit_records:
            tokens = stages.sum_units(units, unit_records)
        documents = pair_documents(settings, job.plan, tokens.total)
        merging = merge_tasks(settings, job.plan, tokens, len(documents), tokenizer)
        with closing(stages.merge(engine, merging, tokens.total)) as merge_records:
            merged = dict(merge_records)
        sources = stages.merged_sources(merging, merged) if merging else tokens.units
        tasks = pair_tasks(settings, documents, tokens, sources, tokenizer)
        with closing(stages.pair(engine, tasks, tokens.total)) as pair_records:
            records = dict(pair_records)
        if engine.elsewhere:
            _check_visible("--out", out, out, (file for task in tasks for file in task.shards_of(records[task.number])))
        ordered = [records[task.number] for task in tasks]
        return output.commit(out, job.recipe, job.plan.inputs, tokenizer, tokens.total, ordered)


def run_stage(job: Job, part: TaskPart) -> None:
    """Runs this part's tasks of one stage, and prints how many they were."""
    settings = job.settings
    run, tasks_name = _STAGES[settings.stage]
    with (
        open_engine(settings.engine, settings.workers) as engine,
        _not_ready_if_busy(),
        output.claimed(settings.out, job.recipe, job.plan.inputs, shared=True) as finished,
        scratch.in_use(settings.scratch),
    ):
        if not finished:
            num_tasks = run(job, part, engine)
            _say_done(settings.stage, part, num_tasks, tasks_name)


def commit_only(job: Job, part: TaskPart) -> Manifest | None:
    """Checks that all other stages are done and finishes the data set. Only the first of several parts does this."""
    out = job.settings.out
    with (
        _not_ready_if_busy(),
        output.claimed(out, job.recipe, job.plan.inputs) as finished,
        scratch.in_use(job.settings.scratch),
    ):
        if finished:
            return None
        if part.index:
            _say_done("commit", part, 1, "manifests")
            return None
        url, tokenizer = _find_tokenizer(job)
        units = _units(job, url, tokenizer)
        tokens = stages.read_tokens(units)
        documents = pair_documents(job.settings, job.plan, tokens.total)
        tasks = pair_tasks(job.settings, documents, tokens, tokens.units, tokenizer)
        return output.commit(out, job.recipe, job.plan.inputs, tokenizer, tokens.total, stages.read_pairs(tasks))


def _run_vocabulary(job: Job, part: TaskPart, engine: Engine) -> int:
    if part.index == 0:
        _make_tokenizer(job, engine)
    return 1


def _run_tokenize(job: Job, part: TaskPart, engine: Engine) -> int:
    url, tokenizer = _find_tokenizer(job)
    units = _units(job, url, tokenizer)
    with closing(stages.tokenize(engine, part.of(units))) as records:
        files = [units[number].files_of(record) for number, record in records]
    _check_store_visible(job, engine, units.store, files)
    return len(units)


def _run_merge(job: Job, part: TaskPart, engine: Engine) -> int:
    url, tokenizer = _find_tokenizer(job)
    tokens = stages.read_tokens(_units(job, url, tokenizer))
    documents = pair_documents(job.settings, job.plan, tokens.total)
    tasks = merge_tasks(job.settings, job.plan, tokens, len(documents), tokenizer)
    with closing(stages.merge(engine, part.of(tasks), tokens.total)) as records:
        files = [tasks[number].files_of(record) for number, record in records]
    _check_store_visible(job, engine, tokens.store, files)
    return len(tasks)


def _run_pair(job: Job, part: TaskPart, engine: Engine) -> int:
    url, tokenizer = _find_tokenizer(job)
    tokens = stages.read_tokens(_units(job, url, tokenizer))
    documents = pair_documents(job.settings, job.plan, tokens.total)
    merging = merge_tasks(job.settings, job.plan, tokens, len(documents), tokenizer)
    sources = stages.merged_sources(merging, stages.read_merges(merging)) if merging else tokens.units
    tasks = pair_tasks(job.settings, documents, tokens, sources, tokenizer)
    with closing(stages.pair(engine, part.of(tasks), tokens.total)) as records:
        files = [tasks[number].shards_of(record) for number, record in records]
    if engine.elsewhere:
        _check_visible("--out", job.settings.out, job.settings.out, (file for task in files for file in task))
    return len(tasks)


def _check_store_visible(job: Job, engine: Engine, store: str, files: Iterable[list[tuple[str, int]]]) -> None:
    if engine.elsewhere:
        _check_visible("--scratch", job.settings.scratch, store, (file for each in files for file in each))


# The function of each stage that has tasks, and the word for its tasks in messages.
_STAGES = {
    "vocabulary": (_run_vocabulary, "vocabularies"),
    "tokenize": (_run_tokenize, "units"),
    "merge": (_run_merge, "merge tasks"),
    "pair": (_run_pair, "pair tasks"),
}


def _make_tokenizer(job: Job, engine: Engine) -> tuple[str, PreparedTokenizer]:
    """The folder that workers load the tokenizer from, and the tokenizer; trains the vocabulary if necessary."""
    if job.tokenizer:
        return stages.publish_tokenizer(job.settings.scratch, job.tokenizer), job.tokenizer
    url = stages.train_tokenizer(engine, vocabulary_task(job.settings, job.plan))
    return url, load_prepared(url)


def _find_tokenizer(job: Job) -> tuple[str, PreparedTokenizer]:
    """The same, without training. Raises NotReadyError if the vocabulary is not trained yet."""
    if job.tokenizer:
        return stages.publish_tokenizer(job.settings.scratch, job.tokenizer), job.tokenizer
    url = stages.find_trained(vocabulary_task(job.settings, job.plan))
    return url, load_prepared(url)


def _units(job: Job, url: str, tokenizer: PreparedTokenizer) -> TokenizeTasks:
    """The tokenize tasks. A whole build chooses the tokenizing engine; separate stages use the choice of the first one."""
    settings, engine = job.settings, REFERENCE
    if settings.tokenizer_engine == "auto":
        engine = stages.agree_on_engine(url, tokenizer, is_whole=settings.stage == "all")
        engine, reason = resolve_engine(tokenizer, engine)
        if reason and settings.stage in ("all", "tokenize"):
            say(f"note: the slow reference tokenizer is used, about 8 times slower: {reason}")
    return tokenize_tasks(settings, job.plan, url, tokenizer, engine)


@contextmanager
def _not_ready_if_busy() -> Iterator[None]:
    """Turns BusyError into NotReadyError: another process has exclusive use of the folder, so the stage can run later."""
    try:
        yield
    except storage.BusyError as error:
        raise NotReadyError(str(error)) from error


def _leave_as_it_is(job: Job, finished: Manifest) -> None:
    out, inputs = job.settings.out, job.plan.inputs
    say(f"{out} is finished; it was left as it is (data_fingerprint {finished.data_fingerprint})")
    if output.touched(out, inputs):
        say("note: its input files were written again since; if their text changed, build into another --out")
    if job.settings.stage in ("all", "commit"):
        output.tidy(out)


def _say_done(stage: str, part: TaskPart, num_tasks: int, tasks_name: str) -> None:
    say(f"{stage} part {part}: {len(part.of(range(num_tasks)))} of {num_tasks} {tasks_name} done here")


def _check_visible(flag: str, place: str, folder: str, files: Iterable[tuple[str, int]]) -> None:
    """Raises UserError if a worker wrote a file (URL, bytes) that this process does not see: the worker has another disk."""
    sizes = {storage.absolute(info.url): info.bytes for info in storage.list_files(folder)}
    for url, num_bytes in files:
        if sizes.get(storage.absolute(url)) != num_bytes:
            raise UserError(
                f"{flag} {place}: a worker wrote {url}, but it is not there: the worker has another disk; choose a "
                "bucket, or a folder that all machines share"
            )
