"""`prep report`: the figures of a data set as a sheet of facts and charts."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from prep.inspect.figures import Overview, Rate, make_overview, most_frequent
from prep.inspect.findings import ACTIONS, findings
from prep.inspect.passages import LEGEND, token_texts
from prep.inspect.sample import SampleCounts, read_sample
from prep.pairing.recipes import recipe_of
from prep.tokens.tokenizer import load_prepared
from shards import storage
from shards.command.numbers import short, size
from shards.dataset import open_data_set
from shards.errors import UserError
from shards.manifest import MANIFEST_NAME
from shards.report.sheet import Bar, Bars, Chart, Fact, Interval, Intervals, Section, Sheet

_MAX_COLUMNS = 16
_MANY_SHARDS = 8


def report(url: str, seed: int) -> Sheet:
    """The report of the data set at `url`; `seed` chooses the sample. Raises UserError."""
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed is {seed}, must be from 0 to 2**63 - 1")
    manifest = open_data_set(url)
    if not all(name in manifest.splits for name in ("train", "eval")) or not manifest.splits["train"].shards:
        raise UserError(f"{url}: its manifest has no training rows; build the data set again")
    try:
        texts = token_texts(load_prepared(storage.join(url, manifest.tokenizer["folder"])))
        samples = {
            name: read_sample(url, manifest, name, seed, texts) for name, split in manifest.splits.items() if split.shards
        }
        return make_sheet(make_overview(url, manifest, samples, texts))
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise UserError(
            f"{storage.join(url, MANIFEST_NAME)}: a field is missing or wrong ({error!r}); run `python -m prep verify {url}`"
        ) from error


def make_sheet(overview: Overview) -> Sheet:
    """All sections in their order."""
    train = overview.totals
    held_out = overview.manifest.splits["eval"].totals()
    summary = (
        f"{train['sequences']:,} sequences, {train['tokens']:,} tokens in {train['rows']:,} rows; "
        f"held out: {held_out['sequences']:,} sequences, {held_out['tokens']:,} tokens."
    )
    sections = (_corpus(overview), _pairs(overview), _masks(overview), _rows(overview), _vocabulary(overview), _files(overview))
    footnote = f"data_fingerprint {overview.manifest.data_fingerprint}"
    return Sheet("Data set", overview.url, summary, findings(overview), (*sections, _samples(overview)), footnote)


def _corpus(overview: Overview) -> Section:
    manifest, ledger = overview.manifest, overview.manifest.ledger
    documents, num_bytes, duplicates = ledger["documents"], ledger["bytes"], ledger["duplicates"]
    bars = [Bar("used", num_bytes["used"], _part(size(num_bytes["used"]), documents["used"]))]
    for reason, dropped in num_bytes["dropped"].items():
        bars.append(Bar(f"dropped: {reason.replace('_', ' ')}", dropped, _part(size(dropped), documents["dropped"][reason])))
    copies = (
        f"{duplicates['different']:,} different texts in a sample of {duplicates['sampled']:,}" if duplicates["sampled"] else ""
    ) + ("; --dedup keeps one of each" if overview.settings["dedup"] == "exact" else "")
    has_sentences = not recipe_of(overview.settings).keeps_text
    sentences = f"{ledger['sentences'] / max(1, documents['used']):.1f} per document"
    facts = (
        Fact("input files", f"{manifest.inputs['files']:,}", size(manifest.inputs["bytes"])),
        Fact("documents", f"{documents['used']:,}", f"of {documents['in']:,} read"),
        *([Fact("sentences", f"{ledger['sentences']:,}", sentences)] if has_sentences else []),
        Fact("tokens", f"{ledger['tokens']:,}", f"{ledger['tokens'] / max(1, num_bytes['used']):.3f} per byte of text"),
        Fact("unknown tokens", f"{overview.unknown_share:.3%}", f"{ledger['unknown_tokens']:,} [UNK]"),
        Fact("copied documents", f"{overview.copied_share:.1%}", copies),
    )
    corpora = [
        Bar(f"--corpus {number}", corpus["tokens"], f"{corpus['share']:.1%}, weight {corpus['weight']:g}")
        for number, corpus in enumerate(ledger["corpora"], 1)
    ]
    charts = (
        Bars("where every byte of text went (documents)", bars),
        *([Bars("tokens of each corpus", corpora)] if len(corpora) > 1 else []),
        _powers("lengths of the documents", ledger["document_tokens_histogram"]),
        *([_powers("lengths of the sentences", ledger["sentence_tokens_histogram"])] if has_sentences else []),
    )
    return Section("Corpus", "", facts, charts)


def _part(amount: str, documents: int) -> str:
    return f"{amount} ({documents:,})"


def _powers(title: str, counts: Sequence[int]) -> Bars:
    """A histogram of the ledger, without its empty ends. Bin b counts lengths from 2**(b - 1) to 2**b - 1."""
    used = [number for number, count in enumerate(counts) if count]
    bars = []
    for number in range(used[0], used[-1] + 1) if used else ():
        low, high = (2 ** (number - 1), 2**number) if number else (0, 1)
        label = str(low) if high == low + 1 else f"{_edge(low)}-{_edge(high if low >= 1024 else high - 1)}"
        bars.append(Bar(label, counts[number], f"{counts[number]:,}"))
    return Bars(title, bars, histogram=True, axis="tokens (each range is twice as wide as the one before)")


def _edge(length: int) -> str:
    return str(length) if length < 1024 else f"{length // 1024}k"


def _pairs(overview: Overview) -> Section:
    manifest, totals, rate = overview.manifest, overview.totals, overview.not_next
    tally = manifest.ledger["pairs"]["train"]
    cut = [Bar(name, tally[name], f"{short(tally[name])}, {tally[name] / max(1, tally['made']):.1%}") for name in _PLACES]
    facts = [Fact("pairing", overview.settings["pairing"], f"copies: {overview.settings['copies']}")]
    labels = recipe_of(overview.settings).labels
    positive, negative = labels.names if labels else ("", "")
    if rate is not None:
        facts += [
            Fact(f"{negative}, given a choice", *_rate(rate, "pairs")) if rate.of else Fact("choice", "no pair had one"),
            Fact(f"{negative}, all", f"{totals['not_next'] / totals['sequences']:.2%}", f"the rest is {positive}"),
            Fact("negatives drawn again", f"{tally['redrawn']:,}", f"{tally['dropped']:,} pairs dropped"),
        ]
    else:
        facts.append(Fact("labels", "none"))
    if tally["repeated"]:
        facts.append(Fact("overlap", f"{tally['repeated']:,}", "tokens that are in two pieces of a document"))
    if totals["forced_not_next"]:
        facts.insert(2, Fact("no choice", f"{totals['forced_not_next']:,}", f"chunks of one sentence are always {negative}"))
    charts: list[Chart] = [
        Bars("where every token went (all copies)", cut),
        _lengths("lengths of the sequences (sampled)", overview.samples["train"].sequence_lengths),
    ]
    if rate is not None and rate.of:
        charts.insert(0, _intervals([(f"{negative}, given a choice", rate)]))
    return Section("Sequences and pairs", "", facts, charts)


_PLACES = ("placed", "truncated", "unpaired")


def _lengths(title: str, counts: SampleCounts) -> Bars:
    """Counts by length, in columns of equal width."""
    longest = len(counts) - 1
    width = -(-longest // _MAX_COLUMNS)
    bars = []
    for low in range(1, longest + 1, width):
        high = min(longest, low + width - 1)
        number = int(counts[low : high + 1].sum())
        bars.append(Bar(f"{low}-{high}" if high > low else str(low), number, f"{number:,}"))
    return Bars(title, bars, histogram=True, axis="tokens, with the special ones")


def _rate(rate: Rate, unit: str) -> tuple[str, str]:
    return f"{rate.share:.2%}", f"{rate.low:.2%} to {rate.high:.2%} (95 %, {rate.of:,} {unit}); target {100 * rate.target:.3g}%"


def _intervals(rates: Sequence[tuple[str, Rate]]) -> Intervals:
    intervals = [Interval(name, rate.share, rate.low, rate.high, rate.target) for name, rate in rates]
    return Intervals("percentage points off the target, with 95 % intervals", intervals)


def _masks(overview: Overview) -> Section:
    settings, share = overview.settings, overview.masked_share
    facts = [
        Fact("masking", settings["masking"], f"units: {settings['mask_unit']}"),
        Fact(
            "masked tokens",
            f"{share:.2%}" if share is not None else "drawn while reading",
            f"target {settings['mask_prob']:.1%} of a sequence, {overview.expected_masked_share:.2%} after rounding",
        ),
    ]
    facts += [Fact(ACTIONS[name], *_rate(rate, "masked tokens")) for name, rate in overview.actions.items()]
    text = "The shares below describe the held-out split, whose shards hold its masks."
    charts: list[Chart] = []
    if overview.actions:
        charts.append(_intervals([(ACTIONS[name], rate) for name, rate in overview.actions.items()]))
        charts.append(_tokens("tokens masked most often", overview.samples[overview.actions_split].masked, overview))
    return Section("Masks", text if share is None and overview.actions else "", facts, charts)


def _tokens(title: str, counts: SampleCounts, overview: Overview) -> Bars:
    total = max(1, int(counts.sum()))
    frequent = most_frequent(counts, overview.texts, overview.manifest.tokenizer["special_ids"])
    return Bars(title, [Bar(token, count, f"{count / total:.2%}") for token, count in frequent])


def _rows(overview: Overview) -> Section:
    totals, settings = overview.totals, overview.settings
    facts = (
        Fact("rows", f"{totals['rows']:,}", f"of at most {settings['pack_to'] or settings['max_seq_len']} tokens"),
        Fact("fill", f"{1 - overview.padding[0][1]:.2%}", "of the token slots hold tokens"),
        Fact("sequences per row", f"{totals['sequences'] / totals['rows']:.1f}", f"at most {totals['max_sequences_per_row']}"),
        Fact(
            "masked tokens per row",
            f"{totals['masked_tokens'] / totals['rows']:.1f}",
            f"at most {totals['max_masked_per_row']}",
        ),
    )
    bars = [Bar(name, max(0.0, share), f"{share:.1%}") for name, share in overview.padding]
    return Section("Rows", "", facts, (Bars("share of padding, here and in other layouts", bars),))


def _vocabulary(overview: Overview) -> Section:
    tokenizer, sample = overview.manifest.tokenizer, overview.samples["train"]
    seen = int((sample.tokens > 0).sum())
    facts = (
        Fact("tokenizer", tokenizer["model"], f"{tokenizer['vocab_size']:,} entries, {tokenizer['id_type']} ids"),
        Fact("entries in use", f"{seen / tokenizer['vocab_size']:.1%}", f"{seen:,} occur in the rows that were read"),
    )
    return Section("Vocabulary", "", facts, (_tokens("most frequent tokens", sample.tokens, overview),))


def _files(overview: Overview) -> Section:
    facts, charts = [], []
    for name, split in overview.manifest.splits.items():
        sizes = sorted(split.shards.sizes())
        if not sizes:
            continue
        weight = f"{sum(sizes) / split.totals()['tokens']:.2f} bytes per token"
        facts.append(Fact(f"{name} shards", f"{len(sizes):,}", f"{size(sum(sizes))}, {weight}"))
        if len(sizes) > 1:
            spread = f"{size(sizes[0])} to {size(sizes[-1])}"
            facts.append(Fact(f"{name} shard sizes", f"median {size(sizes[len(sizes) // 2])}", spread))
        if len(sizes) > _MANY_SHARDS:
            charts.append(_sizes(f"sizes of the {name} shards", sizes))
    return Section("Shards", f"Format: {overview.settings['format']}.", facts, charts)


def _sizes(title: str, sizes: Sequence[int]) -> Bars:
    """Columns of equal width from the smallest to the largest."""
    counts, edges = np.histogram(sizes, bins=8)
    labels = (f"{size(low)}-{size(high)}" for low, high in pairwise(edges))
    bars = [Bar(label, int(count), f"{count:,}") for label, count in zip(labels, counts, strict=True)]
    return Bars(title, bars, histogram=True, axis="size of a shard")


def _samples(overview: Overview) -> Section:
    return Section(
        "A look inside",
        _read_of(overview),
        passages=[passage for sample in overview.samples.values() for passage in sample.passages],
        legend=LEGEND,
        wide=True,
    )


def _read_of(overview: Overview) -> str:
    parts = []
    for name, sample in overview.samples.items():
        rows = overview.manifest.splits[name].totals()["rows"]
        parts.append(f"all {rows:,} rows of {name}" if sample.rows == rows else f"{sample.rows:,} of {rows:,} rows of {name}")
    return f"Lengths, mask actions and token counts come from {' and '.join(parts)}, in row groups chosen by --seed."
