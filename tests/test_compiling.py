"""torch.compile: what the flags mean, nothing is compiled again in training, and a compiler that fails changes nothing."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import SHAPE, bert, masked_rows, pack
from launch import metrics, run, tiny
from small_recipes import THREE, write_three
from torch._dynamo.utils import counters
from transformers import BertConfig, BertForPreTraining

from shards.errors import UserError
from train.data.batch import PackedBatch
from train.data.reader import empty_rows
from train.device import attention, compiling
from train.device.compiling import How
from train.models.packed import PackedEncoder
from train.ranks import Ranks
from train.scorer import Scorer
from train.settings import Settings, Switch
from train.start.join import join_ranks
from train.start.prepare import prepare
from train.step import clear_gradients

CPU, GPU = torch.device("cpu"), torch.device("cuda")
# torch's compiler warns about itself.
pytestmark = pytest.mark.filterwarnings("ignore")


def encoder_of(layers: int, features: int) -> BertForPreTraining:
    with torch.device("meta"):
        return BertForPreTraining(BertConfig(num_hidden_layers=layers, hidden_size=features, intermediate_size=4 * features))


def settings_of(data: Path, out: Path, **values: object) -> Settings:
    common = {"model": "tiny", "epochs": 1, "global_batch": 12, "micro_batch": 3}
    return Settings(data=(str(data),), out=str(out), **(common | values))  # type: ignore[arg-type]


def switches(compile: Switch, graphs: Switch, activation_checkpointing: bool = False) -> Settings:
    switches = {"compile": compile, "cuda_graphs": graphs, "activation_checkpointing": activation_checkpointing}
    return settings_of(Path("data"), Path("out"), **switches)


@pytest.mark.parametrize(
    ("settings", "device", "world_size", "layers", "how"),
    [
        (switches("auto", "auto"), CPU, 1, 2, "plain"),
        (switches("on", "auto"), CPU, 1, 2, "layers"),
        (switches("off", "auto"), GPU, 1, 2, "plain"),
        (switches("auto", "off"), GPU, 1, 2, "layers"),
        (switches("auto", "auto"), GPU, 1, 2, "graphs"),  # 14 million weights in the layers
        (switches("auto", "auto"), GPU, 1, 3, "layers"),  # 21 million
        (switches("auto", "auto"), GPU, 2, 2, "layers"),
        (switches("auto", "auto", True), GPU, 1, 2, "layers"),
        (switches("auto", "on"), GPU, 1, 3, "graphs"),
    ],
)
def test_what_the_flags_mean(settings: Settings, device: torch.device, world_size: int, layers: int, how: How) -> None:
    assert compiling.choose(settings, device, world_size, encoder_of(layers, 768)) == how


@pytest.mark.parametrize(
    ("settings", "device", "world_size", "message"),
    [
        (switches("off", "on"), GPU, 1, "--cuda-graphs on does not go together with --compile off"),
        (switches("auto", "on", True), GPU, 1, "does not go together with --activation-checkpointing"),
        (switches("auto", "on"), CPU, 1, "--cuda-graphs on needs a GPU"),
        (switches("auto", "on"), GPU, 2, "is for a run of one process, this one has 2"),
    ],
)
def test_graphs_that_cannot_be(settings: Settings, device: torch.device, world_size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compiling.choose(settings, device, world_size, encoder_of(2, 768))


@pytest.fixture
def fresh() -> Iterator[None]:
    """A compiler that has compiled nothing yet."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh")
def test_layers_compile_once_and_never_again() -> None:
    """Once for all layers and each of the four sizes; then rows, numbers of sequences and losses change, the code does not."""
    encoder = bert(attention.PADDED, dropout=0.1)
    packed = PackedEncoder(encoder).train()
    names = list(packed.state_dict())
    compiling.compile_model(packed, encoder, "layers", backend="eager")
    sizes = SHAPE.rounded_slots()
    for num_slots in sizes:
        packed(pack(empty_rows(), layout="rounded", num_slots=num_slots)).mlm_loss.backward()
    assert counters["stats"]["unique_graphs"] == len(sizes) == 4 and not counters["graph_break"]
    used = set()
    for seed in range(8):
        batch = pack(masked_rows(seed % 7, seed) if seed % 7 else empty_rows(), layout="rounded")
        used.add(len(batch.slots.is_key) if batch.slots else 0)
        torch.manual_seed(seed)
        packed(batch).mlm_loss.backward()
    assert counters["stats"]["unique_graphs"] == len(sizes) and len(used) > 1
    packed.eval()
    with torch.no_grad():
        for seed in range(2):
            packed(pack(masked_rows(6, seed), layout="rounded"))
    assert counters["stats"]["unique_graphs"] <= len(sizes) + 2
    assert list(packed.state_dict()) == names


