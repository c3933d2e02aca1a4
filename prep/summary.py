"""What is printed before a build (`prep plan`) and after it, a few lines each."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec

from prep.estimate import Estimate, describe_estimate, estimate
from prep.job import Job, make_job
from prep.pairing.recipes import Labels, recipe_of
from prep.partitions import MIN_HELD_OUT
from prep.plan import Plan
from prep.settings import Settings
from prep.tasks import find_task_part
from prep.tokens.fast import REFERENCE, installed_engine
from prep.tokens.tokenizer import MAX_UNKNOWN_SHARE
from shards.command.numbers import clock, short, size
from shards.manifest import Manifest


def describe_plan(settings: Settings) -> Iterator[str]:
    """What a build would do, line by line."""
    job = make_job(settings)
    plan, settings = job.plan, job.settings
    cost = _estimate(job)
    steps = ["vocabulary"] if settings.trained_vocab_size else []
    stages = ", ".join([*steps, "tokenize", *(["merge"] if cost.merge_tasks else []), "pair", "commit"])
    if settings.stage != "all":
        part = find_task_part(settings.stage, settings.task_shard, os.environ)
        stages = f"{settings.stage} only, part {part} of its tasks"
    entries = f", {job.tokenizer.vocab_size:,} entries" if job.tokenizer else ", trained on the corpus"
    yield f"inputs:      {cost.files:,} files, {size(cost.bytes)}{_kinds(plan)}"
    for file in plan.inputs[:10]:
        yield f"             {file.name} ({size(file.bytes)})"
    if cost.files > 10:
        yield f"             and {cost.files - 10:,} more"
    if job.finished():
        yield f"data set:    {settings.out} is finished; build would leave it as it is"
    yield f"tokenizer:   {settings.tokenizer}{entries}"
    yield f"stages:      {stages}"
    yield f"engine:      {settings.engine}, {settings.workers or 'as many tasks as it has workers'} at once"
    yield f"work units:  {cost.units:,} of up to {size(int(plan.units.bytes.max()))}"
    yield f"partitions:  {plan.num_partitions:,} (fewer if the corpus has few documents)"
    yield f"tokens:      about {short(cost.tokens)} per copy, {settings.copies} {'copy' if settings.copies == 1 else 'copies'}"
    yield f"output:      about {size(cost.output_bytes)} of {settings.format} in {settings.out}"
    yield f"scratch:     about {size(cost.stored_bytes)} in {settings.scratch}"
    yield from describe_estimate(cost)


def plan_as_json(settings: Settings) -> str:
    """All figures of the plan, by name."""
    job = make_job(settings)
    return json.dumps({"partitions": job.plan.num_partitions, **asdict(_estimate(job))}, indent=1)


def _estimate(job: Job) -> Estimate:
    """What the build will cost. A vocabulary that is yet to be trained has about the size that is set."""
    vocab_size = job.tokenizer.vocab_size if job.tokenizer else job.settings.trained_vocab_size or 0
    return estimate(job.settings, job.plan, vocab_size, _has_fast_tokenizer(job))


def _has_fast_tokenizer(job: Job) -> bool:
    """Whether a fast tokenizer of the kind is installed; those that are trained on the corpus are of known kinds."""
    if job.settings.tokenizer_engine == "reference":
        return False
    if job.tokenizer:
        return installed_engine(job.tokenizer.definition) != REFERENCE
    return find_spec("nanotoken" if job.settings.trained_kind == "WordPiece" else "gigatoken") is not None


def _kinds(plan: Plan) -> str:
    kinds = sorted({f"{kind.format}.{kind.compression}".rstrip(".") for kind in plan.inputs.kinds()})
    estimated = "" if plan.text_bytes == plan.bytes else f", about {size(plan.text_bytes)} of text"
    return f" ({', '.join(kinds)}){estimated}"


def summary(manifest: Manifest, out: str, seconds: float) -> Iterator[str]:
    """What was built, and what looks wrong with it."""
    capacity = manifest.settings["pack_to"] or manifest.settings["max_seq_len"]
    for name, split in manifest.splits.items():
        total = split.totals()
        if not total["rows"]:
            yield f"{name}: nothing"
            continue
        labels = _about_labels(total, recipe_of(manifest.settings).labels)
        masked = f"{total['masked_tokens'] / total['tokens']:.1%} masked" if total["masked_tokens"] else "masked when read"
        full = total["tokens"] / (total["rows"] * capacity)
        weight = f"{total['bytes'] / total['tokens']:.2f} bytes per token"
        yield f"{name}: {total['sequences']:,} sequences, {total['tokens']:,} tokens in {total['rows']:,} rows, {full:.2%} full"
        yield f"    {masked}{labels}"
        yield f"    {size(total['bytes'])}, {weight}, in {len(split.shards)} shard{'s' if len(split.shards) != 1 else ''}"
    yield from _about_documents(manifest)
    yield from _warnings(manifest)
    yield f"{out}, {clock(seconds)}"
    yield f"data_fingerprint {manifest.data_fingerprint}"


def _about_labels(total: dict[str, int], labels: Labels | None) -> str:
    """The fraction of label 1 among the pairs that had a choice."""
    if labels is None:
        return ""
    unforced = total["sequences"] - total["forced_not_next"]
    if not unforced:
        return "; no pair had a choice"
    fraction = f"{(total['not_next'] - total['forced_not_next']) / unforced:.1%}"
    return f"; of the pairs{' with a choice' if total['forced_not_next'] else ''} {fraction} are {labels.names[1]}"


def _about_documents(manifest: Manifest) -> Iterator[str]:
    ledger = manifest.ledger
    documents = ledger["documents"]
    sentences = f", {ledger['sentences'] / max(1, documents['used']):.1f} sentences each"
    dropped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in documents["dropped"].items())
    yield (
        f"documents: {documents['used']:,} of {documents['in']:,} used"
        + ("" if recipe_of(manifest.settings).keeps_text else sentences)
        + (f"; dropped: {dropped}" if dropped else "")
    )
    for number, corpus in enumerate(ledger["corpora"], 1) if manifest.settings["corpus_weight"] else ():
        counts = f"weight {corpus['weight']:g}, {corpus['documents']:,} documents, {corpus['copies']:,} with their copies"
        yield f"--corpus {number}: {counts}, {corpus['share']:.1%} of the tokens"


def _warnings(manifest: Manifest) -> Iterator[str]:
    train, held_out = (manifest.splits[name].totals() for name in ("train", "eval"))
    pairs = manifest.ledger["pairs"]
    if held_out["tokens"] * manifest.settings["copies"] > train["tokens"]:
        yield (
            f"warning: more is held out ({held_out['tokens']:,} tokens) than there is to train on; the documents are few: set "
            "--eval-fraction 0, or another --document"
        )
    if train["forced_not_next"] > 0.9 * train["sequences"]:
        yield "warning: nearly all pairs had no choice, because documents have one sentence; check that --document fits"
    lost = pairs["train"]["unpaired"] / max(1, pairs["train"]["made"])
    if lost > 0.05:
        yield f"note: {lost:.0%} of the tokens are in no sequence: --pairing {manifest.settings['pairing']} leaves them out"
    unknown_share = manifest.ledger["unknown_tokens"] / max(1, manifest.ledger["tokens"])
    if unknown_share > MAX_UNKNOWN_SHARE:
        yield f"warning: {unknown_share:.1%} of the tokens are [UNK]; choose a --tokenizer that fits the corpus, or train:N"
    if 0 < pairs["eval"]["documents"] < MIN_HELD_OUT:
        yield f"warning: only {pairs['eval']['documents']} documents are held out; the corpus is very small"
