"""Scores of a run on held-out data: of which data sets, on how many rows.

loop, a step -> the phase's data sets, or all -> HeldOut of each -> lines for the user, Scores
"""

from collections.abc import Iterator

from train.evaluate import HeldOut, Scores
from train.metrics import Reporter
from train.recipe.sources import EVAL_SPLIT, Source
from train.run import Run


class Scorer:
    """Scores the model of a run. On every rank."""

    def __init__(self, run: Run, reporter: Reporter) -> None:
        self.run, self.reporter = run, reporter
        self._held_out: dict[tuple[str, int], HeldOut] = {}  # by the name of the data set and the micro-batch

    def is_due(self, num_done: int) -> bool:
        """Whether a step is followed by scores: each `--eval-every` steps, and at the end of the phase."""
        every = self.run.settings.eval_every
        return num_done == self.run.phase.end_step or bool(every and num_done and num_done % every == 0)

    def score(self, num_done: int) -> Iterator[tuple[Source, Scores]]:
        """Scores what has no line of this step yet: the phase's data sets or, at its end and with --eval-all, all.

        Raises UserError, on every rank.
        """
        run, is_last = self.run, num_done == self.run.phase.end_step
        sources = run.sources if is_last and run.settings.eval_all else run.phase.sources
        scored = run.ranks.from_first(lambda: self.reporter.scored(num_done))
        for source in sources:
            if source.manifest.splits[EVAL_SPLIT].shards and source.name not in scored:
                yield source, self._score(source, 0 if is_last else run.settings.eval_rows)

    def _score(self, source: Source, max_rows: int) -> Scores:
        num_rows = source.manifest.splits[EVAL_SPLIT].totals()["rows"]
        of_source = f" of {source.name}" if len(self.run.sources) > 1 else ""
        self.reporter.say(f"scoring {min(max_rows or num_rows, num_rows):,} held-out rows{of_source}")
        scores = self._held_out_of(source).score(self.run.packed, max_rows, self.run.autocast)
        for line in scores.lines():
            self.reporter.say(line)
        return scores

    def _held_out_of(self, source: Source) -> HeldOut:
        run, key = self.run, (source.name, self.run.settings.micro_batch)
        if key not in self._held_out:
            self._held_out[key] = HeldOut(
                source.url, source.manifest, run.ranks, key[1], run.layout, run.cache, run.settings.ignore_pairs
            )
        return self._held_out[key]
