"""Plan -> vocabulary -> tokenize -> pair -> commit. Whatever is done already is skipped; the manifest comes last."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from prep import output
from prep.build import BYTES_PER_TOKEN, PAIR_STAGE, Recipe, ShareTask, build_share
from prep.documents import Rule, Span, rule_of
from prep.engine import LocalExecutor, Task, run_tasks
from prep.plan import PLAN_VERSION, Plan, make_plan
from prep.progress import Counts, Stage
from prep.records import MAX_LISTED_FAULTS, ShareRecord, UnitRecord
from prep.sentences import SPLITTER
from prep.settings import Settings
from prep.shares import held_out_below, hold_out, plan_shares
from prep.store import STORE_VERSION
from prep.tokenize import TOKENIZE_STAGE, TokenizeTask, tokenize_unit
from prep.tokenizer import TOKENIZERS, PreparedTokenizer, load_prepared, load_tokenizer
from prep.vocabulary import train_vocabulary
from shards import storage
from shards.manifest import SPLITS, Manifest, fingerprint
from shards.masking import Masking
from shards.terminal import say

AnyTask = TypeVar("AnyTask", bound=Task)
Result = TypeVar("Result")


@dataclass(frozen=True)
class VocabularyTask:
    """The vocabulary to train, and where its tokenizer.json goes."""

    spans: tuple[Span, ...]
    rule: Rule
    language: str
    size: int
    cased: bool
    skip_faults: bool
    url: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"training a vocabulary of {self.size} entries"


def make_vocabulary(task: VocabularyTask) -> str:
    """Trains a vocabulary and publishes it, unless it is there; returns its URL."""
    if not storage.find(task.url):
        tokenizer = train_vocabulary(task.spans, task.rule, task.language, task.size, task.cased, task.skip_faults)
        storage.publish(task.url, tokenizer.json_text.encode())
    return task.url


def build(settings: Settings) -> Manifest | None:
    """Builds the data set that the settings describe, or what of it is missing; None when it was finished already."""
    plan = make_plan(settings)
    given = None if settings.trained_vocab_size else load_tokenizer(settings.tokenizer, settings.cased)
    recipe = settings.recipe(given.fingerprint if given else settings.tokenizer)
    finished = output.check(settings.out, recipe, plan.inputs)
    if finished:
        say(f"{settings.out} is finished; it was left as it is (data_fingerprint {finished.data_fingerprint})")
        if output.touched(settings.out, plan.inputs):
            say("note: its input files were written again since; if their text changed, build into another --out")
        output.tidy(settings.out)
        return None
    with output.claimed(settings.out, recipe, plan.inputs) as finished, tempfile.TemporaryDirectory() as progress_folder:
        if finished:
            return None
        storage.tidy(settings.scratch)
        with LocalExecutor(settings.workers, progress_folder) as executor:
            run = Run(settings, plan, executor, progress_folder)
            tokenizer_url, tokenizer = run.vocabulary(given)
            store, segments, total = run.tokenize(tokenizer_url, tokenizer)
            shares = run.pair(store, segments, total, tokenizer)
        return output.commit(settings, plan, recipe, tokenizer, total, shares)


class Run:
    """The stages of one build, each over the executor. What flows between them is returned, nothing is kept here."""

    def __init__(self, settings: Settings, plan: Plan, executor: LocalExecutor, progress_folder: str) -> None:
        self._settings, self._plan, self._executor, self._progress_folder = settings, plan, executor, progress_folder

    def vocabulary(self, given: PreparedTokenizer | None) -> tuple[str, PreparedTokenizer]:
        """The tokenizer, trained first where none is given, and the URL in the scratch folder that workers load it from."""
        settings, scratch = self._settings, self._settings.scratch
        if given is not None:
            url = storage.join(scratch, f"tokenizer-{given.fingerprint[:32]}.json")
            if not storage.find(url):
                storage.publish(url, given.json_text.encode())
            return url, given
        size = settings.trained_vocab_size
        assert size is not None
        rule = rule_of(settings)
        key = fingerprint([self._inputs(), rule, settings.language, size, settings.cased, SPLITTER, TOKENIZERS])
        url = storage.join(scratch, f"vocabulary-{key[:32]}.json")
        if not storage.find(url):
            say(f"vocabulary: training up to {size:,} entries")
            spans = tuple(span for unit in self._plan.units for span in unit.spans)
            skip = settings.on_error == "skip"
            task = VocabularyTask(spans, rule, settings.language, size, settings.cased, skip, url)
            for _ in run_tasks(self._executor, make_vocabulary, [task], 1):
                say(f"vocabulary: {load_prepared(url).vocab_size:,} entries")
        return url, load_prepared(url)

    def tokenize(self, tokenizer_url: str, tokenizer: PreparedTokenizer) -> tuple[str, tuple[int, ...], UnitRecord]:
        """The token store's URL, how many segments each unit has there, and the sum of all units."""
        settings, plan = self._settings, self._plan
        recipe = {
            "inputs": self._inputs(),
            "rule": rule_of(settings),
            "language": settings.language,
            "tokenizer": tokenizer.fingerprint,
            "eval_fraction": settings.eval_fraction,
            "versions": [SPLITTER, TOKENIZERS, STORE_VERSION, PLAN_VERSION],
        }
        store = storage.join(settings.scratch, f"tokens-{fingerprint(recipe)[:32]}")
        tasks = [
            TokenizeTask(
                unit=unit,
                rule=rule_of(settings),
                language=settings.language,
                on_error=settings.on_error,
                tokenizer_url=tokenizer_url,
                fast=settings.tokenizer_engine == "auto",
                store=store,
                num_partitions=plan.num_partitions,
                num_eval_partitions=plan.num_eval_partitions,
                eval_below=held_out_below(settings.eval_fraction),
            )
            for unit in plan.units
        ]
        stage = Stage("tokenize", TOKENIZE_STAGE, plan.bytes, self._progress_folder)
        done = {info.url.rpartition("/")[2] for info in storage.list_files(store)}
        total, segments, faults = UnitRecord(), [0] * len(tasks), [list[dict[str, Any]]()] * len(tasks)
        for task, record in self._run(stage, tokenize_unit, tasks):
            number = task.unit.number
            segments[number], faults[number] = len(record.segments), record.faults
            total.add(record)
            counts = Counts(task.unit.bytes, record.bytes, record.documents, record.tokens)
            stage.finish(number, counts, was_done=task.record_url.rpartition("/")[2] in done)
        total.faults = [fault for unit in faults for fault in unit][:MAX_LISTED_FAULTS]
        return store, tuple(segments), total

    def pair(self, store: str, segments: tuple[int, ...], total: UnitRecord, tokenizer: PreparedTokenizer) -> list[ShareRecord]:
        """Builds the shards; returns the record of each share, in order."""
        settings = self._settings
        held_out = hold_out(total, settings.eval_fraction)
        key = fingerprint([store.rpartition("/")[2], settings.recipe(tokenizer.fingerprint)])
        shares = plan_shares(total, held_out, self._plan, settings.copies)
        records = storage.join(settings.out, output.RECORDS, key[:32])
        recipes = {split: make_recipe(settings, tokenizer, split) for split in SPLITS}
        tasks = [
            ShareTask(
                number=number,
                **share,
                store=store,
                segments=segments,
                recipe=recipes[share["split"]],
                out=settings.out,
                records=records,
            )
            for number, share in enumerate(shares)
        ]
        train_tokens = sum(total.bucket_tokens[: self._plan.num_partitions])
        work = train_tokens * settings.copies + (total.tokens - train_tokens)
        stage = Stage("pair", PAIR_STAGE, work, self._progress_folder, total.used_bytes / max(1, total.tokens))
        done = {info.url.rpartition("/")[2] for info in storage.list_files(records)}
        results: dict[int, ShareRecord] = {}
        for task, record in self._run(stage, build_share, tasks):
            results[task.number] = record
            counts = Counts(record.tally.made, 0, record.documents, record.tally.made)
            stage.finish(task.number, counts, was_done=task.record_url.rpartition("/")[2] in done)
        return [results[task.number] for task in tasks]

    def _run(
        self, stage: Stage, function: Callable[[AnyTask], Result], tasks: list[AnyTask]
    ) -> Iterator[tuple[AnyTask, Result]]:
        """Each task with its result as it comes, under a display of the stage."""
        try:
            yield from run_tasks(self._executor, function, tasks, self._settings.workers, stage.show)
        finally:
            stage.close()

    def _inputs(self) -> list[Any]:
        """What tells this corpus from any other: places too, since times and sizes alone may be those of another's copy."""
        return [[file.name, file.bytes, file.version, file.format, storage.absolute(file.url)] for file in self._plan.inputs]


def make_recipe(settings: Settings, tokenizer: PreparedTokenizer, split: str) -> Recipe:
    """What a share's task needs of the settings. Held-out rows are always masked statically."""
    special = tokenizer.special_ids
    static = settings.masking == "static" or split == "eval"
    masking = Masking(settings.mask_prob, tokenizer.vocab_size, tuple(special.values()), special["mask"])
    return Recipe(
        seed=settings.seed,
        max_seq_len=settings.max_seq_len,
        short_seq_prob=settings.short_seq_prob,
        pack=settings.pack_to > 0,
        row_capacity=settings.row_capacity,
        masking=masking if static else None,
        cls_id=special["cls"],
        sep_id=special["sep"],
        vocab_size=tokenizer.vocab_size,
        format=settings.format,
        shard_tokens=settings.shard_bytes // BYTES_PER_TOKEN,
    )
