"""Learning rates: the formulas of their papers, step by step."""

import math
from pathlib import Path

import pytest
from launch import metrics, refused, run, tiny

from train.optimizers.schedules import Schedule

PEAK, END, WARMUP, STEPS = 3e-4, 1e-5, 60, 1000


def formula(name: str, step: int, share: float) -> float:
    """The learning rate of a step in the papers' words: t counts from 1 where they do."""
    if step < WARMUP:
        return PEAK * (step + 1) / WARMUP
    if name == "linear":
        return END + (PEAK - END) * (STEPS - step) / (STEPS - WARMUP)
    if name == "cosine":
        return END + 0.5 * (PEAK - END) * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))
    if name == "inverse-sqrt":
        t, factor = step + 1, PEAK * WARMUP**0.5
        return factor * min(t**-0.5, t * WARMUP**-1.5)
    start = STEPS - share * STEPS
    if name == "constant" or step < start:
        return PEAK
    done = (step - start) / (share * STEPS)
    return END + (PEAK - END) * (1 - math.sqrt(done) if name == "wsd-sqrt" else 1 - done)


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "wsd", "wsd-sqrt", "inverse-sqrt"])
def test_each_step_has_the_learning_rate_of_the_paper(name: str, share: float) -> None:
    base, _, decay = name.partition("-s") if name.startswith("wsd") else (name, "", "")
    schedule = Schedule(base, PEAK, END, WARMUP, STEPS, share, "sqrt" if decay else "linear")  # type: ignore[arg-type]
    expected = [formula(name, step, share) for step in range(STEPS)]
    assert [schedule.lr(step) for step in range(STEPS)] == pytest.approx(expected, rel=1e-12)
    assert max(expected) == pytest.approx(PEAK) and (name == "constant" or expected[-1] < 0.5 * PEAK)


def test_linear_has_the_bits_of_its_formula_without_an_end() -> None:
    for peak, warmup, steps in ((1e-4, 60, 1000), (2e-3, 90, 1500), (7e-5, 0, 77)):
        schedule = Schedule("linear", peak, 0.0, warmup, steps)
        for step in range(warmup, steps + 3):
            assert schedule.lr(step) == peak * max(0, steps - step) / max(1, steps - warmup)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (5, 3), (0, 0), (3, 3)])
@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "wsd", "inverse-sqrt"])
def test_short_runs_have_finite_rates_up_to_the_peak(name: str, warmup: int, steps: int) -> None:
    schedule = Schedule(name, PEAK, 0.0, warmup, steps, 1.0, "sqrt")  # type: ignore[arg-type]
    assert all(0 <= schedule.lr(step) <= PEAK for step in range(steps + 5))


def test_a_fall_longer_than_the_steps_after_the_warm_up_begins_there() -> None:
    schedule = Schedule("wsd", PEAK, 0.0, 600, STEPS, 1.0)
    assert schedule.lr(599) == schedule.lr(600) == PEAK and schedule.lr(800) == PEAK / 2


def test_a_run_follows_its_schedule(random_data: Path, tmp_path: Path) -> None:
    flags = ("--schedule", "wsd", "--decay", "sqrt", "--decay-share", 0.5, "--end-lr", 1e-4, "--warmup-steps", 1)
    code, _, err = run(0, *tiny(random_data, tmp_path / "run", epochs=1), *flags)
    assert code == 0, err
    shares = [1, 1, 1, 1, 1 - math.sqrt(1 / 3), 1 - math.sqrt(2 / 3)]
    assert [line["lr"] for line in metrics(tmp_path / "run")] == pytest.approx([1e-4 + 9e-4 * share for share in shares])
    assert "schedule: wsd -> cosine" in refused(*tiny(random_data, tmp_path / "run", epochs=1), *flags, "--schedule", "cosine")
    assert "--end-lr is 1.0, must be from 0 to --lr" in refused(*tiny(random_data, tmp_path / "other"), "--end-lr", 1)
