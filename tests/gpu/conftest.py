"""Tests of what needs a GPU. They use torch, transformers, safetensors, numba, pyarrow, fsspec, rich, numpy and pytest alone.

`make test-gpu` runs them without the suite's other fixtures and packages. Their code also runs on the CPU, in `make test`.
"""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: sums on a CPU depend on it

import torch

from benchmarks.random_data import write_data_set
from gpu.on_device import GPU, VOCAB_SIZE


@pytest.fixture(params=["cpu", GPU])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and a GPU where there is one."""
    return torch.device("cuda", 0) if request.param == "cuda" else torch.device("cpu")


@pytest.fixture(params=[pytest.param("cpu", marks=[pytest.mark.long, pytest.mark.filterwarnings("default")]), GPU])
def slow_device(request: pytest.FixtureRequest) -> torch.device:
    """The same for tests that compile, or start processes: on a CPU they run in `make test-all`."""
    return torch.device("cuda", 0) if request.param == "cuda" else torch.device("cpu")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set of 64 rows of 512 tokens, with sequences of at most 128."""
    url = str(tmp_path_factory.mktemp("data"))
    write_data_set(url, 64, 128, VOCAB_SIZE)
    return url
