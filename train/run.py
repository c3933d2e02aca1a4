"""Everything of a run before its first step: data set, order, model, optimizer, and where a checkpoint left off."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import nn
from transformers import BertForPreTraining

from shards import storage
from shards.dataset import masking_of, open_data_set
from shards.errors import UserError
from shards.manifest import Manifest, differences
from shards.masking import Masking
from shards.storage.redaction import redacted
from train import attention, checkpoint
from train.checkpoint import CONFIG, MODEL, OPTIMIZER, Checkpoint
from train.data.batch import PackedBatch, Shape, pack_batch
from train.data.cache import Cache
from train.data.order import ORDER_VERSION, WINDOW_ROWS, Order, RowGroups
from train.data.prefetch import Prefetcher, not_cached, open_cache
from train.data.reader import empty_rows
from train.data.row_groups import check_sizes
from train.data.shard_uses import lanes_of, uses_in_training
from train.history import RUN_NAME
from train.model import PackedBert
from train.optimizer import make_optimizer, state_tensors
from train.ranks import Ranks, autocast, use_half
from train.settings import FIXED, Settings
from train.weights import make_bert

SPLIT = "train"


@dataclass
class Run:
    """What the loop works with. `model` is what is called in a step: the packed BERT, compiled and within DDP where asked."""

    settings: Settings
    ranks: Ranks
    manifest: Manifest
    order: Order
    masking: Masking | None
    shape: Shape
    bert: BertForPreTraining
    packed: nn.Module
    model: nn.Module
    optimizer: torch.optim.AdamW
    half: bool
    files: dict[str, bytes]  # of a checkpoint: those that never change
    first_step: int = 0
    first_position: int = 0
    cache: Cache | None = None

    @property
    def end(self) -> int:
        """The position at which the run ends."""
        left = (self.settings.steps - self.first_step) * self.settings.global_batch
        return self.first_position + left if self.settings.steps else self.settings.epochs * self.order.groups.num_rows

    @property
    def num_steps(self) -> int:
        """Steps of the whole run, the last of which may be short."""
        return self.first_step - (self.first_position - self.end) // self.settings.global_batch

    def position(self, step: int) -> int:
        """Where a step begins."""
        return min(self.end, self.first_position + (step - self.first_step) * self.settings.global_batch)

    def lanes(self) -> list[int]:
        """The lanes that the processes of this machine read."""
        return lanes_of(self.order, self.ranks.local, self.ranks.world_size, self.first_position)

    def prefetcher(self) -> Prefetcher | None:
        """What keeps the cache, where there is one, ahead of the processes of this machine."""
        if self.cache is None:
            return None
        shards, threads = self.manifest.splits[SPLIT].shards, self.settings.reader_threads
        return Prefetcher(self.cache, self.settings.data, shards, uses_in_training(self.order, self.lanes(), self.end), threads)

    def autocast(self) -> Any:
        """The context of a forward pass."""
        return autocast(self.ranks.device, self.half)

    def pad_id(self) -> int:
        """The id of [PAD]."""
        return int(self.manifest.tokenizer["special_ids"]["pad"])

    def empty_batch(self) -> PackedBatch:
        """For a rank without work: it joins in, and adds nothing."""
        return pack_batch(empty_rows(), self.shape, self.pad_id()).to(self.ranks.device)

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """What a checkpoint keeps, by file."""
        return {MODEL: dict(self.bert.named_parameters()), OPTIMIZER: dict(state_tensors(self.bert, self.optimizer))}

    def record(self) -> dict[str, Any]:
        """What a checkpoint says of the run that it belongs to."""
        return {
            "data_fingerprint": self.manifest.data_fingerprint,
            "tokenizer_fingerprint": self.manifest.tokenizer["fingerprint"],
            "order": {
                "version": ORDER_VERSION,
                "lanes": self.order.lanes,
                "window_rows": WINDOW_ROWS,
                "row_groups": self.order.groups.fingerprint,
            },
            "mask_prob": self.masking.probability if self.masking else None,
            "model": _model_settings(self.bert),
            "settings": {
                name: redacted(value) if isinstance(value, str) else value
                for name, value in dataclasses.asdict(self.settings).items()
            },
        }


def _model_settings(bert: BertForPreTraining) -> dict[str, Any]:
    left_out = ("transformers_version", "architectures", "dtype", "_name_or_path")
    settings = {name: value for name, value in bert.config.to_dict().items() if name not in left_out}
    plain: dict[str, Any] = json.loads(json.dumps(settings))  # as a checkpoint's record gives them back
    return plain


def prepare(settings: Settings, ranks: Ranks) -> tuple[Run, list[str]]:
    """The run at its first step, without a checkpoint, and what to say of it. Raises UserError. Ranks do not talk here."""
    manifest = open_data_set(settings.data)
    if SPLIT not in manifest.splits or "eval" not in manifest.splits:
        raise UserError(f"{settings.data}: its manifest has no splits train and eval; build it again")
    for split in manifest.splits if ranks.rank == 0 else ():
        check_sizes(settings.data, manifest, split)
    is_dynamic, rule = choose_masking(settings.masking, settings.data, manifest)
    settings = dataclasses.replace(settings, masking="dynamic" if is_dynamic else "stored")
    masking = rule if is_dynamic else None
    order = Order(RowGroups.of(manifest.splits[SPLIT]), settings.seed, settings.global_batch, settings.micro_batch)
    half = use_half(settings.precision, ranks.device)
    bert, said = make_bert(settings.model, manifest, settings.data, settings.dropout, settings.seed)
    name = attention.choose(settings.attention, ranks.device, half, bert)
    packed: Any = PackedBert(bert).to(ranks.device).train()
    if settings.compile:
        packed = torch.compile(packed)
    shape = Shape.of(manifest, SPLIT, settings.micro_batch, masking)
    files = _files(settings.data, manifest, bert)
    optimizer = make_optimizer(bert, settings.weight_decay)
    run = Run(settings, ranks, manifest, order, masking, shape, bert, packed, packed, optimizer, half, files)
    shards = manifest.splits[SPLIT].shards
    run.cache = open_cache(settings.cache, settings.cache_bytes, settings.data, shards, len(run.lanes()))
    said += not_cached(settings.cache, settings.data)
    if not manifest.splits["eval"].shards:
        said.append(f"{settings.data}: has no held-out split, so there will be no scores")
    if name == attention.VARLEN and settings.dropout:
        said.append("attention: varlen, whose kernels have no dropout; --dropout works on hidden states only")
    return run, said


def choose_masking(asked: str, url: str, manifest: Manifest) -> tuple[bool, Masking]:
    """Whether `--masking auto|stored|dynamic` means masks drawn on reading, and the rule for them. Raises UserError."""
    stored = manifest.settings["masking"] == "static"
    if asked == "stored" and not stored:
        raise UserError(f"--masking stored: {url} was built with --masking dynamic and holds no masks; use dynamic")
    if asked not in ("auto", "stored", "dynamic"):
        raise UserError(f"--masking is {asked!r}, must be one of auto, stored, dynamic")
    return asked == "dynamic" or not stored, masking_of(url, manifest)


def _files(url: str, manifest: Manifest, bert: BertForPreTraining) -> dict[str, bytes]:
    """config.json, and the data set's tokenizer."""
    bert.config.architectures = [type(bert).__name__]
    files = {CONFIG: bert.config.to_json_string(use_diff=True).encode()}
    for name, digest in manifest.tokenizer["files"].items():
        place = storage.join(url, manifest.tokenizer["folder"], name)
        files[name] = storage.read_bytes(place)
        if sha256(files[name]).hexdigest() != digest:
            raise UserError(f"{place}: its sha256 is not the manifest's: it was changed or damaged; build the data set again")
    return files


@contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Keeps other runs out of a local --out, and clears away what a killed one left."""
    out, ranks = run.settings.out, run.ranks
    with ExitStack() as stack:

        def claim() -> None:
            if ranks.rank == 0:
                stack.enter_context(storage.locked(out, ".lock", "run"))
                checkpoint.remove_unfinished(out)

        ranks.agreed(claim)
        yield


def resume(run: Run, warn: Any) -> list[str]:
    """Puts the run where its newest good checkpoint left off; the other ranks get rank 0's tensors. Returns what to say.

    Raises UserError, on every rank, when the checkpoint is of another model, data set, seed, batch or optimizer.
    """

    def load() -> tuple[int, int, list[str]]:
        found = checkpoint.newest(run.settings.out, _read_whole, warn)
        if found is None:
            return 0, 0, []
        saved, (model, moments) = found
        said = list(_check_record(saved, run))
        with torch.no_grad():
            for file, tensors in ((model, run.tensors()[MODEL]), (moments, run.tensors()[OPTIMIZER])):
                for name, tensor in tensors.items():
                    tensor.copy_(file[name])
        return saved.step, saved.record["position"], [f"going on from step {saved.step} ({saved.url})", *said]

    run.first_step, run.first_position, said = run.ranks.from_first(load)
    for tensors in run.tensors().values():
        for tensor in tensors.values():
            run.ranks.share_tensor(tensor.data)
    run.ranks.agreed(lambda: _write_settings(run))
    return said


def _read_whole(saved: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Model and optimizer; the other files are checked too, because evaluation and export will want them."""
    for name in saved.record["files"]:
        if name not in (MODEL, OPTIMIZER):
            saved.read(name)
    return saved.tensors(MODEL), saved.tensors(OPTIMIZER)


def _write_settings(run: Run) -> None:
    if run.ranks.rank == 0:
        storage.publish(storage.join(run.settings.out, RUN_NAME), json.dumps(run.record(), indent=1).encode())


def _check_record(saved: Checkpoint, run: Run) -> Iterator[str]:
    """Raises UserError with the difference named, or yields what changed and may."""
    old, new = saved.record, run.record()
    refused = []
    if any(old[name] != new[name] for name in ("data_fingerprint", "tokenizer_fingerprint", "mask_prob")):
        refused.append("the data set is another one")
    refused += [f"order {change}" for change in differences(old["order"], new["order"])]
    refused += [f"model {change}" for change in differences(old["model"], new["model"])]
    both = old["settings"].keys() & new["settings"].keys()  # a setting of another release has nothing to be compared with
    before, now = ({name: record["settings"][name] for name in both} for record in (old, new))
    for change in differences(before, now):
        if change.partition(":")[0] in FIXED:
            refused.append(change)
        else:
            yield f"changed since: {change}"
    if refused:
        raise UserError(
            f"{run.settings.out}: was begun with other settings ({'; '.join(refused)}); choose those, or another --out"
        )
    if saved.step > run.settings.steps if run.settings.steps else old["position"] > run.end:
        raise UserError(f"{run.settings.out}: has done {saved.step} steps, which is more than was asked for now; ask for more")


def join_ranks(run: Run) -> None:
    """Puts DDP around the model, and once runs an empty micro-batch through it: what DDP learns of the model, and what
    torch.compile makes, is then the same from the first step on, wherever a run starts."""
    run.model = run.ranks.wrap(run.packed)
    with run.autocast():
        sums = run.model(run.empty_batch())
    (sums.mlm_loss + sums.nsp_loss).backward()
    run.optimizer.zero_grad()
