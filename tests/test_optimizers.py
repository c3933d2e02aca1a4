"""Optimizers: the algorithms of their papers, steps that are skipped, and state that a checkpoint holds."""

import copy
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run_prep
from corpora import speeches
from launch import metrics, refused, run, tiny, weights
from safetensors.torch import load_file
from torch import Tensor, nn

from shards.errors import UserError
from train.device import torch_versions
from train.optimizers.make import make_optimizer, state_tensors
from train.settings import OptimizerName

NAMES: tuple[OptimizerName, ...] = ("adamw", "lamb", "stable-adamw", "muon")
BETAS, EPSILON, DECAY, STEPS = (0.9, 0.98), 1e-6, 0.1, 1000
Array = np.ndarray


def small_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 10), nn.LayerNorm(10), nn.Linear(10, 3))


def made(name: OptimizerName, model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(model, DECAY, name, BETAS, EPSILON, [model[1], model[3]])  # type: ignore[index]


def set_gradients(model: nn.Module, step: int) -> None:
    """Random ones, that grow a hundredfold now and then."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * (1.0 if step % 50 else 100.0)
        parameter.grad = noise + 0.1 * parameter.detach()


def take(optimizer: torch.optim.Optimizer, lr: float, skip: bool = False) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.found_inf = torch.tensor(float(skip))  # type: ignore[attr-defined]
    optimizer.step()


# The papers' algorithms for one tensor, line by line, in float64: (x, g, m, v, t, lr, decay) -> x, m, v.
Rule = Callable[[Array, Array, Array, Array, int, float, float], tuple[Array, Array, Array]]


def adamw(x: Array, g: Array, m: Array, v: Array, t: int, lr: float, decay: float) -> tuple[Array, Array, Array]:
    m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g**2
    x = x - lr * decay * x
    return x - lr * (m / (1 - BETAS[0] ** t)) / (np.sqrt(v / (1 - BETAS[1] ** t)) + EPSILON), m, v


def lamb(x: Array, g: Array, m: Array, v: Array, t: int, lr: float, decay: float) -> tuple[Array, Array, Array]:
    m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g**2
    r = (m / (1 - BETAS[0] ** t)) / (np.sqrt(v / (1 - BETAS[1] ** t)) + EPSILON)
    if not decay:  # excluded from both, as in the published code
        return x - lr * r, m, v
    change = r + decay * x
    return x - lr * np.linalg.norm(x) / np.linalg.norm(change) * change, m, v


def stable_adamw(x: Array, g: Array, m: Array, v: Array, t: int, lr: float, decay: float) -> tuple[Array, Array, Array]:
    b1, b2 = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in BETAS)
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    rms = math.sqrt(np.mean(g**2 / np.maximum(v, EPSILON**2)))
    lr = lr / max(1.0, rms)
    return x - lr * decay * x - lr * m / (np.sqrt(v) + EPSILON), m, v


@pytest.mark.parametrize(("name", "rule"), [("adamw", adamw), ("lamb", lamb), ("stable-adamw", stable_adamw)])
def test_many_steps_follow_the_algorithm_of_the_paper(name: OptimizerName, rule: Rule) -> None:
    model = small_model()
    optimizer = made(name, model)
    values = [p.detach().double().numpy().copy() for p in model.parameters()]
    means, squares = ([np.zeros_like(x) for x in values] for _ in range(2))
    for step in range(1, STEPS + 1):
        lr = 1e-2 / step**0.5
        set_gradients(model, step)
        for i, parameter in enumerate(model.parameters()):
            assert parameter.grad is not None
            gradient, decay = parameter.grad.double().numpy(), DECAY if parameter.ndim > 1 else 0.0
            values[i], means[i], squares[i] = rule(values[i], gradient, means[i], squares[i], step, lr, decay)
        take(optimizer, lr)
        if step in (1, 2, 50, STEPS):
            for parameter, value in zip(model.parameters(), values, strict=True):
                np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=2e-3, atol=2e-4)


def test_muon_changes_the_matrices_of_the_layers_and_adamw_the_rest() -> None:
    """As torch's two optimizers do, each on its own."""
    model, other = small_model(), small_model()
    optimizer = made("muon", model)
    matrices = [other[1].weight, other[3].weight]
    muon = torch.optim.Muon(matrices, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")  # type: ignore[arg-type]
    rest = [p for p in other.parameters() if all(p is not matrix for matrix in matrices)]
    groups = [{"params": [p for p in rest if p.ndim == n], "weight_decay": DECAY * (n - 1)} for n in (1, 2)]
    adam = torch.optim.AdamW(groups, betas=BETAS, eps=EPSILON, fused=True)
    for step in range(1, 40):
        for m in (model, other):
            set_gradients(m, step)
        take(optimizer, 1e-2)
        for o in (muon, adam):
            take(o, 1e-2) if o is adam else _plain_step(muon, 1e-2)
    for parameter, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, expected)


def _plain_step(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return copy.deepcopy(dict(model.state_dict())) | copy.deepcopy(dict(state_tensors(model, optimizer)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_skipped_step_changes_nothing_bit_for_bit(name: OptimizerName, first: bool, value: float) -> None:
    model = small_model()
    optimizer = made(name, model)
    for step in range(1, 1 if first else 4):
        set_gradients(model, step)
        take(optimizer, 1e-2)
    before = everything(model, optimizer)
    for _ in range(2):
        set_gradients(model, 9)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad[..., 0] = value
        take(optimizer, 1e-2, skip=True)
    after = everything(model, optimizer)
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    set_gradients(model, 10)
    take(optimizer, 1e-2)
    moved = everything(model, optimizer)
    assert all(tensor.isfinite().all() for tensor in moved.values())
    assert not any(torch.equal(moved[key], before[key]) for key in before)


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_without_a_gradient_stays_as_it_is(name: OptimizerName) -> None:
    model = small_model()
    optimizer = made(name, model)
    for step in range(1, 5):
        before = everything(model, optimizer)
        set_gradients(model, step)
        if step % 2:
            model[3].weight.grad = model[3].bias.grad = None
        take(optimizer, 1e-2)
        after = everything(model, optimizer)
        for key in before:
            assert torch.equal(before[key], after[key]) == (step % 2 == 1 and key.startswith("3.")), key


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(name: OptimizerName, random_data: Path, tmp_path: Path) -> None:
    flags = ("--optimizer", name, "--betas", 0.8, 0.95)
    assert run(0, *tiny(random_data, tmp_path / "whole", epochs=1), *flags, "--keep", 9)[0] == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for step in (4, 6):
        (tmp_path / "parts" / "checkpoints" / f"step-{step:010d}" / "training.json").unlink()
    code, _, err = run(0, *tiny(random_data, tmp_path / "parts", epochs=1), *flags)
    assert code == 0 and "resuming from step 2" in err
    assert weights(tmp_path / "parts", 6) == weights(tmp_path / "whole", 6)
    file = Path("checkpoints") / "step-0000000006" / "optimizer.safetensors"
    moments, expected = (load_file(tmp_path / folder / file) for folder in ("parts", "whole"))
    assert moments.keys() == expected.keys() and all(torch.equal(moments[key], expected[key]) for key in moments)
    assert sum(key.endswith("momentum_buffer") for key in moments) == (12 if name == "muon" else 0)


@pytest.mark.long
def test_all_of_them_learn_what_adamw_learns(tmp_path: Path) -> None:
    """The demo, a tiny model, 200 steps: the held-out loss comes close to that of guessing by frequency, from 10.4 nats."""
    corpus = ("--corpus", *map(str, speeches()), "--document", "file", "--eval-fraction", 0.05)
    done = run_prep("build", *corpus, "--out", tmp_path / "data", "--max-seq-len", 128, "--pack-to", 128, "--workers", 1)
    assert done.returncode == 0, done.stderr
    scores = {}
    for name, lr in (("adamw", 2e-3), ("stable-adamw", 2e-3), ("lamb", 1e-2), ("muon", 2e-3)):
        flags = ("--model", "tiny", "--global-batch", 32, "--micro-batch", 32, "--steps", 200, "--lr", lr, "--eval-every", 0)
        code, _, err = run(0, "--data", tmp_path / "data", "--out", tmp_path / name, *flags, "--optimizer", name)
        assert code == 0, err
        (scores[name],) = metrics(tmp_path / name, "eval")
    assert all(score["mlm_loss"] < score["unigram_loss"] + 0.1 for score in scores.values()), scores
    assert all(score["mlm_loss"] < scores["adamw"]["mlm_loss"] + 0.1 for score in scores.values()), scores


def test_another_optimizer_is_refused_and_so_are_odd_values(
    random_data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused(*tiny(random_data, trained, epochs=1), "--optimizer", "lamb", "--epsilon", 1e-8)
    assert "optimizer: adamw -> lamb" in line and "epsilon: 1e-06 -> 1e-08" in line
    for betas in ((0.9,), (0.9, 1.0), (0, 0.9)):
        assert "must be two numbers above 0 and below 1" in refused(*tiny(random_data, tmp_path / "run"), "--betas", *betas)
    monkeypatch.setattr(torch_versions, "muon", lambda: None)
    with pytest.raises(UserError, match="this torch has no Muon"):
        made("muon", small_model())
