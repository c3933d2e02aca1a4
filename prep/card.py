"""The card of a data set: README.md beside its manifest, in the form that the Hugging Face Hub and `datasets` read.

It is a function of the manifest alone, so it holds no place or time of any machine.
"""

import shlex
from collections.abc import Iterator

from prep.pairing.recipes import recipe_of
from prep.settings import Settings
from shards.command.console import printable
from shards.command.numbers import size
from shards.command.options import flag
from shards.formats import FORMATS
from shards.manifest import Manifest

CARD_NAME = "README.md"
_SIZES = ((1_000, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LARGER_SIZES = ((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"))
_MAX_NAMED_FILES = 8


def make_card(manifest: Manifest) -> bytes:
    """The bytes of the file."""
    return "\n".join([*_front_matter(manifest), *_text(manifest), ""]).encode()


def _front_matter(manifest: Manifest) -> Iterator[str]:
    settings, rows = manifest.settings, sum(split.totals()["rows"] for split in manifest.splits.values())
    yield "---"
    yield "license: unknown"
    yield f'language:\n- "{settings["language"].partition("-")[0]}"'  # quoted: to YAML a bare `no` is false
    yield f"size_categories:\n- {next((name for most, name in (*_SIZES, *_LARGER_SIZES) if rows < most), '100B<n<1T')}"
    yield "task_categories:\n- fill-mask"
    labels = recipe_of(settings).labels
    tasks = ["masked-language-modeling", *([labels.task] if labels else []), "pretraining"]
    yield "\n".join(["tags:", "- bert", *(f"- {task}" for task in tasks)])
    yield "configs:"
    yield from _configs(manifest)
    yield "---"


def _configs(manifest: Manifest) -> Iterator[str]:
    """One configuration; two if the splits have different columns, because only held-out rows hold masks."""
    names = [name for name, split in manifest.splits.items() if split.shards]
    together = manifest.settings["masking"] == "static"
    for group in [names] if together else [[name] for name in names]:
        yield f"- config_name: {'default' if group[0] == 'train' else group[0]}"
        yield "  data_files:"
        for name in group:
            yield f"  - split: {name}"
            yield f"    path: {name}/*{FORMATS[manifest.settings['format']].SUFFIX}"


def _text(manifest: Manifest) -> Iterator[str]:
    settings = manifest.settings
    filled = "packed with whole sequences" if settings["pack_to"] else "one sequence"
    yield from ("", "# Pre-training data for BERT", "")
    yield (
        f"Rows of up to {settings['pack_to'] or settings['max_seq_len']} token ids, each {filled} of up to "
        f"{settings['max_seq_len']}; masks are {'in the rows' if settings['masking'] == 'static' else 'drawn by the reader'}."
    )
    yield from ("", "| split | rows | sequences | tokens | masked tokens | label 1 | size |", "|---|---|---|---|---|---|---|")
    for name, split in manifest.splits.items():
        t = split.totals()
        counts = (t["rows"], t["sequences"], t["tokens"], t["masked_tokens"], t["not_next"])
        yield f"| {name} | {' | '.join(f'{count:,}' for count in counts)} | {size(t['bytes'])} |"
    yield from ("", *_reading(manifest), "", *_columns(manifest), "", "## How it was made", "", *_making(manifest))
    yield from ("", "## Licence", "")
    yield "The program that wrote this card does not know it: texts keep the licence of their sources. Name it here and above."


def _reading(manifest: Manifest) -> Iterator[str]:
    columns = (
        'one file of columns per row, `row["npz"]`' if manifest.settings["format"] == "webdataset" else "one column per field"
    )
    yield "```python"
    yield "import datasets"
    yield ""
    yield 'train = datasets.load_dataset("FOLDER", split="train")'
    if manifest.settings["masking"] == "dynamic" and manifest.splits["eval"].shards:
        yield 'held_out = datasets.load_dataset("FOLDER", "eval", split="eval")'
    elif manifest.splits["eval"].shards:
        yield 'held_out = datasets.load_dataset("FOLDER", split="eval")'
    yield "```"
    yield ""
    yield f"FOLDER is the folder of this file, or its name on the Hub; there is {columns}."


def _columns(manifest: Manifest) -> Iterator[str]:
    yield "| column | content, per row |"
    yield "|---|---|"
    yield "| `input_ids` | its tokens, special tokens included |"
    yield "| `sequence_lengths` | tokens per sequence; sequences must not attend to each other |"
    yield "| `segment_a_lengths` | tokens of `[CLS] A [SEP]`, per sequence |"
    labels = recipe_of(manifest.settings).labels
    if labels:
        yield f"| `next_sentence_label` | per sequence: {labels.meaning} |"
    dynamic = " (held-out rows only)" if manifest.settings["masking"] == "dynamic" and manifest.splits["eval"].shards else ""
    yield f"| `masked_positions`, `masked_labels` | positions of the masked tokens, and the tokens that were there{dynamic} |"
    yield ""
    yield "`manifest.json` has every count, hash and setting; `tokenizer/` is what `transformers.AutoTokenizer` loads."


def _making(manifest: Manifest) -> Iterator[str]:
    ledger, inputs = manifest.ledger, manifest.inputs
    documents = ledger["documents"]
    dropped = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in documents["dropped"].items())
    yield f"From {inputs['files']:,} files, {size(inputs['bytes'])}: {documents['used']:,} of {documents['in']:,} documents" + (
        f" (dropped: {dropped})." if dropped else "."
    )
    yield from ("", "```", command(manifest), "```", "")
    named = [f"`{_code(entry['name'])}`" for entry in inputs["listed"][:_MAX_NAMED_FILES]]
    more = inputs["files"] - len(named)
    yield f"Files: {', '.join(named)}{f' and {more:,} more' if more > 0 else ''}."
    made_with = ", ".join(f"{name} {version}" for name, version in manifest.made_with.items())
    yield ""
    yield f"Recipe version {manifest.recipe_version}, {made_with}. Data fingerprint `{manifest.data_fingerprint}`."


def command(manifest: Manifest) -> str:
    """The build command: the corpus as names of files, every setting that is not a default, the tokenizer saved beside it."""
    tokenizer = str(manifest.settings["tokenizer"])
    # --short-seq-prob has another default for each pairing, so compare with the defaults of this one.
    pairing = manifest.settings["pairing"]
    defaults = Settings(("CORPUS",), "OUT", pairing=pairing).recipe(tokenizer) | {"pairing": Settings.pairing, "cased": False}
    parts = [f"python -m prep build --corpus {' '.join(_corpus(manifest))} --out OUT"]
    for name, value in manifest.settings.items():
        if name == "tokenizer":
            parts.append(
                f"--tokenizer {shlex.quote(tokenizer if tokenizer.startswith(('train:', 'train-bpe:')) else 'tokenizer')}"
            )
        elif value != defaults[name]:
            values = value if isinstance(value, list) else [] if value is True else [value]
            parts.append(" ".join([flag(name), *(shlex.quote(printable(str(part))) for part in values)]))
    return " ".join(parts)


def _corpus(manifest: Manifest) -> list[str]:
    """The names of the files; if there are many, or weights, one placeholder per --corpus."""
    weights = manifest.settings["corpus_weight"]
    if weights:
        return [f"CORPUS-{number}" for number, _ in enumerate(weights, 1)]
    listed = [shlex.quote(printable(entry["name"])) for entry in manifest.inputs["listed"]]
    return listed if manifest.inputs["files"] <= _MAX_NAMED_FILES else ["CORPUS"]


def _code(name: str) -> str:
    return printable(name).replace("`", "'")
