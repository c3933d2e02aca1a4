"""What looks wrong with a data set, and what to do about it: the first thing that its report shows."""

from collections.abc import Iterator

from prep.inspect.figures import Overview, Rate
from prep.partitions import MIN_HELD_OUT
from prep.tokens.tokenizer import MAX_UNKNOWN_SHARE
from shards.report.sheet import Finding

# Limits beyond which a figure is a finding.
_MAX_FORCED = 0.5
_MAX_DROPPED = 0.01
_MAX_COPIES = 0.05
_MAX_TRUNCATED = 0.3
_MAX_PADDING = 0.05
_MIN_MASKED = 1000

# Reasons to drop a document that are no faults: settings ask for them, or a web crawl is full of them.
_NO_FAULTS = ("duplicate", "sampled_out", "not_wanted")
_REMEDIES = {
    "too_long": "Documents over 64 MB are never used: split them.",
    "no_sentence": "They are empty.",
}
ACTIONS = {"mask": "became [MASK]", "random": "became a random token", "kept": "kept their token"}


def findings(overview: Overview) -> list[Finding]:
    """What looks wrong; the worst for training comes first."""
    return [*_text(overview), *_pairs(overview), *_masks(overview), *_rows(overview), *_held_out(overview)]


def _text(overview: Overview) -> Iterator[Finding]:
    documents = overview.manifest.ledger["documents"]
    if overview.unknown_share > MAX_UNKNOWN_SHARE:
        yield Finding(
            f"{overview.unknown_share:.1%} of the tokens are [UNK].",
            "The tokenizer does not fit the corpus: choose another --tokenizer, or train one with train:N or train-bpe:N.",
        )
    for reason, count in documents["dropped"].items():
        if count > _MAX_DROPPED * documents["in"] and reason not in _NO_FAULTS:
            remedy = _REMEDIES.get(
                reason, "Look at ledger.faults in the manifest, then mend the corpus or change the settings."
            )
            yield Finding(f"{count / documents['in']:.1%} of the documents were dropped: {reason.replace('_', ' ')}.", remedy)
    if overview.copied_share > _MAX_COPIES and overview.settings["dedup"] == "none":
        yield Finding(
            f"About {overview.copied_share:.0%} of the documents are copies of others.", "Remove them with --dedup exact."
        )


def _pairs(overview: Overview) -> Iterator[Finding]:
    totals, rate = overview.totals, overview.not_next
    tally = overview.manifest.ledger["pairs"]["train"]
    if rate is not None and totals["forced_not_next"] > _MAX_FORCED * totals["sequences"]:
        yield Finding(
            f"{totals['forced_not_next'] / totals['sequences']:.0%} of the pairs could only be not next.",
            "Their documents have one sentence: --document probably does not fit the corpus.",
        )
    if rate is not None and rate.of and rate.is_off:
        yield Finding(
            f"{_against(rate)} of the pairs with a choice are not next, more than chance explains.",
            "Check whether one text is a large part of the corpus: a draw that hits the same text again is dropped.",
        )
    if tally["truncated"] > _MAX_TRUNCATED * tally["made"]:
        yield Finding(
            f"{tally['truncated'] / tally['made']:.0%} of the tokens were cut off to fit --max-seq-len.",
            "Check that sentences are split (--language, --document), or allow longer sequences.",
        )


def _masks(overview: Overview) -> Iterator[Finding]:
    for name, rate in overview.actions.items():
        if rate.is_off:
            yield Finding(f"{_against(rate)} of the masked tokens {ACTIONS[name]}.", "Run `prep verify`, and report a bug.")
    share, expected = overview.masked_share, overview.expected_masked_share
    if share is not None and abs(share - expected) > 0.02:
        yield Finding(
            f"{share:.1%} of the tokens are masked; --mask-prob and the lengths give {expected:.1%}.",
            "Check whether many sequences have only a few tokens: each has at least one masked token, never a special one.",
        )


def _against(rate: Rate) -> str:
    return f"{rate.share:.2%} ({rate.low:.2%} to {rate.high:.2%}, target {100 * rate.target:.3g}%)"


def _rows(overview: Overview) -> Iterator[Finding]:
    (_, share), packed = overview.padding[0], overview.settings["pack_to"] > 0
    if share > _MAX_PADDING:
        remedy = (
            "There are too few sequences to fill the rows, or --pack-to is little more than --max-seq-len."
            if packed
            else "Pack several sequences into a row with --pack-to 512, if your trainer can keep them apart."
        )
        yield Finding(f"{share:.1%} of the token slots are padding.", remedy)


def _held_out(overview: Overview) -> Iterator[Finding]:
    total, documents = overview.manifest.splits["eval"].totals(), overview.manifest.ledger["pairs"]["eval"]["documents"]
    if not total["rows"]:
        yield Finding("Nothing is held out.", "Overfitting cannot be seen without held-out data: set --eval-fraction.")
        return
    if total["tokens"] > overview.totals["tokens"]:
        yield Finding(
            f"More is held out than trained on: {total['tokens']:,} and {overview.totals['tokens']:,} tokens.",
            "Whole documents are held out: lower --eval-fraction, or check that --document fits the corpus.",
        )
    if documents < MIN_HELD_OUT or total["masked_tokens"] < _MIN_MASKED:
        yield Finding(
            f"Only {documents} documents with {total['masked_tokens']:,} masked tokens are held out.",
            "Scores on so few are noise: raise --eval-fraction, or use a larger corpus.",
        )
