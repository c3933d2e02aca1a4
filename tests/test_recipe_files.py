"""The recipes that are shipped, on small data sets: each trains through all its phases, with its own family of models."""

import re
from pathlib import Path

import pytest
from command_lines import lines_of, run_line
from commands import ROOT
from corpora import speeches
from datasets_of_rows import write_data_set
from launch import metrics, run

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
# Numbers of rows and steps for small runs; everything else is as in the file.
SMALL = {"steps": 3, "tokens": 900, "warmup_steps": 1, "global_batch": 4, "end_global_batch": 8, "micro_batch": 2}


def test_there_are_the_four_recipes() -> None:
    assert [path.stem for path in RECIPES] == ["albert", "bert", "modernbert", "roberta"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_through_its_phases(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    for name, number in SMALL.items():
        text = re.sub(rf"^{name} = [\d_]+", f"{name} = {number}", text, flags=re.MULTILINE)
    text = re.sub(
        r'^model = "(?:(.*)-)?base"', lambda m: f'model = "{m[1]}-tiny"' if m[1] else 'model = "tiny"', text, flags=re.MULTILINE
    )
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / path.name).write_text(text)
    for number, name in enumerate(sorted(set(re.findall(r'"\.\./data/([^"]+)"', text)))):
        pairs = path.stem in ("bert", "albert")
        write_data_set(tmp_path / "data" / name, (30,), masked=pairs, pairs=pairs, seed=number)
    code, _, err = run(0, "--recipe", tmp_path / "recipes" / path.name, "--out", tmp_path / "run", "--log-every", 1)
    assert code == 0, err
    lines = metrics(tmp_path / "run")
    num_phases = text.count("[[phase]]")
    assert {line.get("phase", 1) for line in lines} == set(range(1, num_phases + 1))
    assert all(line["loss"] is not None for line in lines)
    assert err.count("scoring") == num_phases


def test_the_guide_leads_from_a_text_to_an_export(tmp_path: Path) -> None:
    page = ROOT / "docs" / "phases.md"
    (tmp_path / "texts").mkdir()
    for path in speeches()[::40]:
        (tmp_path / "texts" / path.name).write_bytes(path.read_bytes())
    (recipe,) = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf8"), re.DOTALL)
    (tmp_path / "bert.toml").write_text(re.sub(r"^(steps|warmup_steps) = \d+", r"\1 = 3", recipe, flags=re.MULTILINE))
    done = {}
    for line in lines_of(page, "sh"):
        done[line] = run_line(line + (" --tokenizer train:600" if " build " in line else ""), tmp_path)
    (plan,) = (text for line, text in done.items() if "--dry-run" in line)
    assert "phase 2, run: 3 steps of 4 rows" in plan and "run: 6 steps in 2 phases" in plan
    assert (tmp_path / "models" / "bert" / "model.safetensors").exists()
