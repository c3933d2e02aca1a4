"""What looks wrong with a data set, in words, with what to do: the first thing its report says."""

from collections.abc import Iterator

from prep.inspect.figures import Overview, Rate
from prep.partitions import MIN_HELD_OUT
from shards.report.sheet import Finding

_MOST_UNKNOWN = 0.01
_MOST_FORCED = 0.5
_MOST_DROPPED = 0.01
_MOST_COPIES = 0.05
_MOST_TRUNCATED = 0.3
_MOST_PADDING = 0.05
_FEWEST_MASKED = 1000
_ASKED_FOR = ("duplicate", "sampled_out", "not_wanted")
"""Reasons to drop a document that are settings, or what a web crawl is."""
_REMEDIES = {
    "too_long": "Documents over 64 MB are never used: split them.",
    "no_sentence": "They are empty.",
}
_ACTIONS = {"mask": "became [MASK]", "random": "became a random token", "kept": "stayed as they are"}


def findings(overview: Overview) -> list[Finding]:
    """The worst for a training first."""
    return [*_of_text(overview), *_of_pairs(overview), *_of_masks(overview), *_of_rows(overview), *_of_held_out(overview)]


def _of_text(overview: Overview) -> Iterator[Finding]:
    documents = overview.manifest.ledger["documents"]
    if overview.unknown_share > _MOST_UNKNOWN:
        yield Finding(
            f"{overview.unknown_share:.1%} of the tokens are [UNK].",
            "The tokenizer does not fit the corpus: choose another --tokenizer, or train:N for one made of it.",
        )
    for reason, count in documents["dropped"].items():
        if count > _MOST_DROPPED * documents["in"] and reason not in _ASKED_FOR:
            remedy = _REMEDIES.get(reason, "Look at ledger.faults in the manifest, and mend the corpus or its settings.")
            yield Finding(f"{count / documents['in']:.1%} of the documents were dropped: {reason.replace('_', ' ')}.", remedy)
    if overview.copied_share > _MOST_COPIES and overview.settings["dedup"] == "none":
        yield Finding(
            f"About {overview.copied_share:.0%} of the documents are copies of others.", "--dedup exact leaves them out."
        )


def _of_pairs(overview: Overview) -> Iterator[Finding]:
    totals, rate = overview.totals, overview.not_next
    tally = overview.manifest.ledger["pairs"]["train"]
    if rate is not None and totals["forced_not_next"] > _MOST_FORCED * totals["sequences"]:
        yield Finding(
            f"{totals['forced_not_next'] / totals['sequences']:.0%} of the pairs had no choice but not next.",
            "Their documents have one sentence: --document probably does not fit the corpus.",
        )
    if rate is not None and rate.of and rate.is_off:
        yield Finding(
            f"{_against(rate)} of the pairs with a choice are not next, more than chance explains.",
            "Is one text a large part of the corpus? Draws that hit it again are dropped.",
        )
    if tally["truncated"] > _MOST_TRUNCATED * tally["made"]:
        yield Finding(
            f"{tally['truncated'] / tally['made']:.0%} of the tokens were cut off to fit --max-seq-len.",
            "Are sentences split at all? Check --language and --document, or allow longer sequences.",
        )


def _of_masks(overview: Overview) -> Iterator[Finding]:
    for name, rate in overview.actions.items():
        if rate.is_off:
            yield Finding(f"{_against(rate)} of the masked tokens {_ACTIONS[name]}.", "Run `prep verify`, and report it.")
    share, expected = overview.masked_share, overview.expected_masked_share
    if share is not None and abs(share - expected) > 0.02:
        yield Finding(
            f"{share:.1%} of the tokens are masked, where --mask-prob and the lengths give {expected:.1%}.",
            "Are sequences of a few tokens many? A sequence has at least one masked token, and none in special ones.",
        )


def _against(rate: Rate) -> str:
    return f"{rate.share:.2%} ({rate.low:.2%} to {rate.high:.2%}, asked {100 * rate.asked:.3g}%)"


def _of_rows(overview: Overview) -> Iterator[Finding]:
    (_, share), packed = overview.padding[0], overview.settings["pack_to"] > 0
    if share > _MOST_PADDING:
        remedy = (
            "Too few sequences to fill rows with, or --pack-to is little more than --max-seq-len."
            if packed
            else "--pack-to 512 puts several sequences in a row, if the trainer can keep them apart."
        )
        yield Finding(f"{share:.1%} of the token slots are padding.", remedy)


def _of_held_out(overview: Overview) -> Iterator[Finding]:
    total, documents = overview.manifest.splits["eval"].totals(), overview.manifest.ledger["pairs"]["eval"]["documents"]
    if not total["rows"]:
        yield Finding("Nothing is held out.", "Without --eval-fraction there is no way to see overfitting.")
    elif documents < MIN_HELD_OUT or total["masked_tokens"] < _FEWEST_MASKED:
        yield Finding(
            f"Only {documents} documents with {total['masked_tokens']:,} masked tokens are held out.",
            "Scores on so few are noise: raise --eval-fraction, or take a larger corpus.",
        )
