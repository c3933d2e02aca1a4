"""Plan and settings -> the tasks of each stage. The same for everyone who asks, so any process can do any part of them."""

from typing import Any

from prep import output
from prep.corpus.read import READER_VERSION
from prep.corpus.warc import extractor_version
from prep.pairing.pair import BYTES_PER_TOKEN, Recipe, ShareTask
from prep.partitions import held_out_below, hold_out, plan_shares
from prep.plan import PLAN_VERSION, Plan
from prep.records import UnitRecord
from prep.settings import Settings
from prep.tokens.sentences import SPLITTER
from prep.tokens.store import STORE_VERSION
from prep.tokens.tokenize import TokenizeTask
from prep.tokens.tokenizer import TOKENIZERS, PreparedTokenizer
from prep.tokens.vocabulary import VocabularyTask
from shards import storage
from shards.errors import UserError
from shards.manifest import SPLITS, fingerprint
from shards.masking import Masking


def vocabulary_task(settings: Settings, plan: Plan) -> VocabularyTask:
    """The training of the vocabulary that the settings ask for."""
    size = settings.trained_vocab_size
    assert size is not None
    rule = settings.rule
    key = fingerprint([_inputs(plan), rule, settings.splitting, size, settings.cased, SPLITTER, TOKENIZERS, *_reader(plan)])
    return VocabularyTask(
        spans=tuple(span for unit in plan.units for span in unit.spans),
        rule=rule,
        splitting=settings.splitting,
        size=size,
        cased=settings.cased,
        skip_faults=settings.on_error == "skip",
        url=storage.join(settings.scratch, f"vocabulary-{key[:32]}"),
    )


def tokenize_tasks(settings: Settings, plan: Plan, tokenizer_url: str, tokenizer: PreparedTokenizer) -> list[TokenizeTask]:
    """A task a unit, in order, all into one token store."""
    recipe = {
        "inputs": _inputs(plan),
        "rule": settings.rule,
        "splitting": settings.splitting,
        "weights": settings.corpus_weight,
        "dedup": settings.dedup,
        "tokenizer": tokenizer.identity,
        "eval_fraction": settings.eval_fraction,
        "versions": [SPLITTER, TOKENIZERS, *_reader(plan), STORE_VERSION, PLAN_VERSION],
    }
    store = storage.join(settings.scratch, f"tokens-{fingerprint(recipe)[:32]}")
    return [
        TokenizeTask(
            unit=unit,
            rule=settings.rule,
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


def pair_tasks(
    settings: Settings, plan: Plan, store: str, segments: tuple[int, ...], total: UnitRecord, tokenizer: PreparedTokenizer
) -> list[ShareTask]:
    """A task a share of a partition and copy, in order. `segments` and `total` are of all units, as they were tokenized."""
    held_out = hold_out(total, settings.eval_fraction, 2 if settings.pairing == "nsp" else 1)
    key = fingerprint([store.rpartition("/")[2], settings.recipe(tokenizer.identity)])
    records = storage.join(settings.out, output.RECORDS, key[:32])
    recipes = {split: make_recipe(settings, tokenizer, split) for split in SPLITS}
    return [
        ShareTask(
            number=number,
            **share,
            store=store,
            segments=segments,
            recipe=recipes[share["split"]],
            out=settings.out,
            records=records,
        )
        for number, share in enumerate(plan_shares(total, held_out, plan, settings.copies))
    ]


def check_tokenizer(settings: Settings, tokenizer: PreparedTokenizer) -> None:
    """Raises UserError when the recipe asks for what the tokenizer does not have."""
    name = settings.tokenizer
    pair = tokenizer.templates.get("pair")
    if settings.pairing != "none" and (pair is None or not pair.prefix):
        raise UserError(
            f"--tokenizer {name}: has no template for pairs (a post-processor that sets {'a classifier and ' if pair else ''}"
            f"separator tokens around two segments), which --pairing {settings.pairing} needs; use --pairing none or another"
        )
    if settings.pairing == "none" and "single" not in tokenizer.templates:
        raise UserError(
            f"--tokenizer {name}: gives no token for any plain text, so it cannot be told how it frames one; use another"
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
        tokenizer.word_flags if settings.mask_unit != "token" else None,
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


def _reader(plan: Plan) -> list[int | str]:
    """The versions of what reads the inputs; of what takes text out of pages only if there are pages."""
    return [READER_VERSION, *([extractor_version()] if any(file.format == "warc" for file in plan.inputs) else [])]


def _inputs(plan: Plan) -> list[Any]:
    """What tells this corpus from any other: places too, since times and sizes alone may be those of another's copy."""
    return [[file.name, file.bytes, file.version, file.format, storage.absolute(file.url), file.corpus] for file in plan.inputs]
