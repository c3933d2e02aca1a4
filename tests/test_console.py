"""How a command ends: errors of the user, bugs, and stdouts of all kinds."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

from shards.command.console import EXIT_BAD_INPUT, EXIT_WRONG, guarded
from shards.errors import NotReadyError, UserError


def fail(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(("error", "code"), [(UserError("a: is b; do c"), 2), (NotReadyError("a: is b; do c"), 75)])
def test_an_error_of_the_user_is_one_line(error: UserError, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded("prep", lambda: fail(error)) == code
    assert capsys.readouterr().err == "prep: error: a: is b; do c\n"


def test_an_os_error_of_the_program_is_a_bug() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        guarded("prep", lambda: fail(OSError(errno.EBADF, "Bad file descriptor")))


@pytest.mark.parametrize(
    ("redirect", "code", "message"),
    [
        ("> /dev/full", EXIT_BAD_INPUT, "prep: error: No space left on device; free some space"),
        ("| true; exit ${PIPESTATUS[0]}", EXIT_WRONG, ""),
        (">&-", 0, ""),
        ("| cat > out; exit ${PIPESTATUS[0]}", 0, ""),
    ],
)
def test_any_stdout_ends_without_a_traceback(redirect: str, code: int, message: str, tmp_path: Path) -> None:
    program = "import sys; from shards.command.console import guarded; import time; time.sleep(0.2)\n"
    program += "sys.exit(guarded('prep', lambda: print('caf\\u00e9 \\udcff' * 9000) or 0))"
    command = f'"{sys.executable}" -c "$PROGRAM" {redirect}'
    environment = os.environ | {"PROGRAM": program, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code and done.stderr.startswith(message) and done.stderr.count("\n") == bool(message), done.stderr
    if "out" in redirect:
        assert (tmp_path / "out").read_text().startswith(r"caf\xe9 \udcff")
