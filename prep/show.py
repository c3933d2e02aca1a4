"""Sequences of a data set as text, for the eye."""

from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.text import Text

from prep.tokenizer import load_prepared
from shards import storage
from shards.dataset import open_data_set
from shards.errors import UserError
from shards.formats import FORMATS
from shards.randomness import Purpose, address, below
from shards.schema import Rows
from shards.terminal import printable

_LABELS = {0: ("is next", "green"), 1: ("is not next", "magenta")}


def show(url: str, split: str, count: int, seed: int) -> None:
    """Prints `count` sequences of a split, chosen by seed. Raises UserError when there is no such data set or split."""
    if count < 1 or not 0 <= seed < 2**63:
        raise UserError(f"-n is {count} and --seed is {seed}; must be at least 1 and from 0 to 2**63 - 1")
    manifest = open_data_set(url)
    shards = manifest.splits[split].shards
    if not shards:
        raise UserError(f"{url}: the split {split} is empty")
    tokenizer_url = storage.join(url, manifest.tokenizer["folder"])
    tokens = {number: token for token, number in load_prepared(tokenizer_url).vocab.items()}
    shard = shards[int(below(address(seed, Purpose.SHOW, 0), np.uint64(len(shards))))]
    try:
        rows = FORMATS[manifest.settings["format"]].read(
            storage.read_bytes(storage.join(url, shard.path)), shard.row_groups, [0]
        )
    except (ValueError, OSError) as error:
        raise UserError(f"{storage.join(url, shard.path)}: cannot be decoded ({error}); run `prep verify {url}`") from error
    keys = address(seed, Purpose.SHOW, 1, np.arange(len(rows.sequence_lengths), dtype=np.uint64))
    console = Console(highlight=False)
    console.print(legend())
    for sequence in np.argsort(keys, kind="stable")[:count]:
        console.print()
        for line in render(rows, int(sequence), tokens, f"{split}, {shard.path}"):
            console.print(line, soft_wrap=not console.is_terminal)


def legend() -> Text:
    """What the marks mean."""
    return Text("").join([Text("[shown→original]", "bold red"), Text(" a masked token; [shown] where it was kept as it is")])


def render(rows: Rows, sequence: int, tokens: dict[int, str], place: str) -> Iterator[Text]:
    """A headline, segment A and segment B of one sequence."""
    row = int(np.searchsorted(rows.sequence_offsets, sequence, side="right")) - 1
    start, stop = (int(edge) for edge in rows.sequence_starts()[sequence : sequence + 2])
    a_stop = start + int(rows.segment_a_lengths[sequence])
    original: dict[int, int] = {}
    if rows.masked_labels is not None:
        original = dict(zip(rows.masked_indices().tolist(), rows.masked_labels.tolist(), strict=True))
    headline = Text(f"{place}, row {row}: {stop - start} tokens", "bold")
    if rows.next_sentence_label is not None:
        label, style = _LABELS[int(rows.next_sentence_label[sequence])]
        headline.append(f", B {label}", style)
    yield headline
    for name, style, first, last in (("A", "cyan", start, a_stop), ("B", "yellow", a_stop, stop)):
        line = Text(f"  {name} ", f"bold {style}")
        for i in range(first, last):
            shown = tokens.get(int(rows.input_ids[i]), "?")
            if i in original:
                label = tokens.get(original[i], "?")
                shown, label = printable(shown.strip("[]") if shown == "[MASK]" else shown), printable(label)
                line.append(" " + (f"[{shown}→{label}]" if shown != label else f"[{shown}]"), "bold red")
            elif shown.startswith("##"):
                line.append(printable(shown[2:]), style)
            else:
                line.append(" " + printable(shown), "dim" if shown in ("[CLS]", "[SEP]") else style)
        yield line
