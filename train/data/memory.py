"""Will a run fit into the memory of this machine? Asked before it starts, of what the data set decides.

A data set of a stranger may have rows of 65,535 tokens or millions of ids, within all bounds of the format. The estimates leave
out a third of what was measured in float32, so that no run is refused which would have fitted.
"""

from collections.abc import Iterable

from shards.manifest import Manifest
from shards.memory import require_memory
from shards.schema import MASKED_COLUMNS, TOKEN_COLUMN, column_dtypes
from train.data.layout import Shape
from train.data.order import WINDOW_ROWS

_COPIES_OF_HIDDEN = 12  # tensors [N, hidden] that a layer keeps for its backward pass
_COPIES_OF_LOGITS = 2  # and of [M, vocab_size]: the logits and their gradient
_BYTES = 4
_REMEDY = "use a machine with more memory, or build the data set again with a smaller --pack-to or --max-seq-len"


def require_reader(url: str, manifest: Manifest, split: str, lanes: Iterable[int]) -> None:
    """Raises UserError if the rows of the windows of these lanes, which a machine keeps decoded, do not fit into memory."""
    total, num_lanes = manifest.splits[split].totals(), len(list(lanes))
    values = {name: total["masked_tokens"] if name in MASKED_COLUMNS else total["sequences"] for name in _dtypes(manifest)}
    values[TOKEN_COLUMN] = total["tokens"]
    num_bytes = sum(values[name] * item_bytes for name, item_bytes in _dtypes(manifest).items())
    num_rows = min(total["rows"], num_lanes * WINDOW_ROWS)
    require_memory(num_bytes * num_rows // max(1, total["rows"]), f"{url}: reading {num_rows} rows at once", _REMEDY)


def require_step(url: str, shape: Shape, vocab_size: int, hidden_size: int, num_layers: int, num_processes: int) -> None:
    """Raises UserError if a micro-batch does not fit into memory once per process.

    `num_layers`: those whose values are kept for a backward pass; 1 if there is none.
    """
    hidden = shape.rows * shape.tokens * hidden_size * num_layers * _COPIES_OF_HIDDEN
    logits = shape.rows * shape.masked * vocab_size * _COPIES_OF_LOGITS
    require_memory(
        (hidden + logits) * _BYTES * num_processes,
        f"{url}: a micro-batch of {shape.rows} rows of up to {shape.tokens} tokens, with {shape.masked} to predict of "
        f"{vocab_size} ids, in {num_processes} processes",
        "set a smaller --micro-batch",
    )


def _dtypes(manifest: Manifest) -> dict[str, int]:
    return {name: dtype.itemsize for name, dtype in column_dtypes(manifest.tokenizer["vocab_size"]).items()}
