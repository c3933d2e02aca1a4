"""The command lines of the documents: found in a page, and run as a reader would type them."""

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from commands import call, run_prep
from launch import run_ranks

# The console scripts, by the modules that they run.
PROGRAMS = {
    "bert-prep": "prep",
    "bert-train": "train",
    "bert-evaluate": "train.evaluate",
    "bert-export": "train.export",
    "bert-report": "train.report",
}
TORCHRUN = re.compile(r"torchrun --standalone --nproc-per-node (\d+) (?:--no-python )?(.*)")


def lines_of(page: Path, language: str) -> list[str]:
    """The lines of the page's blocks of code in that language, those that end in a backslash joined to the next."""
    parts = re.split(r"^```(\w*)\n", page.read_text(encoding="utf8"), flags=re.MULTILINE)
    blocks = [text for opened, text in list(zip(parts[1::2], parts[2::2], strict=True))[::2] if opened == language]
    return [line for block in blocks for line in block.replace("\\\n", " ").strip().split("\n")]


def module_of(line: str) -> str | None:
    """The module of ours that a command line runs, alone or under torchrun; None where it runs another program."""
    torchrun = TORCHRUN.match(line)
    module, _ = _parts(shlex.split(torchrun[2] if torchrun else line, comments=True))
    return module


def run_line(line: str, folder: Path) -> str:
    """What a command line of ours prints in that folder. It runs in this process, or under torchrun as its ranks would."""
    torchrun = TORCHRUN.match(line)
    module, arguments = _parts(shlex.split(torchrun[2] if torchrun else line, comments=True))
    assert module, line
    if torchrun:
        code, out, err = run_ranks(int(torchrun[1]), *arguments, module=module, cwd=folder)
    else:
        run = run_prep if module == "prep" else lambda *words, cwd: call(_main(module), words, cwd)
        done = run(*arguments, cwd=folder)
        code, out, err = done.returncode, done.stdout, done.stderr
    assert code == 0, f"{line}\n{out}\n{err}"
    return out + err


def run_in_shell(line: str, folder: Path, environment: dict[str, str]) -> str:
    """What any command line prints in that folder; its `python` is the interpreter of the tests."""
    line = re.sub(r"(\.venv/bin/|\b)python\b", sys.executable, line)
    done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def _parts(words: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    if words and words[0] in PROGRAMS:
        return PROGRAMS[words[0]], words[1:]
    if words and words[0].removeprefix(".venv/bin/") == "python":
        words = words[1:]
    if len(words) > 1 and words[0] == "-m" and words[1] in PROGRAMS.values():
        return words[1], words[2:]
    return None, words


def _main(module: str) -> str:
    return "train.__main__" if module == "train" else module
