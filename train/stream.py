"""A data set as a stream of batches, for your own training loop and for transformers' Trainer."""

import atexit
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from shards.command.console import say
from shards.dataset import open_data_set
from shards.errors import UserError
from shards.manifest import differences
from shards.schema import Rows
from train.data.batch import PackedBatch, pack_batch, pad_batch
from train.data.layout import Shape
from train.data.memory import require_reader
from train.data.order import ORDER_VERSION, WINDOW_ROWS, Order, RowGroups
from train.data.phase_order import PhaseOrder
from train.data.prefetch import Prefetcher, not_cached, open_cache
from train.data.reader import RankSlice, read_steps
from train.data.row_groups import DecodedGroups, check_sizes
from train.data.shard_uses import lanes_in_phase, uses_in_phase
from train.models.config import longest_sequence
from train.recipe.phases import choose_masking
from train.settings import MaskSource

Item = dict[str, torch.Tensor] | PackedBatch
_OPEN: "weakref.WeakSet[Generator[Item, None, None]]" = weakref.WeakSet()


@atexit.register
def _close_open_streams() -> None:
    """Ends the threads of iterators that a program has left open: as Python exits, they would end with errors."""
    for items in list(_OPEN):
        with suppress(ValueError):  # another thread is in it
            items.close()


