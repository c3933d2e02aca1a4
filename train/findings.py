"""What looks wrong with a run, in words, with what to do: the first thing its report says."""

from collections.abc import Iterator

from shards.report.sheet import Finding
from train.history import History, median

_MOST_WAITING = 0.05
_OVERFIT = 1.02


def findings(run: History) -> Iterator[Finding]:
    """What looks wrong with a run."""
    if not run.ending:
        yield Finding(
            f"It has not ended: after step {run.done:,} of {run.num_steps:,} it is at work, or it was killed.",
            "If it was killed, the same command goes on from its last checkpoint.",
        )
    elif run.ending == "stop":
        yield Finding(f"It was stopped after step {run.done:,} of {run.num_steps:,}.", "The same command goes on.")
    skipped = sum(line.get("skipped") or 0 for line in run.train)
    if skipped or any(line.get("loss") is None for line in run.train):
        yield Finding(
            f"The loss or its gradient was not finite; steps skipped: {skipped:,}.",
            "Lower --lr or raise --warmup-steps, with another --out.",
        )
    waiting = median(run, "data_wait_share")
    if waiting is not None and waiting > _MOST_WAITING:
        yield Finding(
            f"{waiting:.0%} of the time went into waiting for data.", "Raise --reader-threads, or bring the data set nearer."
        )
    yield from _of_scores(run)


def _of_scores(run: History) -> Iterator[Finding]:
    scores = [line for line in run.evals if line.get("mlm_loss") is not None]
    if not scores:
        yield Finding("There are no scores on held-out data.", "Build the data set with --eval-fraction, and set --eval-every.")
        return
    last, best = scores[-1], min(scores, key=lambda line: float(line["mlm_loss"]))
    if last["mlm_loss"] > _OVERFIT * best["mlm_loss"]:
        yield Finding(
            f"The held-out MLM loss was {best['mlm_loss']:.4g} at step {best['step']:,} and is {last['mlm_loss']:.4g} now.",
            "It overfits: more data or --copies, fewer --steps, more --dropout.",
        )
    if last["mlm_loss"] >= (last.get("unigram_loss") or float("inf")):
        yield Finding(
            f"The held-out MLM loss of {last['mlm_loss']:.4g} is no better than guessing by frequency "
            f"({last['unigram_loss']:.4g}).",
            "Train longer; if it stays there, change --lr.",
        )
    accuracy, majority = last.get("nsp_accuracy"), last.get("majority_share")
    if accuracy is not None and majority is not None and accuracy <= majority:
        yield Finding(
            f"NSP has learnt nothing yet: {accuracy:.1%} right, and always saying the commoner answer is {majority:.1%}.",
            "It needs more steps, and often a larger --model.",
        )