@pytest.mark.usefixtures("fresh")
def test_compiled_layers_compute_the_same() -> None:
    plain, compiled = (PackedEncoder(bert(attention.PADDED)).train() for _ in range(2))
    compiling.compile_model(compiled, compiled.encoder, "layers", backend="aot_eager")
    for seed in range(2):
        batch = pack(masked_rows(6, seed), layout="rounded")
        for model in (plain, compiled):
            model.zero_grad()
            losses = model(batch)
            (losses.mlm_loss + losses.nsp_loss).backward()
        for (name, one), two in zip(plain.named_parameters(), compiled.parameters(), strict=True):
            assert one.grad is not None and two.grad is not None and torch.allclose(one.grad, two.grad, atol=1e-4), name
    compiling.undo(compiled)
    assert torch.equal(plain(batch).mlm_loss, compiled(batch).mlm_loss)


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("no compiler\nhere")


@pytest.mark.usefixtures("fresh")
def test_a_compiler_that_fails_ends_the_run_or_is_gone_without(
    random_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fail)
    job, _ = prepare([settings_of(random_data, tmp_path, compile="on")], Ranks(0, 1, CPU))
    assert job.how == "layers" and job.layout == "rounded"
    with pytest.raises(UserError, match=r"--compile on: torch.compile fails here \(.*no compiler here.*\); use --compile auto"):
        join_ranks(job)
    job, _ = prepare([settings_of(random_data, tmp_path)], Ranks(0, 1, CPU))
    job.how = "layers"
    (message,) = join_ranks(job)
    assert message.startswith("not compiled, because torch.compile fails here (BackendCompilerFailed")
    assert job.how == "plain" and job.layout == "padded"
    assert all(parameter.grad is None for parameter in job.encoder.parameters())


def test_gradients_keep_their_memory_for_graphs() -> None:
    model = torch.nn.Linear(3, 2)
    clear_gradients(model, keep=True)
    first = [parameter.grad for parameter in model.parameters()]
    for _ in range(2):
        model(torch.ones(1, 3)).sum().backward()
    assert all(gradient is not None and gradient.any() for gradient in first)
    clear_gradients(model, keep=True)
    for parameter, gradient in zip(model.parameters(), first, strict=True):
        assert parameter.grad is gradient and not gradient.any()
    clear_gradients(model)
    assert model.weight.grad is None


@pytest.mark.usefixtures("fresh")
def test_the_code_is_compiled_once_in_each_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first step, which a message says. Dropout, masks, lengths and batches of a phase are other ones."""
    after_warm_up: list[int] = []
    compile_model, warm_up = compiling.compile_model, compiling.warm_up

    def counted(batches: Iterable[PackedBatch], run_once: Callable[[PackedBatch], Any], how: How) -> str | None:
        if after_warm_up:
            assert counters["stats"]["unique_graphs"] == after_warm_up[-1], "none was compiled since"
        fault = warm_up(batches, run_once, how)
        after_warm_up.append(counters["stats"]["unique_graphs"])
        return fault

    monkeypatch.setattr(compiling, "compile_model", partial(compile_model, backend="eager"))
    monkeypatch.setattr(compiling, "warm_up", counted)
    monkeypatch.setattr(Scorer, "score", lambda *_: ())
    two = THREE[: THREE.rindex("[[phase]]")]
    code, _, err = run(0, "--recipe", write_three(tmp_path, two), "--out", tmp_path / "run", "--compile", "on")
    assert code == 0 and err.count("compiled for its shapes in") == 1, err
    assert [line for line in err.splitlines() if "micro-batches of 6 rows of up to" in line and "phase 2 of 2" in line]
    assert len(after_warm_up) == 2 and after_warm_up[0] < after_warm_up[1]
    assert counters["stats"]["unique_graphs"] == after_warm_up[-1]


@pytest.mark.long
def test_a_compiled_model_trains_alike(random_data: Path, tmp_path: Path) -> None:
    """Other kernels draw other dropout, so without it: the first losses agree with those of the plain model."""
    for name, flags in (("plain", ()), ("compiled", ("--compile",))):
        code, _, err = run(1, *tiny(random_data, tmp_path / name, epochs=1), "--dropout", 0, *flags)
        assert code == 0 and ("compiled layer by layer in" in err) == bool(flags), err
    plain, compiled = ([line["loss"] for line in metrics(tmp_path / name)] for name in ("plain", "compiled"))
    assert plain == pytest.approx(compiled, abs=1e-3)
