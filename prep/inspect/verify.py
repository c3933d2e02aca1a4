"""`prep verify`: checks every hash, count and rule that the format promises, of the manifest, the tokenizer and each shard."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from prep.engines.engine import DeadlyTaskError, Engine, run_tasks
from prep.engines.open import open_engine
from prep.pairing.recipes import recipe_of
from prep.tokens.tokenizer import load_prepared
from shards import storage
from shards.checks import row_faults
from shards.dataset import limits_of, masking_of, not_finished, read_manifest, sizes_of_files
from shards.errors import UserError
from shards.formats import FORMATS
from shards.gate.rows import Limits
from shards.manifest import MANIFEST_NAME, Manifest, ShardInfo, Split
from shards.masking import Masking
from shards.memory import free_bytes, require_memory
from shards.schema import Rows, columns_sha256
from shards.template import Template
from shards.tokenizer_check import MAX_BYTES

_BYTES_PER_DECODED_BYTE = 12  # memory of a check at its peak, measured on Parquet; most are indices of 8 bytes


@dataclass(frozen=True)
class CheckTask:
    """A shard, and the values that it must agree with."""

    url: str
    shard: ShardInfo
    format: str
    limits: Limits
    special_ids: dict[str, int]
    masking: Masking | None
    template: Template
    cross_documents: bool

    @property
    def name(self) -> str:
        """For messages."""
        return f"checking {self.url}"


def verify(url: str, workers: int) -> list[str]:
    """One line per fault, beginning with the file; empty if nothing is wrong. Raises UserError if `url` is not a data set."""
    if workers < 1:
        raise UserError(f"--workers is {workers}, must be at least 1")
    manifest_url = storage.join(url, MANIFEST_NAME)
    if not storage.find(manifest_url):
        raise not_finished(url)
    try:
        manifest, contradictions = read_manifest(url)
    except UserError as error:
        return [str(error)]
    faults = [f"{manifest_url}: {fault}" for fault in contradictions]
    faults += [f"{manifest_url}: {fault}" for fault in ledger_faults(manifest)]
    faults += tokenizer_faults(url, manifest)
    faults += _foreign_files(url, manifest)
    try:
        workers = _affordable(workers, url, manifest)
    except UserError as error:  # without its table of word starts no shard can be checked
        return [*faults, str(error)]
    with open_engine("local", workers) as engine:
        faults_of = _check_all(engine, url, manifest)
    shard_urls = (storage.join(url, path) for split in manifest.splits.values() for path in split.shards.paths())
    return faults + [f"{place}: {fault}" for place in shard_urls for fault in faults_of.get(place, ())]


def _affordable(workers: int, url: str, manifest: Manifest) -> int:
    """As many workers as there are shards and as the memory allows for."""
    num_shards = sum(len(split.shards) for split in manifest.splits.values())
    largest = {name: Split([split.shards.largest()]) for name, split in manifest.splits.items() if len(split.shards)}
    most_bytes = max((_memory_of(task) for task in _tasks(url, replace(manifest, splits=largest))), default=0)
    return min(workers, max(1, num_shards), max(1, free_bytes() // max(1, most_bytes)))


def _memory_of(task: CheckTask) -> int:
    return task.shard.bytes + _BYTES_PER_DECODED_BYTE * task.limits.decoded_bytes(task.shard.rows)


def _check_all(engine: Engine, url: str, manifest: Manifest) -> dict[str, list[str]]:
    """Faults by the URL of each shard that has any.

    A shard that ends the process that decodes it is a fault, not the end of the check.
    """
    faults: dict[str, list[str]] = {}
    checked: set[str] = set()
    while True:
        try:
            for task, part in run_tasks(engine, shard_faults, (t for t in _tasks(url, manifest) if t.url not in checked)):
                checked.add(task.url)
                if part:
                    faults[task.url] = part
            return faults
        except DeadlyTaskError as error:
            dead = next(task.url for task in _tasks(url, manifest) if task.name == error.name)
            checked.add(dead)
            faults[dead] = ["cannot be checked: decoding it ends the process; it is damaged, or memory ran out"]


def _tasks(url: str, manifest: Manifest) -> Iterator[CheckTask]:
    settings, tokenizer = manifest.settings, manifest.tokenizer
    masking = masking_of(url, manifest)
    for name, split in manifest.splits.items():
        is_static = settings["masking"] == "static" or name == "eval"
        for shard in split.shards:
            yield CheckTask(
                url=storage.join(url, shard.path),
                shard=shard,
                format=settings["format"],
                limits=limits_of(manifest, name, shard),
                special_ids=tokenizer["special_ids"],
                masking=masking if is_static else None,
                template=Template.of(tokenizer, recipe_of(settings).template == "pair"),
                cross_documents=settings["cross_documents"],
            )


def shard_faults(task: CheckTask) -> list[str]:
    """What is wrong with one shard."""
    faults: list[str] = []
    try:
        for fault in _shard_faults(task):
            faults.append(fault)  # noqa: PERF402  # keeps the faults before an error
    except Exception as error:  # a damaged shard or an edited manifest may hold anything
        faults.append(f"cannot be decoded and checked: {error or type(error).__name__}")
    return faults


def _shard_faults(task: CheckTask) -> Iterator[str]:
    info, file = task.shard, storage.find(task.url)
    if not file:
        yield "is missing"
        return
    if file.bytes != info.bytes:
        yield f"has {file.bytes} bytes, the manifest says {info.bytes}"
    require_memory(_memory_of(task), "decoding the whole shard", "check it on a machine with more memory")
    data = storage.read_bytes(task.url, 0, min(file.bytes, info.bytes))
    if sha256(data).hexdigest() != info.sha256:
        yield "its sha256 is not the manifest's: the file was changed or damaged"
    FORMATS[task.format].check_stream(memoryview(data), info.row_groups)
    rows = FORMATS[task.format].read(data, info.row_groups, limits=task.limits)
    if columns_sha256(rows) != info.columns_sha256:
        yield "the digest of its columns is not the manifest's"
    for name, count in _counts(rows).items():
        if count != getattr(info, name):
            yield f"{name} is {count}, the manifest says {getattr(info, name)}"
    yield from row_faults(rows, task.limits, task.special_ids, task.masking, task.template, task.cross_documents)


def _counts(rows: Rows) -> dict[str, int]:
    masked = np.diff(rows.masked_offsets) if rows.masked_offsets is not None else np.zeros(1, np.int64)
    return {
        "rows": len(rows),
        "sequences": len(rows.sequence_lengths),
        "tokens": len(rows.input_ids),
        "masked_tokens": int(masked.sum()),
        "not_next": int(rows.next_sentence_label.sum()) if rows.next_sentence_label is not None else 0,
        "max_row_tokens": int(np.diff(rows.token_offsets).max(initial=0)),
        "max_sequence_tokens": int(rows.sequence_lengths.max(initial=0)),
        "max_sequences_per_row": int(np.diff(rows.sequence_offsets).max(initial=0)),
        "max_masked_per_row": int(masked.max(initial=0)),
    }


def ledger_faults(manifest: Manifest) -> Iterator[str]:
    """Sums in the ledger that do not balance."""
    ledger = manifest.ledger
    for unit in ("documents", "bytes"):
        entry = ledger[unit]
        if entry["in"] != entry["used"] + sum(entry["dropped"].values()):
            yield f"ledger.{unit}: {entry['in']} in is not {entry['used']} used + {sum(entry['dropped'].values())} dropped"
    made = 0
    template = Template.of(manifest.tokenizer, recipe_of(manifest.settings).template == "pair")
    for name, split in manifest.splits.items():
        tally, total = ledger["pairs"][name], split.totals()
        made += tally["made"] * (manifest.settings["copies"] if name == "eval" else 1)
        if tally["made"] != tally["placed"] + tally["truncated"] + tally["unpaired"]:
            yield f"ledger.pairs.{name}: made is not placed + truncated + unpaired"
        special = tally["separators"] + template.num_special * total["sequences"]
        text_tokens = tally["placed"] + tally["repeated"] + tally["negatives"]
        if text_tokens + special != total["tokens"]:
            yield (
                f"ledger.pairs.{name}: placed + repeated + negatives + special tokens are not the {total['tokens']} tokens of "
                "the shards"
            )
    tokens = ledger["tokens"] - ledger["duplicates"]["dropped_tokens"]
    if made != tokens * manifest.settings["copies"]:
        yield f"ledger: the splits were made of {made} tokens, the corpus has {tokens} per copy"


def tokenizer_faults(url: str, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the saved tokenizer."""
    folder = storage.join(url, manifest.tokenizer["folder"])
    sound = True
    for name, digest in manifest.tokenizer["files"].items():
        place = storage.join(folder, name)
        info = storage.find(place)
        if not info or info.bytes > MAX_BYTES:
            sound = False
            yield f"{place}: {'is missing' if not info else f'has {info.bytes} bytes, at most {MAX_BYTES} are allowed'}"
        elif sha256(storage.read_bytes(place)).hexdigest() != digest:
            sound = False
            yield f"{place}: its sha256 is not the manifest's: the file was changed or damaged"
    try:
        if sound and load_prepared(folder).describe() != manifest.tokenizer:
            yield f"{folder}: the tokenizer does not match its description in the manifest"
    except UserError as error:  # a stranger's tokenizer that no library should load
        yield str(error)


def _foreign_files(url: str, manifest: Manifest) -> Iterator[str]:
    known = {path for split in manifest.splits.values() for path in split.shards.paths()}
    known |= {f"{manifest.tokenizer['folder']}/{name}" for name in manifest.tokenizer["files"]}
    for path in sizes_of_files(url, (*manifest.splits, manifest.tokenizer["folder"])):
        if path not in known:
            yield f"{storage.join(url, path)}: is not in the manifest"
