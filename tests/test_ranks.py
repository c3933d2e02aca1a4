"""What ranks tell each other, in real processes: sums, values, and the first rank's error as it is."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from commands import HANG_S, ROOT
from servers import free_port

from shards.errors import NotReadyError, UserError
from train.ranks import LostRankError, Ranks, joined

PROGRAM = """
import sys
from shards.command.console import guarded
from shards.errors import NotReadyError, UserError
from train.ranks import joined

def fail(rank):
    if rank == 1:
        raise NotReadyError("rank 1 must wait")
    if rank == 2:
        raise UserError("rank 2 has bad input")

def run():
    with joined() as ranks:
        print(ranks.sum_later([1, ranks.rank])(), ranks.gather(ranks.rank), ranks.from_first(lambda: "first"))
        print(ranks.agreed(lambda: ranks.rank * 10), flush=True)
        ranks.agreed(lambda: fail(ranks.rank))

sys.exit(guarded("test", run))
"""


def test_three_ranks_agree_and_end_with_the_first_error_and_its_exit_code(tmp_path: Path) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}
    environment = os.environ | place | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    for rank, process in enumerate(processes):
        out, err = process.communicate(timeout=HANG_S)
        assert out.splitlines() == ["[3, 3] [0, 1, 2] first", str(rank * 10)], err
        assert process.returncode == NotReadyError.exit_code == 75
        assert err == "test: error: rank 1 must wait\n", "no warning of a group that was left open"


def test_alone_an_error_keeps_its_class_and_its_cause() -> None:
    ranks = Ranks(0, 1, torch.device("cpu"))

    def fail() -> None:
        try:
            raise ValueError("deep")
        except ValueError as error:
            raise NotReadyError("later") from error

    with pytest.raises(NotReadyError, match="later") as caught:
        ranks.agreed(fail)
    assert isinstance(caught.value, UserError) and isinstance(caught.value.__cause__, ValueError)
    assert ranks.sum_later([2, 3])() == [2, 3] and ranks.gather("x") == ["x"] and ranks.from_first(lambda: 7) == 7


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("x: can't allocate memory: y")])
def test_memory_that_ran_out_is_one_line(error: RuntimeError) -> None:
    with pytest.raises(UserError, match=r"does not fit the device's memory .* set a smaller --micro-batch"), joined():
        raise error
    with pytest.raises(RuntimeError, match="a bug"), joined():
        raise RuntimeError("a bug")


def test_a_store_that_nobody_holds_is_an_error_of_its_own_within_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun has ended since this process looked for it."""
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (place | {"MASTER_PORT": str(free_port()), "TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("train.ranks._CONNECT_LIMIT", timedelta(seconds=1))
    with pytest.raises(LostRankError, match="rank 1: another process of the run was lost, or cannot be reached"), joined():
        pass
