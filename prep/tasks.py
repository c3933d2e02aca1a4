"""Plan and settings -> the tasks of each stage, and the part of them that one process runs.

Every process makes the same tasks from the same settings, so any process can run any part of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prep import output
from prep.corpus.read import READER_VERSION
from prep.corpus.warc import extractor_version
from prep.pairing.recipes import RECIPES
from prep.pairing.task import BYTES_PER_TOKEN, PairTask, Recipe
from prep.partitions import held_out_below, hold_out, plan_pairs
from prep.plan import PLAN_VERSION, Plan
from prep.records import UnitRecord
from prep.settings import Settings
from prep.tokens.long_texts import VERSION as LONG_TEXTS
from prep.tokens.sentences import SPLITTER
from prep.tokens.store import STORE_VERSION
from prep.tokens.task import TokenizeTask
from prep.tokens.tokenizer import TOKENIZERS, PreparedTokenizer
from prep.tokens.vocabulary import VocabularyTask
from shards import storage
from shards.errors import UserError
from shards.manifest import SPLITS, fingerprint
from shards.masking import Masking
from shards.tokenizer_check import expand_runs


def vocabulary_task(settings: Settings, plan: Plan) -> VocabularyTask:
    """The task that trains the vocabulary of `--tokenizer train:N` or `train-bpe:N`."""
    size, kind = settings.trained_vocab_size, settings.trained_kind
    assert size is not None and kind is not None
    rule = settings.rule
    how = [kind, size, settings.cased if kind == "WordPiece" else True]
    key = fingerprint([_inputs(plan), rule, settings.splitting, how, _splitter(settings), TOKENIZERS, *_reader(plan)])
    return VocabularyTask(
        spans=tuple(span for unit in plan.units for span in unit.spans),
        rule=rule,
        splitting=settings.splitting,
        kind=kind,
        size=size,
        cased=settings.cased,
        skip_faults=settings.on_error == "skip",
        url=storage.join(settings.scratch, f"vocabulary-{key[:32]}"),
    )


def tokenize_tasks(
    settings: Settings, plan: Plan, tokenizer_url: str, tokenizer: PreparedTokenizer, engine: str
) -> list[TokenizeTask]:
    """One task per unit, in order, all with one token store. `tokenizer_url` is where workers load the tokenizer from.

    `engine`: the tokenizing engine, `reference` or a fast tokenizer with its version.
    """
    recipe = {
        "inputs": _inputs(plan),
        "rule": settings.rule,
        "splitting": settings.splitting,
        "weights": settings.corpus_weight,
        "dedup": settings.dedup,
        "tokenizer": tokenizer.identity,
        "eval_fraction": settings.eval_fraction,
        "versions": [_splitter(settings), TOKENIZERS, engine, *_reader(plan), STORE_VERSION, PLAN_VERSION],
    }
    store = storage.join(settings.scratch, f"tokens-{fingerprint(recipe)[:32]}")
    return [
        TokenizeTask(
            unit=unit,
            rule=settings.rule,
            splitting=settings.splitting,
            on_error=settings.on_error,
            tokenizer_url=tokenizer_url,
            engine=engine,
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


def pair_tasks(
    settings: Settings, plan: Plan, store: str, segments: tuple[int, ...], total: UnitRecord, tokenizer: PreparedTokenizer
) -> list[PairTask]:
    """The pair tasks, in order. `segments` and `total` are the result of tokenizing all units."""
    held_out = hold_out(total, settings.eval_fraction, RECIPES[settings.pairing].min_documents)
    key = fingerprint([store.rpartition("/")[2], settings.recipe(tokenizer.identity)])
    records = storage.join(settings.out, output.RECORDS, key[:32])
    recipes = {split: make_recipe(settings, tokenizer, split) for split in SPLITS}
    return [
        PairTask(
            number=number,
            **documents._asdict(),
            store=store,
            segments=segments,
            recipe=recipes[documents.split],
            out=settings.out,
            records=records,
        )
        for number, documents in enumerate(plan_pairs(total, held_out, plan, settings.copies))
    ]


def make_recipe(settings: Settings, tokenizer: PreparedTokenizer, split: str) -> Recipe:
    """The settings that a pair task needs. Held-out rows always have static masks."""
    special = tokenizer.special_ids
    masking = Masking(
        settings.mask_prob,
        tokenizer.vocab_size,
        (*special.values(), *expand_runs(tokenizer.unused_ids)),  # neither is ever inserted
        special["mask"],
        settings.mask_unit,
        settings.mask_replace_prob,
        settings.random_replace_prob,
        tokenizer.word_flags if settings.mask_unit != "token" else None,
    )
    assert settings.short_seq_prob is not None
    return Recipe(
        seed=settings.seed,
        pairing=settings.pairing,
        separator=special["sep"] if settings.cross_documents else None,
        overlap=settings.document_overlap,
        drop_duplicates=settings.dedup == "exact",
        max_seq_len=settings.max_seq_len,
        short_seq_prob=settings.short_seq_prob,
        pack=settings.pack_to > 0,
        row_capacity=settings.row_capacity,
        masking=masking if settings.masking == "static" or split == "eval" else None,
        template=tokenizer.templates[RECIPES[settings.pairing].template],
        vocab_size=tokenizer.vocab_size,
        format=settings.format,
        shard_tokens=settings.shard_bytes // BYTES_PER_TOKEN,
    )


def _splitter(settings: Settings) -> str:
    """The version of the code that cuts documents into texts."""
    return LONG_TEXTS if settings.splitting.rule == "whole" else SPLITTER


def _reader(plan: Plan) -> list[int | str]:
    """The versions of the code that reads the inputs; the page extractor's only if there are pages."""
    return [READER_VERSION, *([extractor_version()] if any(file.format == "warc" for file in plan.inputs) else [])]


