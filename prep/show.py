"""Sequences of a data set as text, for the eye."""

from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.text import Text

from prep.token_texts import TokenText, token_texts
from prep.tokenizer import load_prepared
from shards import storage
from shards.dataset import open_data_set
from shards.errors import UserError
from shards.formats import FORMATS
from shards.randomness import Purpose, address, below
from shards.schema import Rows

_LABELS = {0: ("B is next", "green"), 1: ("B is not next", "magenta")}
_ORDER_LABELS = {0: ("A and B are in order", "green"), 1: ("A and B are swapped", "magenta")}

_UNKNOWN = TokenText("?", False, False)


def show(url: str, split: str, count: int, seed: int) -> None:
    """Prints `count` sequences of a split, chosen by seed. Raises UserError when there is no such data set or split."""
    if count < 1 or not 0 <= seed < 2**63:
        raise UserError(f"-n is {count} and --seed is {seed}; must be at least 1 and from 0 to 2**63 - 1")
    manifest = open_data_set(url)
    shards = manifest.splits[split].shards
    if not shards:
        raise UserError(f"{url}: the split {split} is empty")
    tokenizer = load_prepared(storage.join(url, manifest.tokenizer["folder"]))
    texts, mask_id = token_texts(tokenizer), tokenizer.special_ids["mask"]
    labels = _ORDER_LABELS if manifest.settings.get("pairing") == "sop" else _LABELS
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
        for line in render(rows, int(sequence), texts, mask_id, labels, f"{split}, {shard.path}"):
            console.print(line, soft_wrap=not console.is_terminal)


def legend() -> Text:
    """What the marks mean."""
    return Text("").join([Text("[shown→original]", "bold red"), Text(" a masked token; [shown] where it was kept as it is")])


def render(
    rows: Rows, sequence: int, texts: dict[int, TokenText], mask_id: int, labels: dict[int, tuple[str, str]], place: str
) -> Iterator[Text]:
    """A headline, segment A and segment B of one sequence; `labels` says what a label means, and its style."""
    row = int(np.searchsorted(rows.sequence_offsets, sequence, side="right")) - 1
    start, stop = (int(edge) for edge in rows.sequence_starts()[sequence : sequence + 2])
    a_stop = start + int(rows.segment_a_lengths[sequence])
    original: dict[int, int] = {}
    if rows.masked_labels is not None:
        original = dict(zip(rows.masked_indices().tolist(), rows.masked_labels.tolist(), strict=True))
    headline = Text(f"{place}, row {row}: {stop - start} tokens", "bold")
    if rows.next_sentence_label is not None:
        label, style = labels[int(rows.next_sentence_label[sequence])]
        headline.append(f", {label}", style)
    yield headline
    for name, style, first, last in (("A", "cyan", start, a_stop), ("B", "yellow", a_stop, stop)):
        if first == last:
            continue
        line = Text(f"  {name} ", f"bold {style}")
        for i in range(first, last):
            number = int(rows.input_ids[i])
            token = texts.get(number, _UNKNOWN)
            if i in original:
                shown = "MASK" if number == mask_id else token.text
                label = texts.get(original[i], _UNKNOWN).text
                line.append(" " + (f"[{shown}→{label}]" if number != original[i] else f"[{shown}]"), "bold red")
            else:
                line.append(("" if token.goes_on else " ") + token.text, "dim" if token.is_special else style)
        yield line
