"""The training loop: next rows, one step, what is due after it, until the end or until a signal asks to stop.

    _prepare: batches on the device, counts -> _compute: backward, update -> _after: metrics, checkpoint, scores

While a step is computed the next one is prepared: its batches are on the device, and its counts, with stop requests and
faults, are being added up over the ranks. So all ranks end after the same step. A thread packs the step after that.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch

from shards.errors import UserError
from train.checkpoint import Saver
from train.data.batch import PackedBatch
from train.data.feeding import Feeder
from train.data.phase_order import PhaseOrder
from train.data.reader import read_steps
from train.data.row_groups import DecodedGroups
from train.evaluate import HeldOut
from train.metrics import Reporter
from train.row_log import RowLog
from train.run import SPLIT, Run
from train.step import Counts, StepSums, backward, drop_unused_gradients, dropout_seed, update
from train.stopping import StopRequest
from train.throughput import Interval, train_line


class StepTotals(NamedTuple):
    """What ranks tell each other of a step before it begins: each number is added up over all ranks."""

    tokens: int
    masked: int
    pairs: int
    attended: int
    nearby: int
    stop_requests: int  # ranks that were asked to stop
    faults: int  # ranks that could not prepare the step

    @property
    def counts(self) -> Counts:
        """The part that the losses need."""
        return Counts(self.tokens, self.masked, self.pairs, self.attended, self.nearby)


def _own_totals(batches: Sequence[PackedBatch], stop_requested: bool, has_fault: bool) -> StepTotals:
    tokens, masked, pairs, attended, nearby = (
        sum(getattr(batch, name) for batch in batches) for name in ("tokens", "masked", "pairs", "attended", "nearby")
    )
    return StepTotals(tokens, masked, pairs, attended, nearby, int(stop_requested), int(has_fault))


@dataclass(frozen=True)
class Prepared:
    """A step that can be computed: this rank's batches with their dropout seeds, and a way to learn the totals."""

    step: int
    batches: list[PackedBatch]
    seeds: list[int]
    row_ids: list[int]
    totals: Callable[[], StepTotals]  # waits for the other ranks
    fault: BaseException | None


