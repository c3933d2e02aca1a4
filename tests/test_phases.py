"""Runs of several phases: killed, resumed on other numbers of ranks, extended, branched off, and refused."""

import json
import random
import re
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets_of_rows import write_data_set
from launch import RankProcesses, metrics, refused, row_log, run, weights
from rows_of_ids import VOCAB_SIZE
from small_recipes import THREE, write_three

from train.recipe.file import read_recipe
from train.settings import AUTO_ROWS

ROWS = {"a": 41, "b": 23, "c": 30}
STEPS, BORDERS = 24, (9, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_three(tmp_path_factory.mktemp("recipe")).parent


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The run that nobody disturbed, on two ranks."""
    code, _, err = run(2, *command(folder, folder / "whole"))
    assert code == 0, err
    return folder / "whole"


def command(folder: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("--recipe", folder / "recipe.toml", "--out", out / "run", "--row-log", out / "log", *more)


def losses(out: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metrics(out / "run")}


def test_phases_follow_each_other_and_report_themselves(whole: Path) -> None:
    lines = metrics(whole / "run")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["phase"] for line in lines] == [1] * 9 + [2] * 3 + [3] * 12
    assert [line["lr"] for line in lines[:9]] == pytest.approx([5e-4] + [1e-3] * 8)
    assert lines[12]["lr"] == 5e-4 and lines[-1]["lr"] < 1e-4
    scores = metrics(whole / "run", "eval")
    assert [(line["step"], line["data"]) for line in scores] == [(9, "a"), (9, "b"), (12, "c"), (24, "a"), (24, "c")]
    assert {path.name for path in (whole / "run" / "checkpoints").iterdir()} == {f"step-{s:010d}" for s in (18, 21, 24)}
    config = json.loads((whole / "run" / "checkpoints" / "step-0000000024" / "config.json").read_bytes())
    assert config["hidden_dropout_prob"] == 0, "that of the last phase"


def test_each_row_of_each_data_set_once_an_epoch_and_shares_as_the_recipe_says(whole: Path) -> None:
    steps = row_log(whole / "log")
    sizes = [len(rows) for rows in steps.values()]
    assert sizes == [8] * 3 + [12] * 3 + [16] * 3 + [12, 12, 6] + [8] * 12
    names = [str(row).partition(":")[0] for rows in steps.values() for row in rows]
    assert abs(Counter(names[: 9 * 12])["a"] - 9 * 12 * 0.76) < 2, "3:1 in tokens; rows of a are a little shorter"
    for step in steps:
        assert_each_row_once_an_epoch(steps, step)


def assert_each_row_once_an_epoch(steps: dict[int, list[int]], last: int) -> None:
    """Up to a step, any two rows of a data set were served equally often, or one of them once more."""
    counts = Counter(str(row) for step, rows in steps.items() for row in rows if step <= last)
    for name, count in ROWS.items():
        of_source = [counts[f"{name}:{row}"] for row in range(count)]
        assert max(of_source) - min(of_source) <= 1, (name, last)


def test_killed_at_a_border_it_ends_with_the_same_weights(folder: Path, whole: Path, tmp_path: Path) -> None:
    _kill_until_done([BORDERS[0]], random.Random(1), folder, whole, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3])
def test_killed_at_both_borders_and_ten_times_anywhere_it_ends_with_the_same_weights(
    seed: int, folder: Path, whole: Path, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    moments = sorted([*BORDERS, *(rng.randrange(STEPS - 4) for _ in range(10))])
    _kill_until_done(moments, rng, folder, whole, tmp_path)


def _kill_until_done(moments: list[int], rng: random.Random, folder: Path, whole: Path, tmp_path: Path) -> None:
    """SIGKILL of all ranks, once a start has done each of the steps: at a border at once, elsewhere some time later."""
    out = tmp_path / "part"
    for moment in moments:
        begun, processes = time.time(), RankProcesses(2, *command(folder, out))
        while processes.poll() is None and not _has_done(moment, out, begun):
            time.sleep(0.002)
        time.sleep(0 if moment in BORDERS else rng.uniform(0, 0.2))
        for rank in processes.ranks:
            rank.kill()
        processes.communicate()
    code, _, err = run(2, *command(folder, out))
    assert code == 0, err
    assert weights(out / "run", STEPS) == weights(whole / "run", STEPS)
    assert losses(out) == losses(whole) and row_log(out / "log") == row_log(whole / "log")
    scores = [[(line["step"], line["data"], line["mlm_loss"]) for line in metrics(o / "run", "eval")] for o in (out, whole)]
    assert sorted(scores[0]) == sorted(scores[1])


def _has_done(step: int, out: Path, begun: float) -> bool:
    """Whether a start that began at this time has done a step. Step 0: whether it has reported its start."""
    return any(line["time"] > begun for line in _lines(out, "start")) and _last_step(out) >= step


def _last_step(out: Path) -> int:
    return max((line["step"] for line in _lines(out, "train")), default=0)


def _lines(out: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of a run that is at work."""
    try:
        return metrics(out / "run", kind)
    except (FileNotFoundError, ValueError):
        return []


def test_one_rank_serves_the_rows_of_two(kept: Path, whole: Path) -> None:
    assert row_log(kept / "log") == row_log(whole / "log")
    ours, theirs = losses(kept), losses(whole)
    assert ours.keys() == theirs.keys() and all(abs(ours[step] - theirs[step]) < 1e-3 for step in theirs)


@pytest.mark.long
def test_four_two_three_and_one_ranks_make_one_run(folder: Path, whole: Path, tmp_path: Path) -> None:
    """Stopped inside the first phase, at its end and inside the last, each time going on with another number of ranks."""
    out = tmp_path / "part"
    for ranks, steps in ((4, 5), (2, 9), (3, 17), (1, STEPS)):
        processes = RankProcesses(ranks, *command(folder, out))
        while processes.poll() is None and steps < STEPS:
            if _last_step(out) >= steps:
                processes.ranks[-1].terminate()
                break
            time.sleep(0.002)
        _, err = processes.communicate()
        assert processes.poll() == 0, err
    assert row_log(out / "log") == row_log(whole / "log"), "every micro-batch has the same rows"
    ours, theirs = losses(out), losses(whole)
    assert len(ours) == STEPS and all(abs(ours[step] - theirs[step]) < 1e-3 for step in theirs)


@pytest.fixture(scope="module")
def kept(folder: Path) -> Path:
    """The same run in one process, with all its checkpoints."""
    code, _, err = run(0, *command(folder, folder / "kept", "--keep", 99))
    assert code == 0, err
    return folder / "kept"


def partly(kept: Path, out: Path, step: int) -> None:
    """A copy of the run whose newest checkpoint is that of a step."""
    for name in ("run", "log"):
        shutil.copytree(kept / name, out / name)
    for path in (out / "run" / "checkpoints").iterdir():
        if int(path.name[5:]) > step:
            shutil.rmtree(path)


@pytest.mark.parametrize(
    ("step", "change", "num_steps"),
    [
        (6, ("steps = 9", "steps = 15"), 30),  # the current phase is longer
        (9, ("steps = 9", "steps = 15"), 30),  # the one that has just ended is longer
        pytest.param(12, ("epochs = 1", "epochs = 2"), 27, marks=pytest.mark.long),
        (21, ("", '[[phase]]\ndata = "b"\nsteps = 2\nglobal_batch = 8\nmicro_batch = 4\n'), 26),  # one is added at the end
        (6, ('data = ["a", "c"]', 'data = ["c", "a", "b"]'), 24),  # a phase to come is another one
    ],
)
def test_a_recipe_may_change_in_what_is_to_come(
    step: int, change: tuple[str, str], num_steps: int, folder: Path, kept: Path, tmp_path: Path
) -> None:
    partly(kept, tmp_path, step)
    text = THREE.replace(*change) if change[0] else THREE + change[1]
    shutil.copytree(folder, tmp_path / "other", ignore=shutil.ignore_patterns("whole", "kept"))
    write_three(tmp_path / "other", text)
    code, _, err = run(0, *command(tmp_path / "other", tmp_path))
    assert code == 0 and f"resuming from step {step} " in err and f"{num_steps} steps are done" in err, err
    log = row_log(tmp_path / "log")
    assert len(log) == num_steps
    assert_each_row_once_an_epoch(log, num_steps)


@pytest.mark.parametrize(
    ("step", "change", "message"),
    [
        (12, ("steps = 9", "steps = 10"), "phase 1 steps: 9 -> 10"),
        (21, ("lr = 1e-3", "lr = 2e-3"), "phase 1 lr: 0.001 -> 0.002"),
        (21, ('data = "c"\nepochs', 'data = "b"\nepochs'), "phase 2 the data set is another one"),
        (6, ("weights = [3, 1]", "weights = [1, 1]"), "phase 1 weights: [3, 1] -> [1, 1]"),
        (6, ("end-global-batch = 16", "end-global-batch = 8"), "phase 1 end_global_batch: 16 -> 8"),
        (21, ("mask_prob = 0.3", "mask_prob = 0.2"), "phase 3 mask_prob: 0.3 -> 0.2"),
        (6, ("steps = 9", "steps = 4"), "phase 1: "),
        (21, (THREE[THREE.rindex("[[phase]]") :], ""), "is in phase 3, and the recipe has 2"),
    ],
)
def test_a_change_of_what_is_done_is_refused_with_the_difference(
    step: int, change: tuple[str, str], message: str, folder: Path, kept: Path, tmp_path: Path
) -> None:
    partly(kept, tmp_path, step)
    shutil.copytree(folder, tmp_path / "other", ignore=shutil.ignore_patterns("whole", "kept"))
    assert change[0] in THREE
    write_three(tmp_path / "other", THREE.replace(*change))
    assert message in refused(*command(tmp_path / "other", tmp_path))


def test_a_branch_begins_with_the_weights_and_the_place_in_the_data_of_its_run(folder: Path, tmp_path: Path) -> None:
    """A decay from the middle of a phase, and from a checkpoint of a run without a recipe; both go on when stopped."""
    flags = ("--data", folder / "a", "--model", "tiny", "--global-batch", 8, "--micro-batch", 4, "--log-every", 1, "--seed", 5)
    constant = ("--out", tmp_path / "main", "--steps", 9, "--schedule", "constant", "--checkpoint-every", 3)
    log = ("--row-log", tmp_path / "log")
    assert run(0, *flags, *constant, *log)[0] == 0
    decay = ("--out", tmp_path / "decay", "--schedule", "linear", "--warmup-steps", 0, "--steps", 4)
    branch = ("--branch", tmp_path / "main" / "checkpoints" / "step-0000000006", "--row-log", tmp_path / "log2")
    code, _, err = run(0, *flags, *decay, *branch, "--checkpoint-every", 2)
    assert code == 0 and "branching off from step 6" in err and "10 steps are done" in err, err
    assert [line["lr"] for line in metrics(tmp_path / "decay")] == pytest.approx([1e-4, 7.5e-5, 5e-5, 2.5e-5])
    main, other = row_log(tmp_path / "log"), row_log(tmp_path / "log2")
    assert list(other) == [6, 7, 8, 9] and [other[step] for step in (6, 7, 8)] == [main[step] for step in (6, 7, 8)]
    rows = [row for step in [*range(6), 6, 7, 8, 9] for row in (main if step < 6 else other)[step]]
    assert Counter(rows).most_common(1)[0][1] <= 2
    expected = weights(tmp_path / "decay", 10)
    shutil.rmtree(tmp_path / "decay" / "checkpoints" / "step-0000000010")
    code, _, err = run(0, *flags, *decay, *branch)
    assert code == 0 and "resuming from step 8" in err and weights(tmp_path / "decay", 10) == expected
    assert_a_recipe_branches_off(folder, tmp_path, {step: [f"a:{row}" for row in main[step]] for step in range(6)})
    line = refused(*flags, *decay, *branch, "--out", tmp_path / "third", "--seed", 6, "--model", "mini")
    assert "is of a run with other settings" in line and "seed: 5 -> 6" in line and "model hidden_size: 128 -> 256" in line


def assert_a_recipe_branches_off(folder: Path, tmp_path: Path, before: dict[int, list[str]]) -> None:
    """The last two phases of the recipe after 6 steps of a run on one of its data sets, which continues there."""
    head, _, *phases = THREE.split("[[phase]]")
    (tmp_path / "other").mkdir()
    for name in ROWS:
        (tmp_path / "other" / name).symlink_to(folder / name)
    recipe = write_three(tmp_path / "other", "[[phase]]".join([head, *phases]))
    branch = ("--branch", tmp_path / "main" / "checkpoints" / "step-0000000006", "--row-log", tmp_path / "log3")
    code, _, err = run(0, "--recipe", recipe, "--out", tmp_path / "branch", *branch, "--eval-all")
    assert code == 0 and "branching off from step 6" in err and "21 steps are done" in err, err
    scores = [(line["step"], line["data"]) for line in metrics(tmp_path / "branch", "eval")]
    assert scores == [(9, "c"), (9, "a"), (21, "c"), (21, "a")]
    steps = {**before, **row_log(tmp_path / "log3")}
    assert list(steps) == list(range(21))
    assert [line["phase"] for line in metrics(tmp_path / "branch")] == [1] * 3 + [2] * 12
    for step in steps:
        assert_each_row_once_an_epoch(steps, step)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("lr = 5e-4", "learning_rate = 5e-4"), "phase 2: unknown setting 'learning_rate'"),
        (("epochs = 1", "epoch = 1"), "phase 2: unknown setting 'epoch'; did you mean epochs?"),
        (("seed = 5", "sede = 5"), "recipe.toml: unknown setting 'sede'; did you mean seed?"),
        (("epochs = 1", ""), "phase 2: set exactly one of --steps, --tokens and --epochs"),
        (("steps = 9", "steps = 0"), "phase 1: set exactly one of --steps, --tokens and --epochs"),
        (("weights = [3, 1]", "weights = [0, 0]"), "phase 1: --weights is 0 0, must be numbers above 0"),
        (("weights = [3, 1]", "weights = [3]"), "phase 1: --weights has 1 numbers for 2 data sets"),
        (("end-global-batch = 16", "end-global-batch = 18"), "--micro-batch 4 does not divide --end-global-batch 18"),
        (
            ("mask_prob = 0.3", "mask_prob = 0.3\nmasking = 'stored'"),
            "phase 3: --mask-prob and --mask-unit are for masks drawn",
        ),
        (('data = "c"\nepochs', 'data = "dynamic"\nmasking = "stored"\nepochs'), "phase 2: --masking stored: "),
        (('data = "c"\nepochs', 'data = "tokenizer"\nepochs'), "has another tokenizer than"),
        (('data = "c"\nepochs', 'data = ["c", "pairs"]\nepochs'), "phase 2: --data: some of its data sets have sentence pairs"),
        (
            ('data = "c"\nepochs', 'data = ["c", "document"]\nepochs'),
            "phase 2: --data: some of its data sets have sentence pairs",
        ),
        (('data = "c"\nepochs', 'data = ["c", "dynamic"]\nepochs'), "phase 2: --data: some of its data sets have stored masks"),
        (('data = "c"\nepochs', 'data = ["c", "c"]\nepochs'), "phase 2: --data"),
        (('data = "c"\nepochs', "epochs"), "phase 2: has no data"),
        (('data = "c"\nepochs', 'data = "none"\nepochs'), "phase 2: "),
        (("lr = 5e-4", 'lr = 5e-4\nmodel = "mini"'), "phase 2: model is a setting of the whole run"),
        (('model = "tiny"', 'model = "tiny"\nout = "x"'), "out does not belong in a recipe; set --out on the command line"),
        (("epochs = 1", 'epochs = 1\nbranch = "x"'), "phase 2: branch does not belong in a recipe; set --branch"),
        (("seed = 5", "seed = 5\nsteps = 3"), "recipe.toml: steps is a setting of each phase; set it below each [[phase]]"),
        (("lr = 5e-4", "lr = 5e-4\nend-lr = 0.0\nend_lr = 1e-5"), "phase 2: end_lr is set twice"),
        (("steps = 9", 'steps = "nine"'), "phase 1: --steps is 'nine', must be of type int"),
        (("steps = 9", "steps = 9\ntokens = 100"), "phase 1: set exactly one of --steps, --tokens and --epochs"),
        (("steps = 9", "steps = -9"), "phase 1: --steps is -9, must be from 0 to"),
        (("epochs = 1", "epochs = 1.5"), "phase 2: --epochs is 1.5, must be of type int"),
        (("epochs = 1", "epochs = true"), "phase 2: --epochs is True, must be of type int"),
        (("lr = 5e-4", "lr = nan"), "phase 2: --lr is nan, must be above 0 and below 100"),
        (("weights = [3, 1]", "weights = [3, nan]"), "phase 1: --weights is 3 nan, must be numbers above 0"),
        (("weights = [3, 1]", "weights = [3, -1]"), "phase 1: --weights is 3 -1, must be numbers above 0"),
        (("weights = [3, 1]", 'weights = ["3", "1"]'), "phase 1: --weights is ('3', '1'), must be a list of numbers"),
        (('schedule = "constant"', 'schedule = "flat"'), "phase 1: --schedule is 'flat', must be one of linear, cosine"),
        (('data = "c"\nepochs', "data = []\nepochs"), "phase 2: --data is empty"),
        (('data = "c"\nepochs', "data = 3\nepochs"), "phase 2: --data is (3,), must be a list of texts"),
        (("end-global-batch = 16", "end-global-batch = 4"), "phase 1: --end-global-batch is 4, less than --global-batch 8"),
        (("[[phase]]", "[[phases]]"), "has no [[phase]]"),
        (("seed = 5", "seed = "), "not a TOML file"),
        (("dropout = 0.1", "dropout = 2"), "phase 1: --dropout is 2.0, must be from 0.0 to 0.9"),
        (("dropout = 0.1", ""), "--dropout is set in some phases only"),
        (("lr = 5e-4", "lr = 5e-4\nrope_theta = 5e4"), "phase 2: --rope-theta: --model tiny has no such base"),
    ],
)
def test_bad_recipes_are_one_line_with_the_phase(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    assert change[0] in THREE
    path = write_three(tmp_path, THREE.replace(*change))
    write_data_set(tmp_path / "dynamic", (20,), masked=False)
    single = write_data_set(tmp_path / "pairs", (20,), pairs=False)
    shutil.copytree(tmp_path / "pairs", tmp_path / "document")
    document = replace(single, settings=single.settings | {"pairing": "document"})
    (tmp_path / "document" / "manifest.json").write_bytes(document.to_json())
    manifest = write_data_set(tmp_path / "tokenizer", (20,), seed=8)
    other = replace(manifest, tokenizer=manifest.tokenizer | {"fingerprint": "0" * 64})
    (tmp_path / "tokenizer" / "manifest.json").write_bytes(other.to_json())
    line = refused("--recipe", path, "--out", tmp_path / "run", "--model", "tiny")
    assert message in line and not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_phase_that_is_longer_than_the_model_s_positions_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setattr("datasets_of_rows.MAX_SEQ_LEN", 12)
        write_data_set(tmp_path / "a", (30, 11), seed=1)
        write_data_set(tmp_path / "b", (23,), seed=2)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    config = {"model_type": "bert", "vocab_size": VOCAB_SIZE, "max_position_embeddings": 20, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    line = refused("--recipe", write_three(tmp_path), "--out", tmp_path / "run", "--model", tmp_path / "config.json")
    assert "phase 2: --model" in line and "has 20 positions, the data set has sequences of up to 32 tokens" in line


def test_words_of_flags_are_words_of_recipes(tmp_path: Path) -> None:
    text = THREE.replace("micro_batch = 6", 'micro_batch = "auto"')
    recipe = read_recipe({"recipe": str(write_three(tmp_path, text)), "out": str(tmp_path / "run")})
    assert [settings.micro_batch for settings in recipe] == [4, AUTO_ROWS, 4]


def test_places_are_flags_and_phases_set_their_own_data(folder: Path, tmp_path: Path) -> None:
    assert "--data is a setting of each phase" in refused(*command(folder, tmp_path), "--data", folder / "a")
    assert "--out is missing" in refused("--recipe", folder / "recipe.toml")
    assert "--config is not allowed with --recipe" in refused(*command(folder, tmp_path), "--config", folder / "recipe.toml")
    assert "--steps is a setting of each phase" in refused(*command(folder, tmp_path), "--steps", 3)
    assert re.search("No such file|cannot|missing", refused("--recipe", tmp_path / "none.toml", "--out", tmp_path / "run"))
