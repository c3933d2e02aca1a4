"""benchmarks.gpu on a CPU with a tiny model: every kind of line, what a failure leaves, and what it imports."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT

from benchmarks import gpu
from benchmarks.gpu_runs import Line, Place, Result
from benchmarks.kernels import by_kind, kernels_of, kind_of, largest
from benchmarks.random_data import SPECIAL_IDS, masked, padding_share, random_rows, write_data_set
from shards.gate.rows import FORMAT_LIMITS, check_rows

TINY = ("--device", "cpu", "--model", "tiny", "--rows", "2", "--steps", "1", "--vocab-size", "500", "--minutes", "60")


def table(text: str) -> dict[str, list[str]]:
    """Name of a line -> its other cells."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == list(gpu.COLUMNS)
    return {cells[0]: cells[1:] for cells in rows[2:]}


def speed(cells: list[str]) -> float:
    return float(cells[0].replace(",", ""))


def test_lines_of_our_loop_and_of_the_peer_are_measured_on_the_same_rows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("benchmarks.gpu_runs", "train.throughput"):
        monkeypatch.setattr(f"{module}.peak_flops", lambda device, half: 1e8)
    names = "base-128,base-512-padded,transformers-128,transformers-512,modernbert-base-128"
    gpu.main([*TINY, "--scratch", str(tmp_path), "--only", names])
    out, err = capsys.readouterr()
    lines = table(out)
    assert sorted(lines) == sorted(names.split(",")), lines
    assert all(speed(cells) > 0 and float(cells[3]) > 0 for cells in lines.values()), lines
    share = {name: float(cells[2].strip("%")) / speed(cells) for name, cells in lines.items()}
    assert share["base-128"] == pytest.approx(share["transformers-128"], rel=0.2), "operations of the same real tokens"
    assert "matmul" in lines["base-128"][-1] and "idle" in lines["base-128"][-1] and "ms a step" in lines["base-128"][-1]
    assert "base-128: " in out and "target 700,000: not met" in out and "failed" not in out
    assert not list(tmp_path.iterdir()), "the folder of the run is removed"
    assert "sequences of at most 512 tokens" in err


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # Inductor's own
@pytest.mark.parametrize("names", ["transformers-*-compiled", "command-*"])
def test_compiled_lines_and_the_command_are_measured(names: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    gpu.main([*TINY, "--scratch", str(tmp_path), "--only", names])
    lines = table(capsys.readouterr().out)
    assert len(lines) >= 2 and all(speed(cells) > 0 for cells in lines.values()), lines


def test_a_line_that_fails_leaves_the_others(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(line: Line, place: Place) -> Result:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")

    def succeed(line: Line, place: Place) -> Result:
        return Result([3.0, 1.0, 2.0], mfu=0.385, first_step_s=4.0, peak_bytes=2 * 10**9, notes=["700 W"])

    monkeypatch.setitem(gpu.MEASURES, "ours", fail)
    monkeypatch.setitem(gpu.MEASURES, "transformers", succeed)
    gpu.main([*TINY, "--only", "base-128,transformers-128"])
    lines = table(capsys.readouterr().out)
    assert lines["base-128"][-1] == "failed: OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB"
    assert lines["transformers-128"] == ["2", "1-3", "38.5%", "4.0", "2.0", "700 W"]


def test_a_lost_device_leaves_the_rest_to_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(line: Line, place: Place) -> Result:
        raise RuntimeError("an illegal memory access was encountered")

    commands: list[list[str]] = []
    monkeypatch.setitem(gpu.MEASURES, "ours", fail)
    monkeypatch.setattr("benchmarks.gpu.is_lost", lambda device: True)
    monkeypatch.setattr("os.execv", lambda program, words: commands.append(words))
    gpu.main([*TINY, "--only=base-128,base-128-padded,small-128"])
    assert commands[0][1:3] == ["-m", "benchmarks.gpu"] and commands[0][-1] == "--only=small-128,base-128-padded"
    assert [word for word in commands[0] if word.startswith("--only")] == [commands[0][-1]]


def test_no_line_starts_after_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main([*TINY, "--minutes", "1e-9", "--only", "base-128*"])
    assert "left out, because the time is over: base-128, base-128" in capsys.readouterr().out


def test_quick_is_the_defaults_and_both_peers_at_128() -> None:
    quick = {line.name for line in gpu.chosen(gpu.parse(["--quick"]))}
    assert {"base-128", "base-512", "small-128", "transformers-128", "transformers-128-compiled"} == quick
    names = [line.name for line in gpu.LINES]
    assert len(names) == len(set(names))
    assert {name for name, other, _ in gpu.TARGETS} | {other for _, other, _ in gpu.TARGETS} <= {*names, "tokens/s"}
    with pytest.raises(SystemExit):
        gpu.parse(["--only", "unknown"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_bias_TNT", "matmul"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1", "matmul"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x2_tn_align8>", "matmul"),
        ("triton_tem_fused_addmm_0", "matmul"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<cutlass::bfloat16_t>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel)", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3_64x64x128", "attention"),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4, ADAM_MODE>>",
            "optimizer",
        ),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>", "GELU"),
        ("triton_poi_fused_addmm_gelu_3", "GELU"),
        ("triton_per_fused__to_copy_add_native_dropout_native_layer_norm_5", "norm, dropout, residual"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>", "norm, dropout, residual"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16>>",
            "norm, dropout, residual",
        ),
        ("void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float, float, float>", "loss"),
        ("void at::native::(anonymous namespace)::indexSelectLargeIndex<float, long>", "embedding, gather"),
        ("Memcpy HtoD (Pinned -> Device)", "copy, cast, fill"),
        ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>", "copy, cast, fill"),
        ("something new", "other"),
    ],
)
def test_kernels_have_a_kind(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_the_trace_counts_what_ran_on_the_device_alone() -> None:
    """An annotation of the host covers the kernels in it."""
    events = [
        {"ph": "X", "cat": "kernel", "name": "nvjet_a", "dur": 5.0, "ts": 1},
        {"ph": "X", "cat": "kernel", "name": "nvjet_b", "dur": 2.5, "ts": 1},
        {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD", "dur": 1, "ts": 1},
        {"ph": "X", "cat": "gpu_user_annotation", "name": "Optimizer.step#AdamW.step", "dur": 100, "ts": 1},
        {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "dur": 100, "ts": 1},
        {"ph": "M", "name": "process_name"},
    ]
    times = list(kernels_of({"traceEvents": events}))
    assert by_kind(times) == {"matmul": 7.5, "copy, cast, fill": 1.0}
    assert largest(times, "matmul", 1) == [("nvjet_a", 5.0)]


@pytest.mark.parametrize("longest", [128, 512])
def test_rows_are_those_of_the_format(longest: int) -> None:
    rows = masked(random_rows(40, longest, 500, seed=3), 500, seed=3)
    check_rows(rows, replace(FORMAT_LIMITS, vocab_size=500))
    starts, ends = rows.sequence_starts()[:-1], rows.sequence_starts()[1:] - 1
    assert (rows.input_ids[starts] == SPECIAL_IDS["cls"]).all() and (rows.input_ids[ends] == SPECIAL_IDS["sep"]).all()
    assert len(rows) == 40 and rows.sequence_lengths.max() == longest
    assert np.diff(rows.token_offsets).mean() > 0.95 * 512, "rows are packed"
    assert rows.masked_labels is not None and 0.14 < len(rows.masked_labels) / len(rows.input_ids) < 0.16


def test_lengths_are_those_of_articles(tmp_path: Path) -> None:
    """About half of the places are padding where each sequence is padded to 512."""
    manifest = write_data_set(str(tmp_path), 512, 512, 500)
    assert 0.4 < padding_share(manifest, 512) < 0.6


NEEDED = {"torch", "transformers", "safetensors", "numba", "pyarrow", "fsspec", "rich", "numpy", "pytest"}


def top_imports(path: Path) -> Iterator[str]:
    """The modules that a file imports when it is imported itself."""
    waiting = list(ast.parse(path.read_text(encoding="utf8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If | ast.Try) and "TYPE_CHECKING" not in ast.unparse(node):
            waiting += node.body


def files_of(module: str) -> Iterator[Path]:
    """The files of this repository that an import of the module reads."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        place = ROOT.joinpath(*parts[:length])
        yield from (path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file())


@pytest.mark.parametrize("start", ["benchmarks/gpu.py", "train/__main__.py"])
def test_few_packages_are_needed_on_the_machine_with_the_gpu(start: str) -> None:
    waiting, seen, others = [ROOT / start], set[Path](), set[str]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for module in top_imports(path):
            files = list(files_of(module))
            waiting += files
            if not files:
                others.add(module.partition(".")[0])
    assert len(seen) > 10 and others - set(sys.stdlib_module_names) <= NEEDED, others - set(sys.stdlib_module_names) - NEEDED
