"""The commands of the guides and of the README, run as they stand but for fewer steps, processes and a smaller vocabulary."""

import os
import re
import subprocess
import sys
from pathlib import Path

import containers
import pytest
from commands import ROOT
from corpora import speeches
from hub_server import serve

GUIDES = ROOT / "docs" / "guides.md"
SHORTER = ((r"--steps \d+", "--steps 3"), (r"train:\d+", "train:600"), (r"^torchrun", "python -m torch.distributed.run"))


def commands(page: Path, language: str) -> list[str]:
    """The lines of the page's blocks of code in that language, those that end in a backslash joined to the next."""
    parts = re.split(r"^```(\w*)\n", page.read_text(encoding="utf8"), flags=re.MULTILINE)
    blocks = [text for opened, text in list(zip(parts[1::2], parts[2::2], strict=True))[::2] if opened == language]
    return [line for block in blocks for line in block.replace("\\\n", " ").strip().split("\n")]


def run_line(command: str, folder: Path, environment: dict[str, str]) -> str:
    """What a command prints in that folder, run by the interpreter of the tests."""
    command = re.sub(r"(\.venv/bin/|\b)python\b", sys.executable, command)
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_every_command_of_the_guides_works(tmp_path: Path, paragraphs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "paragraphs.txt").write_text("\n".join(paragraphs[:800]), encoding="utf8")
    for folder in ("texts", "hub/data"):
        (tmp_path / folder).mkdir(parents=True)
    for path in speeches()[::25]:
        (tmp_path / "texts" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "hub" / "data" / "train.parquet").write_bytes(containers.parquet(paragraphs[800:1200]))
    (tmp_path / "hub" / "README.md").write_text("a card")
    done = {}
    with serve(tmp_path / "hub", "user/texts") as endpoint:
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
        for command in commands(GUIDES, "sh"):
            short = command
            for pattern, shorter in SHORTER:
                short = re.sub(pattern, shorter, short)
            if "prep build" in short and "--tokenizer" not in short:
                short += " --tokenizer train:600"
            done[command] = run_line(short, tmp_path, environment)
    (second,) = (text for command, text in done.items() if "--out data/512" in command)
    assert "kept from an earlier run" in second
    (loads,) = (text for command, text in done.items() if "runs/512" in command)
    assert "pretrained" in loads
    assert (tmp_path / "models" / "notebook" / "model.safetensors").exists() and (tmp_path / "notebook.html").exists()


README_SHORTER = (
    (r"data/mine", "data/demo"),
    (r"--nproc-per-node 8", "--nproc-per-node 2"),
    (r"--model base", "--model tiny"),
    (r"--global-batch 2048 --micro-batch 64 --epochs 5", "--global-batch 16 --micro-batch 8 --steps 3"),
    (r"^torchrun", "python -m torch.distributed.run"),
)


def test_the_commands_of_the_readme_work(tmp_path: Path, paragraphs: list[str]) -> None:
    """All but `make shards` and `make train` of the whole demo, and `make test`, which runs this."""
    demo = speeches()[::25]
    run_prep_of_demo = f"python -m prep build --corpus {' '.join(map(str, demo))} --document file --out data/demo"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run_line(f"{run_prep_of_demo} --tokenizer train:600", tmp_path, environment)
    seen = set()
    for line in commands(ROOT / "README.md", ""):
        if not line.startswith((".venv/bin/python", "python", "torchrun")):
            continue
        short = line.partition(" #")[0]
        for pattern, shorter in README_SHORTER:
            short = re.sub(pattern, shorter, short)
        run_line(short, tmp_path, environment)
        seen.add(line.split(" -m ")[1].split(" --")[0])
    assert seen == {"prep show data/demo -n 3", "prep verify data/demo", "prep report data/demo"} | {
        "train",
        "train.evaluate",
        "train.export",
    }


def test_make_shards_takes_a_corpus_of_ones_own(tmp_path: Path, paragraphs: list[str]) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("\n".join(paragraphs[:300]), encoding="utf8")
    (tmp_path / "wiki.jsonl.zst").write_bytes(containers.COMPRESS[".zst"](containers.jsonl(paragraphs[300:500])))
    (line,) = (line for line in commands(ROOT / "README.md", "") if line.startswith("make shards CORPUS"))
    line = (
        line.replace("books/", f"{tmp_path}/books/").replace("wiki", f"{tmp_path}/wiki").replace("data/mine", f"{tmp_path}/out")
    )
    line = line.replace("--copies 5", f"--copies 2 --tokenizer train:600 --scratch {tmp_path}/scratch")
    settled = f"make -o pyproject.toml -o constraints.txt VENV={sys.prefix}"  # what is installed stays as it is
    run_line(line.replace("make", settled, 1), ROOT, dict(os.environ))
    assert (tmp_path / "out" / "manifest.json").exists()
