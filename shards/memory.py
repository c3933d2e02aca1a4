"""How much memory this process may still take, asked before something large is allocated.

A data set or a checkpoint of a stranger may need more memory than there is, within all bounds of its format. Linux grants
memory that it does not have, and ends a process later; so an error in one line has to come first.
"""

import resource
from pathlib import Path

from shards.command.numbers import size
from shards.errors import UserError

_SMALL_BYTES = 256 << 20  # so much is there, or nothing works: it is not looked up
_CGROUP = Path("/sys/fs/cgroup")


def require_memory(num_bytes: int, purpose: str, remedy: str) -> None:
    """Raises UserError when `purpose` takes more memory than is free. It begins the message, `remedy` ends it."""
    if num_bytes > _SMALL_BYTES and num_bytes > (free := free_bytes()):
        raise UserError(f"{purpose} takes about {size(num_bytes)} of memory, {size(free)} are free; {remedy}")


def free_bytes() -> int:
    """The least of what the machine, the container and the limits of the process leave. Files in the page cache are free."""
    limits = [_of_machine(), _of_container()]
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        limits.append(most - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize())
    return max(0, min(limits))


def _of_machine() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return 1 << 62


def _of_container() -> int:
    """Version 2 of control groups, which a container sees as its root; elsewhere the limit is not at this place."""
    try:
        limit, used = ((_CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        cached = [line for line in (_CGROUP / "memory.stat").read_text().splitlines() if line.startswith("inactive_file ")]
        return int(limit) - int(used) + sum(int(line.split()[1]) for line in cached)
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return 1 << 62
