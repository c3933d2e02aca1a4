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
from prep.splitting import Splitting
from prep.store import STORE_VERSION
from prep.tokenize import TOKENIZE_STAGE, TokenizeTask, tokenize_unit
from prep.tokenizer import TOKENIZERS, PreparedTokenizer, is_saved, load_prepared, load_tokenizer
from prep.vocabulary import train_vocabulary
from shards import storage
from shards.errors import UserError
from shards.manifest import SPLITS, Manifest, fingerprint
from shards.masking import Masking
from shards.terminal import say

AnyTask = TypeVar("AnyTask", bound=Task)
Result = TypeVar("Result")


@dataclass(frozen=True)
class VocabularyTask:
    """The vocabulary to train, and the folder that its tokenizer goes to."""

    spans: tuple[Span, ...]
    rule: Rule
    splitting: Splitting
    size: int
    cased: bool
    skip_faults: bool
    url: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"training a vocabulary of {self.size} entries"


def make_vocabulary(task: VocabularyTask) -> str:
    """Trains a vocabulary and publishes it, unless it is there; returns its folder."""
    if not is_saved(task.url):
        tokenizer = train_vocabulary(task.spans, task.rule, task.splitting, task.size, task.cased, task.skip_faults)
        tokenizer.save(task.url)
    return task.url


def build(settings: Settings) -> Manifest | None:
    """Builds the data set that the settings describe, or what of it is missing; None when it was finished already."""
    plan = make_plan(settings)
    given = None if settings.trained_vocab_size else load_tokenizer(settings.tokenizer, settings.cased)
    if given:
        check_tokenizer(settings, given)
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
        """The tokenizer, trained first where none is given, and the folder in the scratch folder that workers load it from."""
        settings, scratch = self._settings, self._settings.scratch
        if given is not None:
            url = storage.join(scratch, f"tokenizer-{_identity(given)[:32]}")
            if not is_saved(url):
                given.save(url)
            return url, given
        size = settings.trained_vocab_size
        assert size is not None
        rule = rule_of(settings)
        key = fingerprint([self._inputs(), rule, settings.splitting, size, settings.cased, SPLITTER, TOKENIZERS])
        url = storage.join(scratch, f"vocabulary-{key[:32]}")
        if not is_saved(url):
            say(f"vocabulary: training up to {size:,} entries")
            spans = tuple(span for unit in self._plan.units for span in unit.spans)
            skip = settings.on_error == "skip"
            task = VocabularyTask(spans, rule, settings.splitting, size, settings.cased, skip, url)
            for _ in run_tasks(self._executor, make_vocabulary, [task], 1):
                say(f"vocabulary: {load_prepared(url).vocab_size:,} entries")
        return url, load_prepared(url)

    def tokenize(self, tokenizer_url: str, tokenizer: PreparedTokenizer) -> tuple[str, tuple[int, ...], UnitRecord]:
        """The token store's URL, how many segments each unit has there, and the sum of all units."""
        settings, plan = self._settings, self._plan
        recipe = {
            "inputs": self._inputs(),
            "rule": rule_of(settings),
            "splitting": settings.splitting,
            "weights": settings.corpus_weight,
            "dedup": settings.dedup,
            "tokenizer": _identity(tokenizer),
            "eval_fraction": settings.eval_fraction,
            "versions": [SPLITTER, TOKENIZERS, STORE_VERSION, PLAN_VERSION],
        }
        store = storage.join(settings.scratch, f"tokens-{fingerprint(recipe)[:32]}")
        tasks = [
            TokenizeTask(
                unit=unit,
                rule=rule_of(settings),
                splitting=settings.splitting,
                on_error=settings.on_error,
                tokenizer_url=tokenizer_url,
                fast=settings.tokenizer_engine == "auto",
                store=store,
                num_partitions=plan.num_partitions,
                num_eval_partitions=plan.num_eval_partitions,
                eval_below=held_out_below(settings.eval_fraction),
                weights=settings.corpus_weight,
                num_corpora=len(settings.corpus),
                by_content=settings.dedup == "exact",
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
        held_out = hold_out(total, settings.eval_fraction, 2 if settings.pairing == "nsp" else 1)
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
        return [
            [file.name, file.bytes, file.version, file.format, storage.absolute(file.url), file.corpus]
            for file in self._plan.inputs
        ]


def _identity(tokenizer: PreparedTokenizer) -> str:
    """What tells a tokenizer from any other: its definition, and what its special tokens are for."""
    return fingerprint([tokenizer.fingerprint, dict(tokenizer.roles)])


def check_tokenizer(settings: Settings, tokenizer: PreparedTokenizer) -> None:
    """Raises UserError when the recipe asks for what the tokenizer does not have."""
    name = settings.tokenizer
    pair = tokenizer.templates.get("pair")
    if settings.pairing != "none" and (pair is None or not pair.prefix):
        raise UserError(
            f"--tokenizer {name}: has no template for pairs (a post-processor that sets {'a classifier and ' if pair else ''}"
            f"separator tokens around two segments), which --pairing {settings.pairing} needs; use --pairing none or another"
        )
    if settings.cross_documents and "sep" not in tokenizer.roles:
        raise UserError(f"--tokenizer {name}: has no separator token, which --cross-documents needs; use another")
    if settings.mask_unit != "token" and tokenizer.word_flags is None:
        raise UserError(
            f"--tokenizer {name}: its tokens do not show where words begin, which --mask-unit {settings.mask_unit} needs; use "
            "--mask-unit token or another"
        )


def make_recipe(settings: Settings, tokenizer: PreparedTokenizer, split: str) -> Recipe:
    """What a share's task needs of the settings. Held-out rows are always masked statically."""
    special = tokenizer.special_ids
    masking = Masking(
        settings.mask_prob,
        tokenizer.vocab_size,
        tuple(special.values()),
        special["mask"],
        settings.mask_unit,
        settings.mask_replace_prob,
        settings.random_replace_prob,
        tokenizer.word_flags,
    )
    assert settings.short_seq_prob is not None
    return Recipe(
        seed=settings.seed,
        pairing=settings.pairing,
        separator=special["sep"] if settings.cross_documents else None,
        drop_duplicates=settings.dedup == "exact",
        max_seq_len=settings.max_seq_len,
        short_seq_prob=settings.short_seq_prob,
        pack=settings.pack_to > 0,
        row_capacity=settings.row_capacity,
        masking=masking if settings.masking == "static" or split == "eval" else None,
        template=tokenizer.templates["single" if settings.pairing == "none" else "pair"],
        vocab_size=tokenizer.vocab_size,
        format=settings.format,
        shard_tokens=settings.shard_bytes // BYTES_PER_TOKEN,
    )