def _inputs(plan: Plan) -> list[Any]:
    """The identity of the corpus. Places are part of it: another file may have the same name, size and time."""
    return [[file.name, file.bytes, file.version, file.format, storage.absolute(file.url), file.corpus] for file in plan.inputs]


ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class TaskPart:
    """Part `index` of `count` of the tasks of every stage: the tasks i with i % count == index."""

    index: int = 0
    count: int = 1

    def of(self, tasks: Sequence[ItemT]) -> Sequence[ItemT]:
        """The tasks of this part."""
        return tasks[self.index :: self.count]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def find_task_part(stage: str, task_shard: str, environment: Mapping[str, str]) -> TaskPart:
    """The part that `--task-shard` names; else, for a single stage, the position in an array job; else all tasks.

    Raises UserError for a text that is not I/N with I below N, for one without a stage, and for an incomplete environment.
    """
    if stage == "all":
        if task_shard:
            raise UserError(f"--task-shard is {task_shard!r}, but needs a stage; add --stage tokenize or --stage pair")
        return TaskPart()
    if task_shard:
        return _parse_part(task_shard, f"--task-shard is {task_shard!r}")
    if "SLURM_ARRAY_TASK_ID" in environment:
        return _slurm_part(environment)
    if "JOB_COMPLETION_INDEX" in environment:
        if "JOB_COMPLETIONS" not in environment:
            raise UserError(
                "JOB_COMPLETION_INDEX is set, but Kubernetes does not tell the number of pods: set JOB_COMPLETIONS in the env "
                "of the job to its completions, or set --task-shard I/N"
            )
        text = f"{environment['JOB_COMPLETION_INDEX']}/{environment['JOB_COMPLETIONS']}"
        return _parse_part(text, f"JOB_COMPLETION_INDEX/JOB_COMPLETIONS is {text!r}")
    return TaskPart()


def _slurm_part(environment: Mapping[str, str]) -> TaskPart:
    """The position in a Slurm array, which may begin at any number and go in steps: --array=1-9:2."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP")
    values = [environment.get(name, default) for name, default in zip(names, ("", "", "0", "1"), strict=True)]
    listed = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
    if not all(re.fullmatch("[0-9]{1,9}", value) for value in values) or values[3] == "0":
        raise UserError(f"{listed}: these are not the variables of a Slurm array; set --task-shard I/N")
    number, count, first, step = map(int, values)
    index, rest = divmod(number - first, step)
    if rest or not 0 <= index < count:
        raise UserError(f"{listed}: not an array of evenly spaced numbers; set --task-shard I/N")
    return TaskPart(index, count)


def _parse_part(text: str, place: str) -> TaskPart:
    match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"{place}, must be I/N with I from 0 to N - 1, such as 0/3, 1/3 and 2/3")
    return TaskPart(int(match[1]), int(match[2]))
