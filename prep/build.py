"""Plan -> vocabulary -> tokenize -> pair -> commit. Whatever is done already is skipped; the manifest comes last."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from prep import output, stages
from prep.engines.open import open_engine
from prep.plan import Plan, make_plan
from prep.settings import Settings
from prep.stages import Job
from prep.task_shard import TaskShard, find_task_shard
from prep.tasks import check_tokenizer, pair_tasks, tokenize_tasks
from prep.tokens.tokenizer import PreparedTokenizer, load_prepared
from prep.tokens.tokenizer_source import load_tokenizer
from shards import storage
from shards.command.console import say
from shards.errors import NotReadyError, UserError
from shards.manifest import Manifest


def build(settings: Settings) -> Manifest | None:
    """Builds the data set that the settings describe, or what of it is missing, or the stage that they ask for.

    None when it was finished already, or is not yet. Raises NotReadyError when what the stage needs is not there.
    """
    shard = find_task_shard(settings.stage, settings.task_shard, os.environ)
    settings = _absolute(settings)
    plan = make_plan(settings)
    given = None if settings.trained_vocab_size else load_tokenizer(settings.tokenizer, settings.cased)
    if given:
        check_tokenizer(settings, given)
    recipe = settings.recipe(given.identity if given else settings.tokenizer)
    finished = output.check(settings.out, recipe, plan.inputs)
    shared = settings.stage not in ("all", "commit")
    if finished:
        say(f"{settings.out} is finished; it was left as it is (data_fingerprint {finished.data_fingerprint})")
        if output.touched(settings.out, plan.inputs):
            say("note: its input files were written again since; if their text changed, build into another --out")
        if not shared:
            output.tidy(settings.out)
        return None
    if settings.stage == "commit":
        with _in_turn(settings), output.claimed(settings.out, recipe, plan.inputs) as finished:
            return None if finished else _commit(settings, plan, shard, given, recipe)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_engine(settings.engine, settings.workers, folder) as engine,
        _in_turn(settings),
        output.claimed(settings.out, recipe, plan.inputs, shared) as finished,
    ):
        job = Job(settings, plan, shard, engine, folder)
        if settings.stage == "all":
            return None if finished else _all_stages(job, given, recipe)
        if not finished:
            _one_stage(job, given)
    return None


@contextmanager
def _in_turn(settings: Settings) -> Iterator[None]:
    """A stage that comes while another has the folder to itself is early, not wrong."""
    try:
        yield
    except storage.BusyError as error:
        if settings.stage == "all":
            raise
        raise NotReadyError(str(error)) from error


def _absolute(settings: Settings) -> Settings:
    """With places that workers with another working directory understand; as they were given, where there are none such."""
    if settings.engine == "local":
        return settings
    corpus = tuple(storage.absolute(url) for url in settings.corpus)
    return replace(settings, corpus=corpus, out=storage.absolute(settings.out), scratch=storage.absolute(settings.scratch))


def _all_stages(job: Job, given: PreparedTokenizer | None, recipe: dict[str, Any]) -> Manifest:
    settings, plan = job.settings, job.plan
    storage.tidy(settings.scratch)
    tokenizer_url = stages.publish_tokenizer(settings.scratch, given) if given else stages.train_tokenizer(job)
    tokenizer = given or load_prepared(tokenizer_url)
    units = tokenize_tasks(settings, plan, tokenizer_url, tokenizer)
    segments, total = stages.sum_units(len(units), stages.tokenize(job, units))
    tasks = pair_tasks(settings, plan, units[0].store, segments, total, tokenizer)
    records = dict(stages.pair(job, tasks, total))
    shares = [records[task.number] for task in tasks]
    if job.engine.elsewhere:
        files = [file for task, share in zip(tasks, shares, strict=True) for file in task.shards_of(share)]
        _check_visible("--out", settings.out, settings.out, files)
    return output.commit(settings, plan, recipe, tokenizer, total, shares)


def _one_stage(job: Job, given: PreparedTokenizer | None) -> None:
    """Does this shard of one stage, and says what was done."""
    settings, plan, shard = job.settings, job.plan, job.shard
    if settings.stage == "vocabulary":
        if shard.index == 0:
            _ = stages.publish_tokenizer(settings.scratch, given) if given else stages.train_tokenizer(job)
        _say_done("vocabulary", shard, 1)
        return
    tokenizer_url, tokenizer = _tokenizer(settings, plan, given)
    units = tokenize_tasks(settings, plan, tokenizer_url, tokenizer)
    if settings.stage == "tokenize":
        done = [units[number].segments_of(record) for number, record in stages.tokenize(job, units)]
        if job.engine.elsewhere:
            _check_visible("--scratch", settings.scratch, units[0].store, [file for files in done for file in files])
        _say_done("tokenize", shard, len(units))
        return
    segments, total = stages.sum_units(len(units), stages.read_units(units))
    tasks = pair_tasks(settings, plan, units[0].store, segments, total, tokenizer)
    files = [file for number, record in stages.pair(job, tasks, total) for file in tasks[number].shards_of(record)]
    if job.engine.elsewhere:
        _check_visible("--out", settings.out, settings.out, files)
    _say_done("pair", shard, len(tasks))


def _commit(
    settings: Settings, plan: Plan, shard: TaskShard, given: PreparedTokenizer | None, recipe: dict[str, Any]
) -> Manifest | None:
    if shard.index:
        _say_done("commit", shard, 1)
        return None
    tokenizer_url, tokenizer = _tokenizer(settings, plan, given)
    units = tokenize_tasks(settings, plan, tokenizer_url, tokenizer)
    segments, total = stages.sum_units(len(units), stages.read_units(units))
    shares = stages.read_pair_records(pair_tasks(settings, plan, units[0].store, segments, total, tokenizer))
    return output.commit(settings, plan, recipe, tokenizer, total, shares)


def _tokenizer(settings: Settings, plan: Plan, given: PreparedTokenizer | None) -> tuple[str, PreparedTokenizer]:
    """The tokenizer that an earlier stage made, or the one given, and where workers load it from."""
    if given:
        return stages.publish_tokenizer(settings.scratch, given), given
    url = stages.find_trained(settings, plan)
    return url, load_prepared(url)


_TASKS = {"vocabulary": "vocabularies", "tokenize": "units", "pair": "pair tasks", "commit": "manifests"}


def _say_done(stage: str, shard: TaskShard, num_tasks: int) -> None:
    done = len(shard.of(range(num_tasks)))
    say(f"{stage} share {shard}: {done} of {num_tasks} {_TASKS[stage]} done here")


def _check_visible(flag: str, place: str, folder: str, files: Sequence[tuple[str, int]]) -> None:
    """Workers may have another disk than this process, and what they write there would be nowhere else."""
    sizes = {storage.absolute(info.url): info.bytes for info in storage.list_files(folder)}
    for url, num_bytes in files:
        if sizes.get(storage.absolute(url)) != num_bytes:
            raise UserError(
                f"{flag} {place}: {url} is not there, although a worker wrote it: it has another disk; choose a bucket, or a "
                "folder that all machines share"
            )
