"""The training loop: next rows, one step, what is due after it, until the end or until a signal asks to stop.

    _prepare: batches on the device, counts -> _compute: backward, update -> _after: metrics, checkpoint, scores

While a step is computed the next one is prepared: its batches are on the device, and its counts, with stop requests and
faults, are being added up over the ranks. So all ranks end after the same step. A thread packs the step after that.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from shards.errors import UserError
from train.checkpoint import Saver
from train.data.batch import PackedBatch
from train.data.feeding import Feeder
from train.data.reader import read_steps
from train.metrics import Reporter
from train.recipe.phases import Phase
from train.recipe.records import progress
from train.row_log import RowLog
from train.run import Run
from train.scorer import Scorer
from train.start.join import warm_up
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
    row_ids: list[int] | list[str]
    totals: Callable[[], StepTotals]  # waits for the other ranks
    fault: BaseException | None


class Trainer:
    """The loop's state on one rank."""

    def __init__(self, run: Run, reporter: Reporter, row_log: RowLog, stop: StopRequest) -> None:
        self.run, self.reporter, self.row_log, self.stop = run, reporter, row_log, stop
        self.saver = Saver(run.settings.out, run.settings.keep)
        self.sums = StepSums(run.ranks.device)
        self.num_done = self.saved_step = run.start.step
        self.interval = Interval()
        self.scorer = Scorer(run, reporter)
        self._fault: UserError | None = None
        self._has_ended = False

    def train(self) -> int:
        """Trains to the end, or until a stop request. Returns the number of steps done. Raises UserError, on every rank."""
        try:
            if len(self.run.phases) > 1:
                self._announce()
            has_stopped = self._train_phase()
            while not has_stopped and (phase := self.run.next_phase()) is not None:
                self._begin(phase)
                has_stopped = self._train_phase()
            self._save_rest()
            self.run.ranks.agreed(self._settle)
            return self.num_done
        except UserError:  # raised on every rank
            self._end_early()
            raise
        finally:
            with suppress(UserError):  # a checkpoint that is being written is kept, whatever happened
                self.saver.wait()

    def _begin(self, phase: Phase) -> None:
        """Begins a phase after the first one of this start."""
        self.run.enter(phase)
        self._announce()
        for line in warm_up(self.run):
            self.reporter.say(line)
        self.interval = Interval()

    def _announce(self) -> None:
        phase = self.run.phase
        self.reporter.say(
            f"phase {phase.number} of {len(self.run.phases)}: {phase.num_steps:,} steps from step {phase.first_step:,}; "
            f"micro-batches of {phase.shape.rows} rows of up to {phase.shape.tokens} tokens"
        )

    def _train_phase(self) -> bool:
        """Trains the rest of the current phase. Returns whether there was a stop request."""
        run = self.run
        own = run.phase.slice_of(run.ranks.rank, run.ranks.world_size)
        groups = run.groups()
        steps = read_steps(groups, run.phase.order, own, run.phase.masking)
        feeder = Feeder(steps, run.packer(), lambda step: len(self._own_micro_batches(step)), run.settings.micro_batch)
        try:
            return self._loop(feeder)
        finally:
            feeder.close()
            steps.close()  # type: ignore[attr-defined]  # a generator
            groups.close()

    def _own_micro_batches(self, phase_step: int) -> range:
        """This rank's micro-batches of a step of the phase."""
        return self.run.phase.order.micro_batches_of(phase_step, self.run.ranks.rank, self.run.ranks.world_size)

    def _loop(self, feeder: Feeder) -> bool:
        if self.scorer.is_due(self.num_done):  # the start that saved this step may have ended before it scored
            self._score(self.num_done)
        upcoming = self._prepare(feeder, self.num_done)
        while upcoming is not None:
            current, totals = upcoming, upcoming.totals()
            if totals.faults:
                self._raise_fault(current)
            if totals.stop_requests:
                return True
            upcoming = self._prepare(feeder, self.num_done + 1)
            self._compute(current, totals.counts)
            self.num_done += 1
            self._after(self.num_done)
        return False

    def _prepare(self, feeder: Feeder, step: int) -> Prepared | None:
        """The next step, or None after the last of the phase. A fault in it reaches all ranks with the totals."""
        run, phase = self.run, self.run.phase
        if step >= phase.end_step:
            return None
        started = time.perf_counter()
        batches: list[PackedBatch] = []
        row_ids: list[int] | list[str] = []
        seeds, fault = [], None
        try:
            self._check()
            step_batches = feeder.next()
            self.interval.waited_s += time.perf_counter() - started
            row_ids, batches = run.row_names(step_batches.row_ids, step_batches.sources), step_batches.batches
            micro_batches = self._own_micro_batches(step - phase.first_step)
            seeds = [dropout_seed(run.settings.seed, step, micro_batch) for micro_batch in micro_batches]
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
        lr, clip_norm = run.lr(current.step), run.settings.clip_norm
        self.sums.add(losses, update(run.encoder, run.optimizer, lr, clip_norm, run.keeps_gradients))
        self._guard(lambda: self.row_log.write(current.step, current.row_ids))
        self.interval.add(counts, run.phase.rows_of(current.step))

    def _after(self, num_done: int) -> None:
        """What is due after a step. The checkpoint comes before the scores, which can take long."""
        settings, is_last = self.run.settings, num_done == self.run.phase.end_step
        if num_done % settings.log_every == 0 or is_last:
            self._log(num_done)
        self.reporter.show_step(num_done)
        self.interval.pause()
        if is_last or (settings.checkpoint_every and num_done % settings.checkpoint_every == 0):
            self._save(num_done)
        if self.scorer.is_due(num_done):
            self._score(num_done)
        self.interval.resume()

    def _score(self, num_done: int) -> None:
        for source, scores in self.scorer.score(num_done):
            self._guard(partial(self.reporter.log_scores, num_done, source.name, scores.values))

    def _log(self, num_done: int) -> None:
        """Writes a line of metrics about the steps since the last one."""
        run, sums, interval = self.run, self.sums, self.interval
        losses = run.ranks.sum(sums.losses.clone())
        values = torch.cat([losses, torch.stack([sums.skipped, sums.longest, sums.norm])]).tolist()  # waits for the device
        interval.pause()
        num_skipped, longest, norm = int(values[2]), int(values[3]), values[4]
        line = train_line(run, interval, values[:2], num_skipped, norm, run.lr(num_done - 1)) | self._cache_stats()
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
            record = {**progress(run.phase, num_done), **run.record()}
            self.saver.begin(num_done, run.tensors(), run.checkpoint_files(), record)
        self._guard(self.reporter.checkpointed)
        self.saved_step = num_done
