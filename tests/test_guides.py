"""The guides' commands, run as they stand but for fewer steps and a smaller vocabulary."""

import os
import re
import subprocess
import sys
from pathlib import Path

import containers
import pytest
from conftest import ROOT, speeches
from hub_server import serve

GUIDES = ROOT / "docs" / "guides.md"
SHORTER = ((r"--steps \d+", "--steps 3"), (r"train:\d+", "train:600"), (r"^torchrun", "python -m torch.distributed.run"))


def commands() -> list[str]:
    found = re.findall(r"```sh\n(.*?)```", GUIDES.read_text(encoding="utf8"), re.DOTALL)
    return [line for block in found for line in block.strip().split("\n")]


@pytest.mark.slow
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
        for command in commands():
            short = command
            for pattern, shorter in SHORTER:
                short = re.sub(pattern, shorter, short)
            short = re.sub(r"\bpython\b", sys.executable, short)
            if "prep build" in short and "--tokenizer" not in short:
                short += " --tokenizer train:600"
            run = subprocess.run(short, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
            done[command] = run.stdout + run.stderr
    (second,) = (text for command, text in done.items() if "--out data/512" in command)
    assert "kept from an earlier run" in second
    (loads,) = (text for command, text in done.items() if "runs/512" in command)
    assert "pretrained" in loads
    assert (tmp_path / "models" / "notebook" / "model.safetensors").exists() and (tmp_path / "notebook.html").exists()