class Trainer:
    """The loop's state on one rank."""

    def __init__(self, run: Run, reporter: Reporter, row_log: RowLog, stop: StopRequest) -> None:
        self.run, self.reporter, self.row_log, self.stop = run, reporter, row_log, stop
        self.saver = Saver(run.settings.out, run.settings.keep)
        self.sums = StepSums(run.ranks.device)
        self.num_done = self.saved_step = run.first_step
        self.interval = Interval()
        self._micro_batches = run.order.micro_batches_of(run.ranks.rank, run.ranks.world_size)  # of a step, for this rank
        self.held_out = HeldOut(
            run.settings.data,
            run.manifest,
            run.ranks,
            run.settings.micro_batch,
            run.layout,
            run.cache,
            run.settings.ignore_pairs,
        )
        self._fault: UserError | None = None
        self._has_ended = False

    def train(self) -> int:
        """Trains to the end, or until a stop request. Returns the number of steps done. Raises UserError, on every rank."""
        run = self.run
        groups = DecodedGroups(run.settings.data, run.manifest, SPLIT, run.settings.reader_threads, run.prefetcher())
        steps = read_steps(groups, PhaseOrder.of_one(run.order), run.rank_slice(), run.masking)
        feeder = Feeder(steps, run.packer(), lambda step: len(self._micro_batches), run.settings.micro_batch)
        try:
            return self._loop(feeder)
        except UserError:  # raised on every rank
            self._end_early()
            raise
        finally:
            with suppress(UserError):  # a checkpoint that is being written is kept, whatever happened
                self.saver.wait()
            feeder.close()
            steps.close()  # type: ignore[attr-defined]  # a generator
            groups.close()

    def _loop(self, feeder: Feeder) -> int:
        has_scores = self.run.ranks.from_first(lambda: self.reporter.has_scores)
        if self._scores_are_due(self.num_done) and not has_scores:  # the start that saved this step ended before it scored
            self._score(self.num_done)
        upcoming = self._prepare(feeder, self.num_done)
        while upcoming is not None:
            current, totals = upcoming, upcoming.totals()
            if totals.faults:
                self._raise_fault(current)
            if totals.stop_requests:
                break
            upcoming = self._prepare(feeder, self.num_done + 1)
            self._compute(current, totals.counts)
            self.num_done += 1
            self._after(self.num_done)
        self._save_rest()
        self.run.ranks.agreed(self._settle)
        return self.num_done

    def _prepare(self, feeder: Feeder, step: int) -> Prepared | None:
        """The next step, or None after the last. A fault in it reaches all ranks with the totals."""
        run = self.run
        if step >= run.num_steps:
            return None
        started = time.perf_counter()
        batches: list[PackedBatch] = []
        seeds, row_ids, fault = [], [], None
        try:
            self._check()
            step_batches = feeder.next()
            self.interval.waited_s += time.perf_counter() - started
            row_ids, batches = step_batches.row_ids.tolist(), step_batches.batches
            seeds = [dropout_seed(run.settings.seed, step, micro_batch) for micro_batch in self._micro_batches]
        except Exception as error:  # of any kind: the other ranks must not wait for this one
            fault = error
        if not batches:
            batches, seeds = [run.empty_batch()], [0]
        sums = run.ranks.sum_later(_own_totals(batches, self.stop.is_requested, fault is not None))
        return Prepared(step, batches, seeds, row_ids, lambda: StepTotals(*sums()), fault)

    def _end_early(self) -> None:
        """Saves what is done, once. No rank leaves before the checkpoint is written: torchrun then ends the others."""
        if self._has_ended:
            return
        self._has_ended = True
        self._save_rest()
        with suppress(UserError):  # the first fault is the one to report
            self.saver.wait()
        self.run.ranks.gather(None)

    def _raise_fault(self, current: Prepared) -> None:
        """Raises the fault of the first rank that has one, on every rank."""
        self._end_early()
        fault = current.fault
        messages = self.run.ranks.gather(None if fault is None else str(fault) or type(fault).__name__)
        if fault is not None and not isinstance(fault, UserError):
            raise fault  # a bug: the traceback shows where
        raise UserError(next(message for message in messages if message is not None)) from fault

    def _guard(self, action: Callable[[], None]) -> None:
        """Runs what only this rank does. A fault in it reaches all ranks with the next step."""
        try:
            action()
        except UserError as error:
            self._fault = self._fault or error

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault
        self.saver.check()

    def _settle(self) -> None:
        """At the end: waits until everything is written, or raises its error."""
        self.saver.wait()
        self._check()

    def _compute(self, current: Prepared, counts: Counts) -> None:
        run = self.run
        losses = backward(run.model, current.batches, current.seeds, counts, run.autocast)
        drop_unused_gradients(run.encoder, counts)
        lr, clip_norm = self._lr(current.step), run.settings.clip_norm
        self.sums.add(losses, update(run.encoder, run.optimizer, lr, clip_norm, run.keeps_gradients))
        self._guard(lambda: self.row_log.write(current.step, current.row_ids))
        self.interval.add(counts)

    def _lr(self, step: int) -> float:
        return self.run.settings.learning_rates(self.run.num_steps).lr(step)

    def _after(self, num_done: int) -> None:
        """What is due after a step. The checkpoint comes before the scores, which can take long."""
        settings, is_last = self.run.settings, num_done == self.run.num_steps
        if num_done % settings.log_every == 0 or is_last:
            self._log(num_done)
        self.reporter.show_step(num_done)
        self.interval.pause()
        if is_last or (settings.checkpoint_every and num_done % settings.checkpoint_every == 0):
            self._save(num_done)
        if self._scores_are_due(num_done):
            self._score(num_done)
        self.interval.resume()

    def _scores_are_due(self, num_done: int) -> bool:
        every = self.run.settings.eval_every
        return num_done == self.run.num_steps or bool(every and num_done and num_done % every == 0)

    def _score(self, num_done: int) -> None:
        run = self.run
        if not run.manifest.splits["eval"].shards:
            return
        max_rows = run.settings.eval_rows if num_done < run.num_steps else 0
        num_rows = run.manifest.splits["eval"].totals()["rows"]
        self.reporter.say(f"scoring {min(max_rows or num_rows, num_rows):,} held-out rows")
        scores = self.held_out.score(run.packed, max_rows, run.autocast)
        for line in scores.lines():
            self.reporter.say(line)
        self._guard(lambda: self.reporter.log("eval", num_done, scores.values))

    def _log(self, num_done: int) -> None:
        """Writes a line of metrics about the steps since the last one."""
        run, sums, interval = self.run, self.sums, self.interval
        losses = run.ranks.sum(sums.losses.clone())
        values = torch.cat([losses, torch.stack([sums.skipped, sums.longest, sums.norm])]).tolist()  # waits for the device
        interval.pause()
        num_skipped, longest, norm = int(values[2]), int(values[3]), values[4]
        line = train_line(run, interval, values[:2], num_skipped, norm, self._lr(num_done - 1)) | self._cache_stats()
        self._guard(lambda: self.reporter.log("train", num_done, line))
        if num_skipped:
            self.reporter.say(
                f"warning: {num_skipped} of the last {interval.steps} steps were skipped: their gradient was not finite"
            )
        sums.clear()
        self.interval = Interval()
        if longest >= run.settings.max_skipped:
            raise UserError(
                f"the gradient was not finite in {longest} steps in a row, up to step {num_done} (--max-skipped is "
                f"{run.settings.max_skipped}); lower --lr or raise --warmup-steps, with another --out"
            )

    def _cache_stats(self) -> dict[str, int]:
        """What the caches of all machines did since the last line; empty without a cache."""
        run = self.run
        if run.cache is None:
            return {}
        stats = vars(run.cache.take_stats())
        sums = dict(zip(stats, run.ranks.sum_later(list(stats.values()))(), strict=True))
        for name, what in (
            ("failures", "fetches failed and will be tried again"),
            ("damaged", "shards were damaged on the disk"),
        ):
            if sums[name]:
                self.reporter.say(f"warning: --cache {run.settings.cache}: {sums[name]} {what}")
        return {f"cache_{name}": number for name, number in sums.items()}

    def _save_rest(self) -> None:
        if self.num_done > self.saved_step:
            self._save(self.num_done)

    def _save(self, num_done: int) -> None:
        """Starts to write a checkpoint, on rank 0. Training continues meanwhile."""
        run = self.run
        if run.ranks.rank == 0:
            self.saver.begin(num_done, run.tensors(), run.files, {"position": run.position(num_done), **run.record()})
        self._guard(self.reporter.checkpointed)
        self.saved_step = num_done
