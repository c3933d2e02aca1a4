"""What a build will cost, from its plan alone: requests, bytes exchanged, memory, time. Orders of magnitude, for decisions."""

import math
from collections.abc import Iterator
from importlib.util import find_spec

from prep.partitions import MAX_TOKENS
from prep.plan import Plan
from prep.settings import Settings
from prep.tokens.tokenize import SEGMENT_BYTES
from shards.command.console import short, size

TOKENS_PER_TEXT_BYTE = 0.23
SHARD_BYTES_PER_TOKEN = 1.8
STORE_BYTES_PER_TEXT_BYTE = 0.55
_TOKENIZE_BYTES_PER_S, _REFERENCE_BYTES_PER_S, _PAIR_BYTES_PER_S = 30e6, 3e6, 35e6
"""Of text, a core; the last for each copy."""
_PROCESS_BYTES = 250 << 20
"""Of memory, with what is imported and the fast tokenizer's cache."""
_TOKENIZE_BYTES_PER_TEXT_BYTE, _PAIR_BYTES_PER_TOKEN = 3.0, 8.0
"""Of memory, for what a task holds at once."""


def estimate(settings: Settings, plan: Plan) -> Iterator[str]:
    """Lines of a plan. A segment is what a tokenize task writes at once, a range the part of one that a pair task reads."""
    text_bytes = plan.text_bytes
    expansion = text_bytes / plan.bytes
    segments = sum(max(1, math.ceil(unit.bytes * expansion / SEGMENT_BYTES)) for unit in plan.units)
    partition_text = text_bytes / plan.num_partitions
    shares_a_partition = max(1, math.ceil(partition_text * TOKENS_PER_TEXT_BYTE / MAX_TOKENS))
    tasks = plan.num_partitions * shares_a_partition * settings.copies + plan.num_eval_partitions
    ranges = tasks * segments
    store = text_bytes * STORE_BYTES_PER_TEXT_BYTE
    read = store * shares_a_partition * settings.copies
    yield f"tasks:       {len(plan.units):,} tokenize, {tasks:,} pair"
    yield (
        f"requests:    about {short(segments + 4 * len(plan.units))} by tokenize, {short(2 * ranges)} by pair: "
        f"{segments:,} ranges of about {size(read / ranges)} a task, 2 requests each"
    )
    yield f"exchanged:   about {size(store)} written to scratch, {size(read)} read from it"
    held = min(SEGMENT_BYTES, text_bytes / len(plan.units)) * _TOKENIZE_BYTES_PER_TEXT_BYTE
    share_tokens = partition_text * TOKENS_PER_TEXT_BYTE / shares_a_partition
    yield (
        f"memory:      about {size(_PROCESS_BYTES + held)} a tokenize task, "
        f"{size(_PROCESS_BYTES + share_tokens * _PAIR_BYTES_PER_TOKEN)} a pair task"
    )
    yield f"time:        about {_core_time(settings, plan)}, without start-up and waiting for storage"


def _core_time(settings: Settings, plan: Plan) -> str:
    fast = settings.tokenizer_engine == "auto" and find_spec("nanotoken") is not None
    tokenize_s = plan.text_bytes / (_TOKENIZE_BYTES_PER_S if fast else _REFERENCE_BYTES_PER_S)
    minutes = (tokenize_s + plan.text_bytes * settings.copies / _PAIR_BYTES_PER_S) / 60
    return f"{minutes / 60:,.0f} core-hours" if minutes > 600 else f"{math.ceil(minutes)} core-minutes"