class ShardStream(IterableDataset[Item]):
    """The micro-batches of one rank. Their order depends on the data set, the seed and the batch only.

    A *step* is the next `global_batch` rows. They are cut into micro-batches, and the ranks share these evenly. The last
    step may be short: its missing micro-batches are empty when packed, and left out when padded. So set `drop_last`, which
    leaves out the short step, for a padded run of several ranks.

    With `packed`, an item is a `PackedBatch` (see train/data/batch.py), for `train.models.packed.PackedEncoder`. Otherwise
    it is a dict of int64 tensors under transformers' names, each [sequences, longest]: `input_ids`, `attention_mask`,
    `token_type_ids`, `labels` (-100 where nothing is to be predicted), and `next_sentence_label` [sequences] if there are
    pairs. Set `token_types=False` for a model that takes none. `pair_label` renames the label of pairs (ALBERT's is
    `sentence_order_label`); with "" it is left out, for a model without a pair head.

    `state_dict()` is the position: a few numbers, the same on all ranks at the end of a step. A state from the end of a step
    loads on any number of ranks; a state within a step only on the same number. It counts the items that were handed out, so
    call it before anything that reads ahead (a DataLoader with workers, Accelerate). Use a DataLoader with
    `batch_size=None` and no workers: the stream has threads of its own.
    """

    def __init__(
        self,
        url: str,
        *,
        split: str = "train",
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        epochs: int = 1,
        seed: int = 0,
        masking: MaskSource = "auto",
        drop_last: bool = False,
        packed: bool = False,
        pair_label: str = "next_sentence_label",
        token_types: bool = True,
        threads: int = 2,
        cache: str = "",
        cache_bytes: int = 0,
    ) -> None:
        """`global_batch` and `micro_batch` are in rows; `masking`, `cache` and `cache_bytes` are as for `python -m train`.

        Raises UserError when the data set is missing or damaged, or a value is not allowed.
        """
        if not 0 <= rank < world_size or epochs < 1 or threads < 1:
            raise UserError(
                f"rank {rank} of {world_size}, {epochs} epochs, {threads} threads: allowed are ranks from 0 to world_size - 1, "
                "and 1 or more of the others"
            )
        self._url, self._split, self._packed, self._threads = url, split, packed, threads
        self._manifest = open_data_set(url)
        if split not in self._manifest.splits:
            raise UserError(f"{url}: has no split {split!r}; there are {', '.join(self._manifest.splits)}")
        check_sizes(url, self._manifest, split)
        rule = choose_masking(masking, url, self._manifest)
        self._masking = rule if split == "train" else None
        self._order = Order(RowGroups.of(self._manifest.splits[split]), seed, global_batch, micro_batch)
        self._phase = PhaseOrder.of_one(self._order)
        self._end = epochs * self._order.groups.num_rows
        if drop_last:
            self._end -= self._end % global_batch
        if not self._end:
            raise UserError(
                f"{url}: {epochs} epochs of {self._order.groups.num_rows} rows are less than a global batch of {global_batch}, "
                "and drop_last leaves out the short step; use a smaller batch"
            )
        if world_size > self._order.num_micro_batches and not packed:
            raise UserError(
                f"{world_size} ranks, but a step has {self._order.num_micro_batches} micro-batches; each rank needs one"
            )
        self._rank, self._world_size = rank, world_size
        shards = self._manifest.splits[split].shards
        require_reader(url, self._manifest, split, self._lanes(0)[0])
        self._cache = open_cache(cache, cache_bytes, [(url, shards)], [len(self._lanes(0)[0])])
        for line in not_cached(cache, url) if rank == 0 else ():
            say(line)
        self._pair_label, self._token_types = pair_label, token_types
        self._shape = Shape.of(self._manifest, split, micro_batch, self._masking, ignores_pairs=not pair_label)
        self._longest = longest_sequence(self._manifest)
        self._step = self._taken = 0
        self._has_ended = False

    @property
    def num_steps(self) -> int:
        """The number of steps in all epochs. The last one may be short."""
        return -(-self._end // self._order.global_batch)

    def state_dict(self) -> dict[str, Any]:
        """The position: which item is next."""
        order = self._order
        return {
            "step": self._step,
            "taken": self._taken,  # micro-batches of that step that this rank was given
            "world_size": self._world_size if self._taken else None,
            "position": min(self._step * order.global_batch, self._end),
            "data": {
                "fingerprint": self._manifest.data_fingerprint,
                "split": self._split,
                "seed": order.seed,
                "global_batch": order.global_batch,
                "micro_batch": order.micro_batch,
                "masking": self._masking.probability if self._masking else "stored",
                "tokenizer": self._manifest.tokenizer["fingerprint"][:16],
                "order": [ORDER_VERSION, order.lanes, WINDOW_ROWS, order.groups.fingerprint[:16]],
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Moves to a position. Raises UserError when it belongs to another stream."""
        if not all(name in state for name in self.state_dict()):
            raise UserError(f"{self._url}: the state is not one of ShardStream; it has {', '.join(map(str, state))}")
        changes = differences(state["data"], self.state_dict()["data"])
        if changes:
            raise UserError(f"{self._url}: the state belongs to another stream ({'; '.join(changes)}); use the same values")
        if state["taken"] and state["world_size"] != self._world_size:
            raise UserError(
                f"the state was saved within a step of {state['world_size']} ranks, this stream has {self._world_size}; "
                "to change the number of ranks, save it at the end of a step"
            )
        if state["position"] != min(state["step"] * self._order.global_batch, self._end):
            raise UserError(f"{self._url}: the state is the end of a stream of another length; use the same number of epochs")
        self._step, self._taken, self._has_ended = int(state["step"]), int(state["taken"]), False

    def __iter__(self) -> Iterator[Item]:
        """The items from the position on.

        A stream that has ended starts again. A position loaded at the end gives no items, and then starts again.
        """
        items = self._items()
        _OPEN.add(items)
        return items

    def _items(self) -> Generator[Item, None, None]:
        if get_worker_info() is not None:
            raise UserError("this stream reads ahead with threads; give it to a DataLoader with num_workers=0")
        if self._has_ended:
            self._step, self._taken, self._has_ended = 0, 0, False
        rank_slice = self._rank_slice()
        groups = DecodedGroups(self._url, self._manifest, self._split, self._threads, self._prefetcher(rank_slice))
        steps = read_steps(groups, self._phase, rank_slice, self._masking)
        count = len(self._order.micro_batches_of(self._rank, self._world_size))
        try:
            for step_rows in steps:
                for number in range(self._taken, count):
                    self._step, self._taken = (step_rows.step, number + 1) if number + 1 < count else (step_rows.step + 1, 0)
                    if self._packed or number * self._order.micro_batch < len(step_rows.rows):
                        yield self._batch(step_rows.micro_batch(number, self._order.micro_batch))
                self._step, self._taken = step_rows.step + 1, 0
            self._has_ended = True
        finally:
            steps.close()  # type: ignore[attr-defined]  # a generator
            groups.close()

    def _rank_slice(self) -> RankSlice:
        return RankSlice(self._rank, self._world_size, self._step, self._step * self._order.global_batch, self._end)

    def _lanes(self, start: int) -> dict[int, Sequence[int]]:
        return lanes_in_phase(self._phase, range(self._rank, self._rank + 1), self._world_size, start)

    def _prefetcher(self, rank_slice: RankSlice) -> Prefetcher | None:
        if self._cache is None:
            return None
        uses_at = uses_in_phase(self._phase, self._lanes(rank_slice.start), rank_slice.end)
        return Prefetcher(self._cache, [(self._url, self._manifest.splits[self._split].shards)], uses_at, self._threads)

    def _batch(self, rows: Rows) -> Item:
        pad_id = self._manifest.tokenizer["special_ids"]["pad"]
        if self._packed:
            return pack_batch(rows, self._shape, pad_id)
        return pad_batch(rows, self._longest, pad_id, self._pair_label, self._token_types)
