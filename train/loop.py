"""The run: next rows, one step, what is due after it, until the end or until somebody asks to stop.

While a step is computed the next one is already prepared: its batches are on the device, and its counts, with the wish to
stop and the news of a fault, are being added up over the ranks. So all ranks end after the same step.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from shards.errors import UserError
from train.checkpoint import Saver
from train.data.batch import PackedBatch, pack_batch
from train.data.reader import RankSlice, StepRows, read_steps
from train.data.row_groups import DecodedGroups
from train.evaluate import evaluate
from train.metrics import Reporter
from train.optimizer import learning_rate
from train.row_log import RowLog
from train.run import SPLIT, Run
from train.step import Counts, StepSums, backward, dropout_seed, update
from train.stopping import StopRequest
from train.throughput import Interval, peak_flops, step_flops


@dataclass(frozen=True)
class Prepared:
    """A step that can be computed: this rank's batches and their seeds, and how to learn what all ranks have in it."""

    step: int
    batches: list[PackedBatch]
    seeds: list[int]
    row_ids: list[int]
    totals: Callable[[], list[int]]  # tokens, masked, pairs, attended, wishes to stop, faults
    fault: BaseException | None


class Trainer:
    """The loop's state on one rank."""

    def __init__(self, run: Run, reporter: Reporter, row_log: RowLog, stop: StopRequest) -> None:
        self.run, self.reporter, self.row_log, self.stop = run, reporter, row_log, stop
        self.saver = Saver(run.settings.out, run.settings.keep)
        self.sums = StepSums(run.ranks.device)
        self.done = self.saved_step = run.first_step
        self.interval = Interval()
        self._fault: UserError | None = None
        self._ended = False

    def train(self) -> int:
        """Trains to the end, or until asked to stop; returns the steps done. Raises UserError, on every rank."""
        run = self.run
        threads = run.settings.reader_threads
        groups = DecodedGroups(run.settings.data, run.manifest, SPLIT, threads, run.prefetcher())
        rank_slice = RankSlice(run.ranks.rank, run.ranks.world_size, run.first_step, run.first_position, run.end)
        steps = read_steps(groups, run.order, rank_slice, run.masking)
        try:
            return self._steps(steps)
        except UserError:  # raised on every rank
            self._end_early()
            raise
        finally:
            with suppress(UserError):  # what is being written is worth waiting for, whatever happened
                self.saver.wait()
            steps.close()  # type: ignore[attr-defined]  # a generator
            groups.close()

    def _steps(self, steps: Iterator[StepRows]) -> int:
        scored = self.run.ranks.from_first(lambda: self.reporter.has_scores)
        if self._scores_are_due(self.done) and not scored:  # by the start that made the checkpoint
            self._score(self.done)
        upcoming = self._prepare(steps, self.done)
        while upcoming is not None:
            current = upcoming
            *sums, stops, faults = current.totals()
            if faults:
                self._raise_fault(current)
            if stops:
                break
            upcoming = self._prepare(steps, self.done + 1)
            self._compute(current, Counts(*sums))
            self.done += 1
            self._after(self.done)
        self._save_rest()
        self.run.ranks.agreed(self._settle)
        return self.done

    def _prepare(self, steps: Iterator[StepRows], step: int) -> Prepared | None:
        """The next step, or None behind the last. What fails here is told to all ranks with the counts."""
        run = self.run
        if step >= run.num_steps:
            return None
        started = time.perf_counter()
        batches, seeds, row_ids, fault = [], [], [], None
        try:
            self._check()
            given = next(steps)
            self.interval.waited_s += time.perf_counter() - started
            row_ids = given.row_ids.tolist()
            for number, micro_batch in enumerate(run.order.micro_batches_of(run.ranks.rank, run.ranks.world_size)):
                first = number * run.settings.micro_batch
                rows = given.rows.slice(min(first, len(row_ids)), min(first + run.settings.micro_batch, len(row_ids)))
                batches.append(pack_batch(rows, run.shape, run.pad_id()).to(run.ranks.device))
                seeds.append(dropout_seed(run.settings.seed, step, micro_batch))
        except Exception as error:  # of any kind: the others must not wait for this rank
            fault = error
        if not batches:
            batches, seeds = [run.empty_batch()], [0]
        counts = [sum(getattr(b, name) for b in batches) for name in ("tokens", "masked", "pairs", "attended")]
        totals = run.ranks.sum_later([*counts, int(self.stop.requested), int(fault is not None)])
        return Prepared(step, batches, seeds, row_ids, totals, fault)

    def _end_early(self) -> None:
        """Saves what is done, once; nobody ends, and so ends the others, before that is written."""
        if self._ended:
            return
        self._ended = True
        self._save_rest()
        with suppress(UserError):  # one fault is told, the first
            self.saver.wait()
        self.run.ranks.gather(None)

    def _raise_fault(self, current: Prepared) -> None:
        """Raises what the first rank with a fault says, on every rank."""
        self._end_early()
        told = self.run.ranks.gather(None if current.fault is None else str(current.fault) or type(current.fault).__name__)
        if current.fault is not None and not isinstance(current.fault, UserError):
            raise current.fault  # a fault of the program shows where it happened
        raise UserError(next(message for message in told if message is not None)) from current.fault

    def _guard(self, action: Callable[[], None]) -> None:
        """Runs what only this rank does; what fails is told to all ranks before the next step."""
        try:
            action()
        except UserError as error:
            self._fault = self._fault or error

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault
        self.saver.check()

    def _settle(self) -> None:
        """At the end: everything is written, or its error is raised."""
        self.saver.wait()
        self._check()

    def _compute(self, current: Prepared, counts: Counts) -> None:
        run = self.run
        self.sums.losses += backward(run.model, current.batches, current.seeds, counts, run.autocast)
        lr = self._lr(current.step)
        update(run.bert, run.optimizer, lr, run.settings.clip_norm, self.sums)
        self._guard(lambda: self.row_log.write(current.step, current.row_ids))
        self.interval.add(counts)

    def _lr(self, step: int) -> float:
        settings, num_steps = self.run.settings, self.run.num_steps
        return learning_rate(step, settings.lr, settings.warmup(num_steps), num_steps)

    def _after(self, done: int) -> None:
        """What is due once `done` steps are done. The checkpoint comes before the scores, which can take long."""
        settings, last = self.run.settings, done == self.run.num_steps
        if done % settings.log_every == 0 or last:
            self._log(done)
        self.reporter.show_step(done)
        self.interval.pause()
        if last or (settings.checkpoint_every and done % settings.checkpoint_every == 0):
            self._save(done)
        if self._scores_are_due(done):
            self._score(done)
        self.interval.resume()

    def _scores_are_due(self, done: int) -> bool:
        every = self.run.settings.eval_every
        return done == self.run.num_steps or bool(every and done and done % every == 0)

    def _score(self, done: int) -> None:
        run, max_rows = self.run, self.run.settings.eval_rows if done < self.run.num_steps else 0
        if not run.manifest.splits["eval"].shards:
            return
        self.reporter.say(f"scoring {max_rows or run.manifest.splits['eval'].totals()['rows']:,} held-out rows at most")
        rows = (run.settings.micro_batch, max_rows)
        scores = evaluate(run.packed, run.settings.data, run.manifest, run.ranks, *rows, run.autocast, run.cache)
        for line in scores.lines():
            self.reporter.say(line)
        self._guard(lambda: self.reporter.log("eval", done, vars(scores)))

    def _log(self, done: int) -> None:
        run, sums, interval = self.run, self.sums, self.interval
        losses = run.ranks.sum(sums.losses.clone())
        values = torch.cat([losses, torch.stack([sums.skipped, sums.longest, sums.norm])]).tolist()  # waits for the device
        interval.pause()
        mlm_loss, nsp_loss = (value / interval.steps for value in values[:2])
        skipped, longest, norm = int(values[2]), int(values[3]), values[4]
        peak = peak_flops(run.ranks.device, run.half)
        flops = step_flops(run.bert.config, interval.counts())
        per_second = 1.0 / max(1e-9, interval.seconds)
        line: dict[str, Any] = {
            "loss": mlm_loss + nsp_loss,
            "mlm_loss": mlm_loss,
            "nsp_loss": nsp_loss,
            "lr": self._lr(done - 1),
            "grad_norm": norm,
            "tokens_per_s": interval.tokens * per_second,
            "padding_share": 1.0 - interval.tokens / (interval.steps * run.settings.global_batch * run.shape.tokens),
            "data_wait_share": interval.waited_s * per_second,
            "mfu": flops * per_second / (peak * run.ranks.world_size) if peak else None,
            "skipped": skipped,
            **self._cache_counts(),
        }
        self._guard(lambda: self.reporter.log("train", done, line))
        if skipped:
            self.reporter.say(f"warning: {skipped} of the last {interval.steps} steps skipped: their gradient was not finite")
        sums.clear()
        self.interval = Interval()
        if longest >= run.settings.max_skipped:
            raise UserError(
                f"the gradient was not finite in {longest} steps in a row, up to step {done} (--max-skipped is "
                f"{run.settings.max_skipped}); lower --lr or raise --warmup-steps, with another --out"
            )

    def _cache_counts(self) -> dict[str, int]:
        """What the caches of all machines did since the last line; nothing without one."""
        run = self.run
        if run.cache is None:
            return {}
        counts = vars(run.cache.take_stats())
        sums = dict(zip(counts, run.ranks.sum_later(list(counts.values()))(), strict=True))
        for name, what in (("failures", "fetches failed and are tried again"), ("damaged", "shards were damaged on the disk")):
            if sums[name]:
                self.reporter.say(f"warning: --cache {run.settings.cache}: {sums[name]} {what}")
        return {f"cache_{name}": number for name, number in sums.items()}

    def _save_rest(self) -> None:
        if self.done > self.saved_step:
            self._save(self.done)

    def _save(self, done: int) -> None:
        """Begins to write a checkpoint, on rank 0; training goes on meanwhile."""
        run = self.run
        if run.ranks.rank == 0:
            self.saver.begin(done, run.tensors(), run.files, {"position": run.position(done), **run.record()})
        self._guard(self.reporter.checkpointed)
        self.saved_step = done
