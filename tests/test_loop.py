"""Whole runs, in real processes: stopped, killed, resumed on other numbers of ranks, and refused."""

import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from batches import bert
from commands import HANG_S
from datasets_of_rows import write_data_set
from launch import SMALL, RankProcesses, metrics, row_log, run, tiny, torchrun, weights, workers
from safetensors.torch import load_file

# Rows of the data set: six steps of twelve rows per epoch.
ROWS = 72


@pytest.fixture(scope="module")
def whole(random_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 epochs on 2 ranks that nobody disturbed, dropout on."""
    out = tmp_path_factory.mktemp("whole")
    code, _, err = run(2, *tiny(random_data, out / "run"), "--row-log", out / "row_log")
    assert code == 0, err
    return out


def losses(out: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metrics(out)}


def test_a_whole_run_leaves_what_it_says(random_data: Path, whole: Path) -> None:
    out = whole / "run"
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [f"step-{s:010d}" for s in (20, 22, 24)]
    assert [line["step"] for line in metrics(out)] == list(range(1, 25))
    for line in metrics(out):
        assert line["loss"] == pytest.approx(line["mlm_loss"] + line["nsp_loss"]) and line["mfu"] is None
        assert 0 <= line["padding_share"] < 1 and 0 <= line["data_wait_share"] <= 1 and line["tokens_per_s"] > 0
    (scores,) = metrics(out, "eval")
    assert scores["rows"] == 11 and scores["step"] == 24 and 0 < scores["majority_share"] < 1
    steps = row_log(whole / "row_log")
    assert list(steps) == list(range(24))
    for epoch in range(4):
        rows = [row for step in range(6 * epoch, 6 * epoch + 6) for row in steps[step]]
        assert sorted(rows) == list(range(ROWS))
    assert list(out.glob("tensorboard/events*")) and (out / "run.json").exists()


def test_killed_at_random_moments_it_ends_with_the_same_weights(random_data: Path, whole: Path, tmp_path: Path) -> None:
    """SIGKILL of one rank or of everything: while starting, within a step, while a checkpoint is written, after a resume."""
    _kill_until_done(["start", "step", "writing", "all", "step", "all"], 1, random_data, whole, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_killed_many_times_it_ends_with_the_same_weights(seed: int, random_data: Path, whole: Path, tmp_path: Path) -> None:
    moments = random.Random(seed).choices(["start", "step", "writing", "all"], k=12)
    _kill_until_done(moments, seed, random_data, whole, tmp_path)


def _kill_until_done(moments: list[str], seed: int, random_data: Path, whole: Path, tmp_path: Path) -> None:
    out, rng, kills = tmp_path / "run", random.Random(seed), 0
    while not (out / "checkpoints" / "step-0000000024" / "training.json").exists():
        processes = RankProcesses(2, *tiny(random_data, out), "--row-log", tmp_path / "row_log")
        if kills < len(moments) and _wait_for(moments[kills], processes, out, rng):
            victims = processes.ranks if moments[kills] == "all" else [rng.choice(processes.ranks)]
            for victim in victims:
                victim.kill()
            kills += 1
            processes.communicate()
        else:
            _, err = processes.communicate()
            assert processes.poll() == 0, err
    assert kills >= 3
    assert weights(out, 24) == weights(whole / "run", 24)
    assert losses(out) == losses(whole / "run")
    assert row_log(tmp_path / "row_log") == row_log(whole / "row_log")


def _wait_for(moment: str, processes: RankProcesses, out: Path, rng: random.Random) -> bool:
    """Waits for the moment; False when the run ended before."""
    written = set(out.glob("checkpoints/*/training.json"))
    lines = _size(out / "metrics.jsonl")
    if moment == "start":
        time.sleep(rng.uniform(0, 1))
        return processes.poll() is None
    while processes.poll() is None:
        time.sleep(0.005)
        folders = [path for path in out.glob("checkpoints/*") if not (path / "training.json").exists()]
        if moment == "writing" and (folders or set(out.glob("checkpoints/*/training.json")) - written):
            return True
        if moment in ("step", "all") and _size(out / "metrics.jsonl") != lines:
            time.sleep(rng.uniform(0, 0.3))
            return processes.poll() is None
    return False


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def test_four_two_three_and_one_ranks_make_one_run(random_data: Path, whole: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "run", tmp_path / "row_log"
    for ranks, until in ((4, 5), (2, 11), (3, 17), (1, 24)):
        processes = RankProcesses(ranks, *tiny(random_data, out, every=1), "--row-log", folder)
        if until < 24:
            _stop_after(processes, out, until)
        _, err = processes.communicate()
        assert processes.poll() == 0, err
    assert row_log(folder) == row_log(whole / "row_log"), "every micro-batch has the same rows"
    ours, theirs = losses(out), losses(whole / "run")
    assert len(ours) == 24 and all(abs(ours[step] - theirs[step]) < 1e-4 for step in theirs)
    for number, ranks in enumerate((4, 2, 3, 1), 1):
        paths = list(folder.glob(f"start-{number:04d}-*"))
        assert len(paths) == ranks and all(path.read_text() for path in paths), "each start did some steps"


def _stop_after(processes: RankProcesses, out: Path, step: int) -> None:
    """SIGTERM to one rank once the step is done."""
    while processes.poll() is None:
        if max((line["step"] for line in _metrics(out)), default=0) >= step:
            processes.ranks[-1].terminate()
            return
        time.sleep(0.01)


def _metrics(out: Path) -> list[dict[str, int]]:
    try:
        return metrics(out)
    except (FileNotFoundError, ValueError):
        return []


def test_one_and_two_ranks_sharing_two_micro_batches_agree_bit_for_bit(random_data: Path, tmp_path: Path) -> None:
    arguments = ("--global-batch", 6, "--micro-batch", 3, "--steps", 5)
    for ranks in (0, 1, 2):
        code, _, err = run(ranks, *tiny(random_data, tmp_path / str(ranks))[:6], *SMALL[4:], *arguments)
        assert code == 0, err
    assert len({weights(tmp_path / str(ranks), 5) for ranks in (0, 1, 2)}) == 1


def test_a_rank_asked_to_stop_makes_all_ranks_save_and_the_same_command_goes_on(
    random_data: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    processes = RankProcesses(2, *tiny(random_data, out, every=0))
    wait_for_metrics(processes, out)
    processes.ranks[1].terminate()
    _, err = processes.communicate()
    assert processes.poll() == 0, err
    _check_stopped(err, random_data, whole, out)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_torchrun_asked_to_stop_makes_all_ranks_save_and_the_same_command_goes_on(
    number: int, random_data: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = torchrun(2, *tiny(random_data, out, every=0))
    wait_for_metrics(process, out)
    process.send_signal(number)
    _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 1, err
    _check_stopped(err, random_data, whole, out)


def _check_stopped(err: str, random_data: Path, whole: Path, out: Path) -> None:
    assert "stopped after step" in err and "run the same command again" in err and "Error" not in err.split("stopped after")[0]
    saved = [path.parent.name for path in out.glob("checkpoints/*/training.json")]
    assert len(saved) == 1 and saved[0] != "step-0000000024"
    code, _, err = run(2, *tiny(random_data, out, every=0))
    assert code == 0 and f"resuming from step {int(saved[0][5:])}" in err
    assert weights(out, 24) == weights(whole / "run", 24)


def wait_for_metrics(process: RankProcesses | subprocess.Popen[str], out: Path) -> None:
    while not _metrics(out):
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.long
def test_max_restarts_goes_on_by_itself_after_a_killed_rank(random_data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = torchrun(2, *tiny(random_data, out), restarts=2)
    wait_for_metrics(process, out)
    workers(process)[1].kill()
    _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, err
    assert err.count("parameters, from scratch") == 2, "it was started twice"
    assert weights(out, 24) == weights(whole / "run", 24)


@pytest.mark.long
def test_ranks_whose_torchrun_is_killed_save_and_end(random_data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = torchrun(2, *tiny(random_data, out, epochs=4000, every=0))
    wait_for_metrics(process, out)
    orphans = workers(process)
    process.kill()
    gone, alive = psutil.wait_procs(orphans, timeout=HANG_S)
    assert len(gone) == 2 and not alive and list(out.glob("checkpoints/*/training.json"))
    process.communicate(timeout=HANG_S)


def test_a_finished_run_is_left_alone_and_more_steps_go_on(random_data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(0, *tiny(random_data, out, epochs=1))[0] == 0
    before = weights(out, 6)
    code, _, err = run(0, *tiny(random_data, out, epochs=1))
    assert code == 0 and "6 steps are done" in err and weights(out, 6) == before
    code, _, err = run(0, *tiny(random_data, out, epochs=2), "--keep", 9)
    assert code == 0 and "changed since: epochs: 1 -> 2" in err and "resuming from step 6" in err
    assert [line["step"] for line in metrics(out)] == list(range(1, 13))


def test_rows_dynamic_masks_and_unpacked_rows_train_too(tmp_path: Path) -> None:
    write_data_set(tmp_path / "data", masked=False, packed=False, pairs=False, format="webdataset")
    code, _, err = run(0, *tiny(tmp_path / "data", tmp_path / "run", epochs=1))
    assert code == 0, err
    assert all(line["nsp_loss"] == 0 and line["mlm_loss"] > 0 for line in metrics(tmp_path / "run"))
    (scores,) = metrics(tmp_path / "run", "eval")
    assert scores["nsp_accuracy"] is None and scores["pairs"] == 0


def test_a_gradient_that_is_not_finite_is_skipped_and_many_end_the_run(random_data: Path, tmp_path: Path) -> None:
    model = bert()
    model.cls.predictions.bias.data[7] = torch.nan
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "run"
    code, _, err = run(0, *tiny(random_data, out), "--model", tmp_path / "model", "--max-skipped", 3)
    assert code == 2 and "the gradient was not finite in 3 steps in a row, up to step 3" in err.splitlines()[-1], err
    assert "only the number of ids could be compared" in err and "1 of the last 1 steps were skipped" in err
    assert [(line["skipped"], line["loss"]) for line in metrics(out)] == [(1, None)] * 3
    saved = load_file(out / "checkpoints" / "step-0000000003" / "model.safetensors")
    moments = load_file(out / "checkpoints" / "step-0000000003" / "optimizer.safetensors")
    assert all(moments[name] == 0 for name in moments if name.endswith(".step"))
    for name, parameter in model.named_parameters():
        assert torch.equal(saved[name].nan_to_num(), parameter.detach().nan_to_num()), f"{name}: no step was taken"


def test_three_ranks_go_on_bit_for_bit(random_data: Path, tmp_path: Path) -> None:
    """With more than two, sums depend on where a gradient lies in its bucket: so that must not depend on the start."""
    arguments = ("--global-batch", 12, "--micro-batch", 2)
    assert run(3, *tiny(random_data, tmp_path / "run", epochs=1), *arguments)[0] == 0
    whole = weights(tmp_path / "run", 6)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-0000000006")
    code, _, err = run(3, *tiny(random_data, tmp_path / "run", epochs=1), *arguments)
    assert code == 0 and "resuming from step 4" in err
    assert weights(tmp_path / "run", 6) == whole


def test_rows_that_a_batch_does_not_divide_are_served_once_an_epoch_whatever_the_stops(tmp_path: Path) -> None:
    """The run of one epoch ends with a short step; one of three goes on behind its last row."""
    write_data_set(tmp_path / "data", [30, 20])
    for epochs in (1, 3):
        arguments = tiny(tmp_path / "data", tmp_path / "run", epochs)
        assert run(2, *arguments, "--row-log", tmp_path / "row_log")[0] == 0
    rows = [row for of_step in row_log(tmp_path / "row_log").values() for row in of_step]
    assert [sorted(rows[start : start + 50]) for start in (0, 50, 100)] == [list(range(50))] * 3
