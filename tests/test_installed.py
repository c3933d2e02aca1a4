"""The wheel, installed beside its dependencies and used in a folder that has a `prep.py` and a `train.py` of its own."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import HANG_S
from conftest import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"  # setuptools writes build/ and an egg-info beside the sources
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in files.stdout.splitlines():
        if name.partition("/")[0] in ("prep", "shards", "train") or "/" not in name:
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", *options, str(copy)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the installed commands: an environment with the wheel and, from this one, its dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    programs = folder / "bin"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # A path in a .pth file is searched, but the .pth files in it are not run: the checkout stays invisible.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["pip", "--python", str(programs / "python"), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True, capture_output=True)
    return programs


@pytest.fixture
def run(programs: Path, tmp_path: Path) -> Run:
    """Runs a program of that environment in a folder whose own files have the names of our packages."""
    for name in ("prep.py", "train.py", "shards.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong file was imported')\n")

    def start(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
        command = [str(programs / program), *map(str, arguments)]
        environment["PATH"] = f"{programs}:{environment['PATH']}"
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANG_S)
        assert done.returncode == 0, done.stderr
        return done

    return start


def test_the_wheel_holds_every_module_and_the_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("prep", "shards", "train"):
        sources = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert sources <= names, sources - names
        assert f"{package}/py.typed" in names
    assert "bert_shards.py" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/")) or "__pycache__" in name]


def test_the_programs_start_beside_files_with_their_names(run: Run, tmp_path: Path) -> None:
    for program in ("bert-prep", "bert-train", "bert-evaluate", "bert-export", "bert-report"):
        assert f"usage: {program} " in run(program, "--help").stdout
    (tmp_path / "corpus.txt").write_text("One sentence. Another one.\n")
    assert "corpus.txt" in run("bert-prep", "plan", "--corpus", "corpus.txt", "--out", "set").stdout
    (tmp_path / "loop.py").write_text(
        "from bert_shards import ShardStream, UserError, open_data_set\n"
        "try:\n"
        "    ShardStream('data', global_batch=4, micro_batch=4)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    assert "data: not a finished data set" in run("python", "loop.py").stdout


def test_the_installed_command_builds(tmp_path: Path, vocabulary: Path, paragraphs: list[str]) -> None:
    """Its workers load the command itself, which `python -m prep` spares them."""
    (tmp_path / "corpus.txt").write_text("\n".join(paragraphs[:20]) + "\n")
    program = Path(sys.executable).with_name("bert-prep")
    command = [program, "build", "--corpus", "corpus.txt", "--out", "made", "--tokenizer", vocabulary, "--workers", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.long
def test_the_programs_work_beside_files_with_their_names(run: Run, tmp_path: Path, paragraphs: list[str]) -> None:
    (tmp_path / "corpus.txt").write_text("\n".join(paragraphs[:600]) + "\n")
    arguments = ("--tokenizer", "train:600", "--max-seq-len", 64, "--pack-to", 64, "--workers", 2, "--scratch", "scratch")
    run("bert-prep", "build", "--corpus", "corpus.txt", "--out", "data", *arguments)
    assert "nothing wrong" in run("bert-prep", "verify", "data", "--workers", 1).stdout
    run("bert-prep", "report", "data", "--html", "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<style>" in page and "</html>" in page

    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "--no-python", "bert-train")
    batch = ("--global-batch", 4, "--micro-batch", 2, "--steps", 2, "--model", "tiny", "--eval-every", 0)
    run("python", *launcher, "--data", "data", "--out", "runs/one", *batch)
    run("bert-export", "--checkpoint", "runs/one", "--out", "model")
    assert (tmp_path / "model" / "model.safetensors").exists()

    (tmp_path / "loop.py").write_text(
        "from bert_shards import ShardStream, open_data_set\n"
        "stream = ShardStream('data', global_batch=4, micro_batch=4)\n"
        "print(len(list(stream)), open_data_set('data').splits['train'].totals()['rows'])\n"
    )
    num_batches, num_rows = map(int, run("python", "loop.py").stdout.split())
    assert num_batches == -(-num_rows // 4)


def test_the_library_names_a_module_that_took_its_place(run: Run, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    (tmp_path / "loop.py").write_text(
        "import train\n"
        "try:\n"
        "    import bert_shards\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )  # fmt: skip
    assert "train.py is already imported as 'train'" in run("python", "loop.py").stdout
