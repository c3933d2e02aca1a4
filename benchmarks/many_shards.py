"""Benchmark of opening: a data set of 100,000 shards, as the library, the trainer and `prep verify` open it.

The shards are empty files of the right sizes: opening looks at their names and sizes, and reads none. Each reader opens in a
fresh process after its imports. The memory is what opening adds to that process at its peak.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from benchmarks.common import ROOT, build_demo, machine, met, own_folder, say, table
from shards.dataset import open_data_set, publish_manifest
from shards.manifest import RowGroup, ShardInfo, Split

# Rows of 512 tokens in row groups and shards of the sizes that prep makes.
GROUPS, ROWS, GROUP_BYTES = 32, 1024, 2 << 20
SECONDS, MEGABYTES = 5.0, 200.0
READERS = {
    "open_data_set": ("import shards.dataset", "shards.dataset.open_data_set(url)"),
    "ShardStream": ("import train.stream", "train.stream.ShardStream(url, global_batch=4096, micro_batch=64)"),
    "prep verify": (
        "import prep.inspect.verify as v",
        "next(v._tasks(url, m := v.read_manifest(url)[0])), list(v._foreign_files(url, m))",
    ),
}
_MEASURED = """
import json, resource, sys, time
from pathlib import Path
url = sys.argv[1]
{imports}
def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1e3
before, started = memory("VmRSS"), time.perf_counter()
kept = {call}
print(json.dumps([time.perf_counter() - started, memory("VmHWM") - before]))
"""


def fabricate(folder: Path, demo: Path, num_shards: int) -> None:
    """Writes a data set of so many shards that were never written, with the demo's tokenizer and settings."""
    manifest = open_data_set(str(demo))
    groups = tuple(RowGroup(ROWS, 4 + number * GROUP_BYTES, GROUP_BYTES) for number in range(GROUPS))
    first = manifest.splits["train"].shards[0]
    rows, num_bytes = ROWS * GROUPS, 4 + GROUPS * GROUP_BYTES + 100_000
    longest = {"max_row_tokens": 512, "max_sequences_per_row": 16, "max_masked_per_row": 80}
    sums = {"tokens": 510 * rows, "sequences": 5 * rows, "masked_tokens": 77 * rows, "not_next": 2 * rows, "forced_not_next": 0}

    def shard(number: int) -> ShardInfo:
        digests = [sha256(f"{kind} {number}".encode()).hexdigest() for kind in ("file", "columns")]
        path = f"train/{number // 10:06d}-{number % 10:04d}.parquet"
        names = {"path": path, "sha256": digests[0], "columns_sha256": digests[1], "row_groups": groups}
        return replace(first, rows=rows, bytes=num_bytes, **names, **longest, **sums)

    (folder / "train").mkdir(parents=True)
    (folder / "tokenizer").symlink_to(demo / "tokenizer")
    (folder / "eval").symlink_to(demo / "eval")
    shards = [shard(number) for number in range(num_shards)]
    for info in shards:
        with (folder / info.path).open("wb") as file:
            file.truncate(info.bytes)
    publish_manifest(str(folder), replace(manifest, splits=manifest.splits | {"train": Split(shards)}))


def measured(reader: str, url: str) -> tuple[float, float]:
    """Seconds of opening, and the megabytes that it adds."""
    imports, call = READERS[reader]
    code = _MEASURED.format(imports=imports, call=call)
    done = subprocess.run([sys.executable, "-c", code, url], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, megabytes = json.loads(done.stdout)
    return seconds, megabytes


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100_000, metavar="N", help="number of shards (default: 100000)")
    parser.add_argument("--folder", metavar="FOLDER", help="where the data set is made (default: the system's place)")
    arguments = parser.parse_args()
    rows = []
    with own_folder(arguments.folder) as folder:
        demo = build_demo(folder, "demo")
        say(f"making {arguments.shards:,} shards")
        fabricate(folder / "many", demo, arguments.shards)
        files = [path for path in (folder / "many").iterdir() if path.is_file()]
        for reader in READERS:
            say(reader)
            seconds, megabytes = measured(reader, str(folder / "many"))
            verdict = met(seconds < SECONDS and megabytes < MEGABYTES)
            rows.append([reader, f"{seconds:.2f} s", f"{megabytes:.0f} MB", verdict])
        sizes = ", ".join(f"`{path.name}` {path.stat().st_size / 1e6:.1f} MB" for path in sorted(files))
        print(f"A data set of {arguments.shards:,} shards of {GROUPS} row groups each; {sizes}.")
        print(f"Target: {SECONDS:.0f} s and {MEGABYTES:.0f} MB. {machine('numpy', 'pyarrow')}\n")
    print("\n".join(table(["opened by", "time", "memory added", "target"], rows)))


if __name__ == "__main__":
    main()
