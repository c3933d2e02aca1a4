"""Files of a disk while they are written, and what dead processes leave. Other processes are real ones."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from commands import ROOT
from conftest import BuildRunner

from shards import storage
from shards.storage import disk

WRITER = """
import os, sys
from pathlib import Path
from shards.storage import disk

def stop(number):
    print("writing", flush=True)
    sys.stdin.readline()

disk.os.fsync = stop
disk.publish(Path(sys.argv[1]), b"whole")
"""


UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def can_unshare() -> bool:
    """Whether processes may get numbers of their own, as in a container."""
    return (
        bool(shutil.which(UNSHARE[0])) and not subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode
    )


def start_writer(path: Path, *container: str) -> "subprocess.Popen[str]":
    """A process that is in the middle of writing `path`; a line on its input lets it go on."""
    command = [*container, sys.executable, "-c", WRITER, str(path)]
    writer = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    return writer


def temporary_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.tmp-*"))


def test_the_file_of_a_live_process_stays_and_that_of_a_dead_one_goes(tmp_path: Path) -> None:
    """By its lock, so it does not matter whether the process can be seen from here: in a container it cannot."""
    live, dead = start_writer(tmp_path / "live"), start_writer(tmp_path / "dead")
    dead.kill()
    dead.communicate()
    storage.tidy(str(tmp_path), re.compile(".*"))
    assert temporary_files(tmp_path) == [f".live.tmp-{disk._boot()}-0"]
    live.communicate("go on\ngo on\n")
    assert live.returncode == 0 and (tmp_path / "live").read_bytes() == b"whole" and not temporary_files(tmp_path)


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a PID namespace")
def test_a_process_in_another_container_keeps_its_file(tmp_path: Path) -> None:
    """It has the same host name, and its number is nobody's here."""
    live = start_writer(tmp_path / "live", *UNSHARE)
    for _ in range(20):
        storage.tidy(str(tmp_path), re.compile(".*"))
    assert temporary_files(tmp_path) == [f".live.tmp-{disk._boot()}-0"]
    live.communicate("go on\ngo on\n")
    assert live.returncode == 0 and (tmp_path / "live").read_bytes() == b"whole"


def test_only_named_files_of_this_program_are_removed(tmp_path: Path) -> None:
    (tmp_path / "ours" / "deep").mkdir(parents=True)
    boot = disk._boot()
    names = {
        f"ours/.a.tmp-{boot}-0": False,
        f".a.tmp-{boot}-0": True,  # a path that is not ours
        f"ours/deep/.a.tmp-{boot}-0": True,
        "ours/.a.tmp-host-999998": True,  # the pattern of another program
        "ours/.a.tmp-00000000-0": True,  # of another machine, and young
        "ours/a": True,
    }
    for name in names:
        (tmp_path / name).touch()
    os.utime(tmp_path / "ours" / ".a.tmp-host-999998", (0, 0))
    storage.tidy(str(tmp_path), re.compile("ours/a"))
    assert {name: (tmp_path / name).exists() for name in names} == names
    os.utime(tmp_path / "ours" / ".a.tmp-00000000-0", (0, 0))
    storage.tidy(str(tmp_path), re.compile("ours/a"))
    assert not (tmp_path / "ours" / ".a.tmp-00000000-0").exists()


def test_only_named_folders_are_removed_when_empty(tmp_path: Path) -> None:
    for name in ("ours-1", "ours-2/precious", "theirs"):
        (tmp_path / name).mkdir(parents=True)
    storage.tidy(str(tmp_path), re.compile("a"), re.compile("ours-[0-9]"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours-2", "theirs"]


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=disk.publish, args=(tmp_path / "a", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents and not temporary_files(tmp_path)


def test_a_file_that_was_taken_for_abandoned_before_it_was_locked_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = disk.fcntl.flock, []

    def lock(file: object, how: int) -> None:
        if not calls:
            calls.append(how)
            storage.tidy(str(tmp_path), re.compile("a"))
            assert not temporary_files(tmp_path)
        flock(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(disk.fcntl, "flock", lock)
    storage.publish(str(tmp_path / "a"), b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole" and len(calls) == 1


def test_shards_are_flushed_before_the_manifest_that_promises_them(
    corpus: Path, build: BuildRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut cannot be tried here, so this looks at the calls."""
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(number: int) -> None:
        events.append(f"flush {Path(f'/proc/self/fd/{number}').readlink().name}")
        fsync(number)

    def note_replace(path: Path, target: Path) -> Path:
        events.append(f"rename {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    build(corpus)
    content, name = f"flush .manifest.json.tmp-{disk._boot()}-0", "rename manifest.json"
    folders = ["flush train", "flush eval", "flush tokenizer", "flush out"]
    assert events[events.index(name) - 5 : events.index(name) + 2] == [*folders, content, name, "flush out"]
    last_shard = max(index for index, event in enumerate(events) if event.endswith(".parquet"))
    assert last_shard < events.index("flush train")


def test_another_system_than_linux_is_one_line() -> None:
    code = "import sys; sys.platform = 'darwin'; import shards.storage"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "needs Linux" in done.stderr
