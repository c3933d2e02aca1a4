"""The commands of the guides and of the README, run as they stand but for fewer steps, processes and a smaller vocabulary."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import containers
from command_lines import lines_of, module_of, run_in_shell, run_line
from commands import ROOT
from corpora import speeches
from hub_server import serve

from prep.tokens.tokenizer_source import load_tokenizer

GUIDES = ROOT / "docs" / "guides.md"
SHORTER = ((r"--steps \d+", "--steps 3"), (r"train:\d+", "train:600"))


def shortened(line: str, changes: Sequence[tuple[str, str]]) -> str:
    for pattern, text in changes:
        line = re.sub(pattern, text, line)
    return line


def save_pretrained(folder: Path, vocabulary: Path) -> None:
    """A small stand-in for the model of that name on the hub: weights, configuration and tokenizer."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    tokenizer = load_tokenizer(str(vocabulary), cased=False)
    tokenizer.save(str(folder))
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 128}
    torch.manual_seed(0)
    BertForPreTraining(BertConfig(vocab_size=tokenizer.vocab_size, **sizes)).save_pretrained(folder)


def test_every_command_of_the_guides_works(tmp_path: Path, paragraphs: list[str], vocabulary: Path) -> None:
    save_pretrained(tmp_path / "bert-base-uncased", vocabulary)
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
        for line in lines_of(GUIDES, "sh"):
            short = shortened(line, SHORTER)
            if module_of(line) == "prep" and " build " in line and "--tokenizer" not in line:
                short += " --tokenizer train:600"
            # The hub's client reads its address when it is imported.
            done[line] = run_in_shell(short, tmp_path, environment) if "hf://" in line else run_line(short, tmp_path)
    (second,) = (text for command, text in done.items() if "--out data/512" in command)
    assert "kept from an earlier run" in second
    for folder in ("runs/512", "--out runs/notebook"):
        (loads,) = (text for command, text in done.items() if folder in command)
        assert "pretrained" in loads
    assert (tmp_path / "models" / "notebook" / "model.safetensors").exists() and (tmp_path / "notebook.html").exists()


README_SHORTER = (
    (r"data/mine", "data/demo"),
    (r"--nproc-per-node 8", "--nproc-per-node 2"),
    (r"--model base", "--model tiny"),
    (r"--global-batch 2048 +--micro-batch 64 +--epochs 5", "--global-batch 16 --micro-batch 8 --steps 3"),
)


def test_the_commands_of_the_readme_work(tmp_path: Path) -> None:
    """All but `make shards` and `make train` of the whole demo, and `make test`, which runs this."""
    demo = " ".join(map(str, speeches()[::25]))
    run_line(f"bert-prep build --corpus {demo} --document file --out data/demo --tokenizer train:600", tmp_path)
    modules = []
    for line in lines_of(ROOT / "README.md", ""):
        if (module := module_of(line)) and " build " not in line:
            run_line(shortened(line, README_SHORTER), tmp_path)
            modules.append(module)
    assert modules == ["prep", "prep", "prep", "train", "train.evaluate", "train.export"]


def test_make_shards_takes_a_corpus_of_ones_own(tmp_path: Path, paragraphs: list[str]) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("\n".join(paragraphs[:300]), encoding="utf8")
    (tmp_path / "wiki.jsonl.zst").write_bytes(containers.COMPRESS[".zst"](containers.jsonl(paragraphs[300:500])))
    (line,) = (line for line in lines_of(ROOT / "README.md", "") if line.startswith("make shards CORPUS"))
    line = (
        line.replace("books/", f"{tmp_path}/books/").replace("wiki", f"{tmp_path}/wiki").replace("data/mine", f"{tmp_path}/out")
    )
    line = line.replace("--copies 5", f"--copies 2 --tokenizer train:600 --scratch {tmp_path}/scratch")
    settled = f"make -o pyproject.toml -o constraints.txt VENV={sys.prefix}"  # what is installed stays as it is
    run_in_shell(line.replace("make", settled, 1), ROOT, dict(os.environ))
    assert (tmp_path / "out" / "manifest.json").exists()
