"""What is said about a build before and after it, in a few lines."""

import os
import re
from collections.abc import Iterator

from prep import output
from prep.estimate import SHARD_BYTES_PER_TOKEN, STORE_BYTES_PER_TEXT_BYTE, TOKENS_PER_TEXT_BYTE, estimate
from prep.partitions import MIN_HELD_OUT
from prep.plan import Plan, make_plan
from prep.settings import Settings
from prep.task_shard import find_task_shard
from prep.tasks import check_tokenizer
from prep.tokens.tokenizer_source import load_tokenizer
from shards import storage
from shards.command.console import clock, short, size
from shards.errors import UserError
from shards.manifest import Manifest

_KEPT = re.compile(
    r"(vocabulary|tokenizer)-[0-9a-f]{32}(\.json|/[a-z_]+\.(json|txt|npy))"
    r"|tokens-[0-9a-f]{32}/unit-[0-9]{6,}(-[0-9]{4,}\.tokens|\.json)"
)


def summary(manifest: Manifest, out: str, seconds: float) -> Iterator[str]:
    """What was built, and what looks wrong with it."""
    capacity = manifest.settings["pack_to"] or manifest.settings["max_seq_len"]
    for name, split in manifest.splits.items():
        total = split.totals()
        if not total["rows"]:
            yield f"{name}: nothing"
            continue
        labels = _about_labels(total, manifest.settings["pairing"])
        masked = f"{total['masked_tokens'] / total['tokens']:.1%} masked" if total["masked_tokens"] else "masked when read"
        full = total["tokens"] / (total["rows"] * capacity)
        weight = f"{total['bytes'] / total['tokens']:.2f} bytes a token"
        yield f"{name}: {total['sequences']:,} sequences, {total['tokens']:,} tokens in {total['rows']:,} rows, {full:.2%} full"
        yield f"    {masked}{labels}"
        yield f"    {size(total['bytes'])}, {weight}, in {len(split.shards)} shards"
    yield from _about_documents(manifest)
    yield f"{out}, {clock(seconds)}"
    yield f"data_fingerprint {manifest.data_fingerprint}"


def _about_labels(total: dict[str, int], pairing: str) -> str:
    """The share of label 1 among the pairs that had a choice."""
    if pairing == "none":
        return ""
    unforced = total["sequences"] - total["forced_not_next"]
    share = f"{(total['not_next'] - total['forced_not_next']) / unforced:.1%} are" if unforced else "there are none"
    return f"; of the pairs {share} in swapped order" if pairing == "sop" else f"; of the pairs with a choice {share} not next"


def _about_documents(manifest: Manifest) -> Iterator[str]:
    ledger, train = manifest.ledger, manifest.splits["train"].totals()
    documents = ledger["documents"]
    sentences = ledger["sentences"] / max(1, documents["used"])
    dropped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in documents["dropped"].items())
    yield f"documents: {documents['used']:,} of {documents['in']:,} used, {sentences:.1f} sentences each" + (
        f"; dropped: {dropped}" if dropped else ""
    )
    if train["forced_not_next"] > 0.9 * train["sequences"]:
        yield "warning: nearly all pairs had no choice, because documents have one sentence; does --document fit the corpus?"
    for corpus, facts in enumerate(ledger["corpora"]) if manifest.settings["corpus_weight"] else ():
        told = f"weight {facts['weight']:g}, {facts['documents']:,} documents, {facts['copies']:,} with their copies"
        yield f"--corpus {corpus + 1}: {told}, {facts['share']:.1%} of the tokens"
    lost = ledger["pairs"]["train"]["unpaired"] / max(1, ledger["pairs"]["train"]["made"])
    if lost > 0.05:
        yield f"note: {lost:.0%} of the tokens are in no sequence, as --pairing {manifest.settings['pairing']} has it"
    if 0 < ledger["pairs"]["eval"]["documents"] < MIN_HELD_OUT:
        yield f"warning: only {ledger['pairs']['eval']['documents']} documents are held out; the corpus is very small"


def describe_plan(settings: Settings) -> Iterator[str]:
    """What a build would do, a line each."""
    plan = make_plan(settings)
    given = None if settings.trained_vocab_size else load_tokenizer(settings.tokenizer, settings.cased)
    if given:
        check_tokenizer(settings, given)
    finished = output.check(settings.out, settings.recipe(given.identity if given else settings.tokenizer), plan.inputs)
    tokens = plan.text_bytes * TOKENS_PER_TEXT_BYTE
    stages = ", ".join((["vocabulary"] if settings.trained_vocab_size else []) + ["tokenize", "pair", "commit"])
    if settings.stage != "all":
        shard = find_task_shard(settings.stage, settings.task_shard, os.environ)
        stages = f"{settings.stage} alone, share {shard} of its tasks"
    yield f"inputs:      {len(plan.inputs):,} files, {size(plan.bytes)}{_kinds(plan)}"
    for file in plan.inputs[:10]:
        yield f"             {file.name} ({size(file.bytes)})"
    if len(plan.inputs) > 10:
        yield f"             and {len(plan.inputs) - 10:,} more"
    if finished:
        yield f"data set:    {settings.out} is finished; build would leave it as it is"
    yield f"tokenizer:   {settings.tokenizer}" + (f", {given.vocab_size:,} entries" if given else ", made of the corpus")
    yield f"stages:      {stages}"
    yield f"engine:      {settings.engine}, {settings.workers or 'as many as there are'} at once"
    yield f"work units:  {len(plan.units):,} of up to {size(max(unit.bytes for unit in plan.units))}"
    yield f"partitions:  {plan.num_partitions:,} train, {plan.num_eval_partitions:,} held out (small ones are merged)"
    yield f"tokens:      about {short(tokens)} a copy, {settings.copies} copies"
    yield f"output:      about {size(tokens * settings.copies * SHARD_BYTES_PER_TOKEN)} of {settings.format} in {settings.out}"
    yield f"scratch:     about {size(plan.text_bytes * STORE_BYTES_PER_TEXT_BYTE)} in {settings.scratch}"
    yield from estimate(settings, plan)


def _kinds(plan: Plan) -> str:
    kinds = sorted({f"{file.format}.{file.compression}".rstrip(".") for file in plan.inputs})
    estimated = "" if plan.text_bytes == plan.bytes else f", about {size(plan.text_bytes)} of text"
    return f" ({', '.join(kinds)}){estimated}"


def clean(scratch: str) -> str:
    """Removes what builds keep in a scratch folder, and nothing else; says what was freed."""
    storage.tidy(scratch)
    ours = [info for info in storage.list_files(scratch) if _KEPT.fullmatch(storage.relative(info.url, scratch))]
    if not ours:
        raise UserError(f"--scratch {scratch}: holds nothing of a build")
    for info in ours:
        storage.remove(info.url)
    storage.tidy(scratch, empty_folders=True)
    return f"removed {len(ours):,} files, {size(sum(info.bytes for info in ours))}, from {scratch}"
